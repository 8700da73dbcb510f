"""Reductions, softmax and normalisation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from graphclone.pytorch.operators.rows import CONTRIB, Call, row
from graphclone.pytorch.values import Scalar

REDUCTIONS: tuple[tuple[str, tuple[int, ...], Any], ...] = (
    ("ReduceL1", (1, 11, 13, 18), lambda x, dim, keepdim: x.abs().sum(dim, keepdim)),
    ("ReduceL2", (1, 11, 13, 18), torch.linalg.vector_norm),  # its gradient at a row of zeros is a number
    ("ReduceLogSum", (1, 11, 13, 18), lambda x, dim, keepdim: x.sum(dim, keepdim).log()),
    ("ReduceLogSumExp", (1, 11, 13, 18), torch.logsumexp),
    ("ReduceMax", (1, 11, 12, 13, 18, 20), torch.amax),
    ("ReduceMean", (1, 11, 13, 18), torch.mean),
    ("ReduceMin", (1, 11, 12, 13, 18, 20), torch.amin),
    ("ReduceSum", (1, 11, 13), torch.sum),
    ("ReduceSumSquare", (1, 11, 13, 18), lambda x, dim, keepdim: x.square().sum(dim, keepdim)),
)
BETWEEN = frozenset({torch.mean, torch.linalg.vector_norm})  # of integers there is a number between two of them


def _reduce(call: Call, function: Any, x: Any, axes: list[Scalar] | None) -> Any:
    """No axes means all of them, or none with noop_with_empty_axes (onnx ReduceSum-13). The type stays."""
    where = call.axes(axes)
    if not where and call.attr("noop_with_empty_axes", 0):
        return function(x.unsqueeze(0), dim=0, keepdim=False)
    where = where or list(range(call.rank(x)))
    if not where:
        return function(x.unsqueeze(0), dim=0, keepdim=False)
    dtype = call.dtype(x)
    wide = x.double() if function in BETWEEN and not dtype.is_floating_point else x
    reduced = function(wide, dim=where, keepdim=bool(call.attr("keepdims", 1)))
    return reduced if dtype.is_floating_point else reduced.to(dtype)


for _op, _since, _function in REDUCTIONS:
    row(_op, *_since, numbers=(1,))(lambda call, x, axes=None, f=_function: _reduce(call, f, x, axes))


@row("ReduceProd", 1, 11, 13, 18, numbers=(1,))
def reduce_prod(call: Call, x: Any, axes: list[Scalar] | None = None) -> Any:
    """torch multiplies along one axis at a time."""
    where = call.axes(axes)
    if not where and call.attr("noop_with_empty_axes", 0):
        return x
    rank, keep = call.rank(x), bool(call.attr("keepdims", 1))
    dtype = call.dtype(x)
    for axis in sorted((a % rank for a in (where or range(rank))), reverse=True):
        x = torch.prod(x, dim=axis, keepdim=keep, dtype=dtype)
    return x


def _softmax(call: Call, x: Any, function: Any) -> Any:
    """Before opset 13 everything from the axis on was one axis (onnx Softmax-11)."""
    if call.version >= 13:
        return function(x, dim=int(call.attr("axis", -1)))
    axis, rank = int(call.attr("axis", 1)), call.rank(x)
    if axis % max(rank, 1) == rank - 1:
        return function(x, dim=-1)
    return function(torch.flatten(x, axis % rank), dim=-1).reshape(call.sizes(x))


@row("Softmax", 1, 11, 13)
def softmax(call: Call, x: Any) -> Any:
    return _softmax(call, x, torch.softmax)


@row("LogSoftmax", 1, 11, 13)
def log_softmax(call: Call, x: Any) -> Any:
    return _softmax(call, x, torch.log_softmax)


@row("Hardmax", 13)
def hardmax(call: Call, x: Any) -> Any:
    axis = int(call.attr("axis", -1))
    best = torch.argmax(x, dim=axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1.0)


def _normalised_sizes(call: Call, x: Any, gain: Any) -> tuple[list[Scalar], bool]:
    """The sizes from the axis on, and whether the gain has them; they are read from it then, as its shape is fixed."""
    rank, axis = call.rank(x), int(call.attr("axis", -1))
    spanned = rank - axis % rank
    own, shape = call.sizes(x)[rank - spanned :], call.sizes(gain)
    whole = len(shape) == spanned and all(
        isinstance(n, int) and (n != 1 or (isinstance(had, int) and had == 1))
        for n, had in zip(shape, own, strict=True)
    )
    return (shape if whole else own), whole


def _known(call: Call, weight: Any) -> list[int | None]:
    return [n if isinstance(n, int) else None for n in call.sizes(weight)]


def _layer_norm(call: Call, x: Any, gain: Any, bias: Any, epsilon: float = 1e-5) -> Any:
    """A gain and a bias that are not as long as what is normalised are spread over it (onnx LayerNormalization-17)."""
    epsilon = call.attr("epsilon", epsilon)
    sizes, whole = _normalised_sizes(call, x, gain)
    alike = bias is None or _known(call, bias) == _known(call, gain)
    if whole and alike:
        return F.layer_norm(x, sizes, gain, bias, epsilon)
    scaled = F.layer_norm(x, sizes, gain, None, epsilon) if whole else F.layer_norm(x, sizes, eps=epsilon) * gain
    return scaled if bias is None else scaled + bias


def _rms_norm(call: Call, x: Any, gain: Any, epsilon: float = 1e-5) -> Any:
    epsilon = call.attr("epsilon", epsilon)
    sizes, whole = _normalised_sizes(call, x, gain)
    return F.rms_norm(x, sizes, gain, epsilon) if whole else F.rms_norm(x, sizes, eps=epsilon) * gain


@row("LayerNormalization", 17, gains=(1,), biases=(2,))
def layer_normalization(call: Call, x: Any, gain: Any, bias: Any = None) -> Any:
    """The statistics are computed in float32 (stash_type) as torch's kernels do for narrower types."""
    call.refuse_outputs({1: "Mean", 2: "InvStdDev"})
    return _layer_norm(call, x, gain, bias)


@row("RMSNormalization", 23, gains=(1,))
@row("SimplifiedLayerNormalization", 1, gains=(1,))
def rms_normalization(call: Call, x: Any, gain: Any) -> Any:
    """SimplifiedLayerNormalization is ONNX Runtime's name for it, in the default domain."""
    call.refuse_outputs({1: "InvStdVar"})
    return _rms_norm(call, x, gain)


def _skip(call: Call, x: Any, skip: Any, bias: Any) -> Any:
    total = x + skip
    return total if bias is None else total + bias


def _with_sum(call: Call, normalised: Any, total: Any) -> Any:
    """Outputs: normalised, mean, inverse deviation, sum. The statistics are for a training graph only."""
    call.refuse_outputs({1: "mean", 2: "inv_std_var"})
    return (normalised, None, None, total)[: len(call.node.outputs)]


@row("SkipLayerNormalization", 1, domain=CONTRIB, gains=(2,), biases=(3, 4))
def skip_layer_normalization(call: Call, x: Any, skip: Any, gain: Any, beta: Any = None, bias: Any = None) -> Any:
    total = _skip(call, x, skip, bias)
    normalised = _layer_norm(call, total, gain, beta, 1e-12)
    return _with_sum(call, normalised, total)


@row("SkipSimplifiedLayerNormalization", 1, domain=CONTRIB, gains=(2,), biases=(3,))
def skip_rms_normalization(call: Call, x: Any, skip: Any, gain: Any, bias: Any = None) -> Any:
    total = _skip(call, x, skip, bias)
    return _with_sum(call, _rms_norm(call, total, gain, 1e-12), total)


@row("EmbedLayerNormalization", 1, domain=CONTRIB, gains=(5,), biases=(6,))
def embed_layer_normalization(
    call: Call,
    ids: Any,
    segments: Any,
    words: Any,
    positions: Any,
    segment_table: Any = None,
    gain: Any = None,
    beta: Any = None,
    mask: Any = None,
    position_ids: Any = None,
) -> Any:
    """BERT's three embeddings and their norm; the second output counts the mask (onnxruntime contrib)."""
    if position_ids is None:
        position_ids = call.recorder.call(torch.arange, call.size(ids, 1), device=call.recorder.device).unsqueeze(0)
    total = F.embedding(ids.long(), words) + F.embedding(position_ids.long(), positions)
    if segment_table is not None:
        total = total + F.embedding(segments.long(), segment_table)
    normalised = _layer_norm(call, total, gain, beta, 1e-12)
    zeros = call.recorder.call(torch.zeros, [call.size(ids, 0)], dtype=torch.int32, device=call.recorder.device)
    lengths = zeros if mask is None else mask.sum(dim=1, dtype=torch.int32)
    return (normalised, lengths, total)[: len(call.node.outputs)]


@row("InstanceNormalization", 6, 22, gains=(1,), biases=(2,))
def instance_normalization(call: Call, x: Any, gain: Any, bias: Any) -> Any:
    """Groups of one channel: F.instance_norm refuses an image of one place."""
    return torch.group_norm(x, call.size(gain, 0), gain, bias, call.attr("epsilon", 1e-5))


@row("GroupNormalization", 21, gains=(1,), biases=(2,))
def group_normalization(call: Call, x: Any, gain: Any, bias: Any) -> Any:
    return torch.group_norm(x, int(call.attr("num_groups")), gain, bias, call.attr("epsilon", 1e-5))


@row("BatchNormalization", 9, 14, 15, gains=(1,), biases=(2,), fixed=(3, 4))
def batch_normalization(call: Call, x: Any, gain: Any, bias: Any, mean: Any, variance: Any) -> Any:
    """With the running statistics of the file, which stay as they are."""
    if call.attr("training_mode", 0) or any(call.reads(i) for i in range(1, 5)):
        raise call.refuse("exported in training mode: export the model with model.eval()")
    return F.batch_norm(x, mean, variance, gain, bias, False, 0.0, call.attr("epsilon", 1e-5))


@row("LpNormalization", 1, 22)
def lp_normalization(call: Call, x: Any) -> Any:
    axis, p = int(call.attr("axis", -1)), int(call.attr("p", 2))
    length = torch.linalg.vector_norm(x, p, dim=axis, keepdim=True)
    return x / torch.where(length == 0, 1.0, length)


@row("MeanVarianceNormalization", 9, 13)
def mean_variance_normalization(call: Call, x: Any) -> Any:
    axes = list(call.attr("axes", [0, 2, 3]))
    centred = x - x.mean(dim=axes, keepdim=True)
    return centred / (torch.sqrt(centred.square().mean(dim=axes, keepdim=True)) + 1e-9)
