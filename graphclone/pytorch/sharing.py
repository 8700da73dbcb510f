"""Takes apart initializers that an exporter merged because they were equal; weights that are tied stay one.

Exporters write equal tensors once: every zero bias, every unit gain of a fresh model is then one initializer, and would
train as one parameter. A constant weight (all elements equal) that several nodes read is therefore given to each of
them, unless the model applies the same matrices again and again (as ALBERT does), where it is tied on purpose: what
TorchScript merged there, it hands to its readers through an Identity, and these alone get one of their own. A weight of
varied numbers that is read twice is always a tie.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx_graphsurgeon as gs

from graphclone.graph import Model
from graphclone.pytorch.weights import Array, weight_map

PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "Attention", "MultiHeadAttention")
IDENTITY = "Identity"
MARK = "@"  # bias@1 is the second reader's own


def unshared(model: Model) -> Model:
    """The model with an initializer of its own for each reader of a merged weight; itself where there is none."""
    merged, tied = _merged(model)
    if not merged:
        return model
    result = Model(model.graph.copy(), model.path, dict(model.metadata), model.external_files)
    result.graph.producer_name, result.graph.producer_version = model.graph.producer_name, model.graph.producer_version
    taken = set(result.graph.tensors())
    count: dict[str, int] = defaultdict(int, dict.fromkeys(tied, 1))
    for node in result.graph.nodes:
        for index, tensor in enumerate(node.inputs):
            apart = tensor.name in merged and (tensor.name not in tied or node.op == IDENTITY)
            if isinstance(tensor, gs.Constant) and apart:
                own = count[tensor.name]
                count[tensor.name] += 1
                if own:
                    while (name := f"{tensor.name}{MARK}{own}") in taken:  # of an earlier training
                        own += 1
                    count[tensor.name] = own + 1
                    node.inputs[index] = gs.Constant(name, tensor.values)
    return result


def shared_again(model: Model) -> None:
    """Give readers whose weights are equal still the one initializer that they had, in place."""
    constants = {t.name: t for t in model.graph.tensors().values() if isinstance(t, gs.Constant)}
    for node in model.graph.nodes:
        for index, tensor in enumerate(node.inputs):
            first = constants.get(origin(tensor.name)) if isinstance(tensor, gs.Constant) else None
            if first is not None and first is not tensor and _same(first.values, tensor.values):
                node.inputs[index] = first


def origin(name: str) -> str:
    """The initializer that a reader's own was merged into."""
    head, mark, tail = name.rpartition(MARK)
    return head if mark and tail.isdigit() else name


def _same(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _merged(model: Model) -> tuple[set[str], set[str]]:
    """Constant weights with several readers; of them, those that nodes which read them directly share on purpose."""
    readers: dict[str, list[gs.Node]] = defaultdict(list)
    for node in model.graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant) and tensor.values.size > 1:
                readers[tensor.name].append(node)
    several = {name for name, nodes in readers.items() if len(nodes) > 1}
    if not several:
        return set(), set()
    weights = {name for weight in weight_map(model) for name, _ in weight.initializers}
    arrays = {name: values for name, values in model.constants().items() if name in several & weights}
    constant = {name for name, values in arrays.items() if not _varied(values)}
    if not any(a.ndim > 1 and n not in constant and _times_multiplied(readers[n]) > 1 for n, a in arrays.items()):
        return constant, set()
    through = {name for name in constant if any(node.op == IDENTITY for node in readers[name])}
    return through, {name for name in through if any(node.op != IDENTITY for node in readers[name])}


def _times_multiplied(nodes: list[gs.Node]) -> int:
    """Through the Identities by which TorchScript shares a weight, too."""
    return sum(
        _times_multiplied(list(node.outputs[0].outputs)) if node.op == IDENTITY else node.op in PRODUCTS
        for node in nodes
    )


def _varied(values: Array) -> bool:
    flat = np.asarray(values).reshape(-1)
    return bool((flat[:4096] != flat[0]).any()) or bool((flat != flat[0]).any())
