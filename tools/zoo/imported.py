"""What has to be true of a cell in PyTorch: the module answers as ONNX Runtime does, goes back byte for byte, and every
weight that the original trains is trained, with the original's gradients.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from graphclone.feeds import tiny_feeds
from graphclone.graph import Model
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.write_back import from_torch
from graphclone.verification.sessions import open_session
from tools.zoo import exporters
from tools.zoo.columns import HEADLINE
from tools.zoo.oracles import EXTENTS, difference, tolerance
from tools.zoo.row import Row

Array = np.ndarray[Any, Any]
RELATIVE = 1e-5  # for float32; coarser types have the zoo's own tolerance
GRADIENT = 1e-4  # of the largest one: in float64, but for what an exporter casts to float32
FAINT = 1e-7  # of the largest: below it lie gradients that are zero but for rounding, such as those of a key's bias
FEW = 8  # gradients about as small as that, which rounding may lift over it
FOLDED = (
    "beit",
)  # dynamo looks rows of a weight up by constants when it exports: what it writes is no weight any more
SCALED = (("t5", "onnxsim"), ("whisper", "onnxsim"))  # onnxsim multiplies a factor behind a weight into it
NATIVE = (*HEADLINE, "opset23", "ort-basic", "ort-extended", "onnxsim", "onnxslim", "merged")  # fed as the original is


def imported(model: Model) -> str:
    """The largest relative difference over all outputs and sizes. Raises AssertionError, GraphCloneError."""
    module = to_torch(model).eval()
    names: dict[str, str] = module.meta["graphclone.inputs"]  # type: ignore[index, assignment]
    session = open_session(model, threads=1)
    worst = 0.0
    for batch, length in EXTENTS:
        feeds = tiny_feeds(model, batch, length)
        with torch.no_grad():
            answer = module(**{names[n]: _tensor(a) for n, a in feeds.items()})
        worst = max(worst, difference(session.run(feeds), {n: t.float().numpy() for n, t in answer.items()}))
    coarse = tolerance(model)
    limit = RELATIVE if coarse <= 1e-4 else coarse
    assert worst <= limit, f"to_torch differs from ONNX Runtime by {worst:.2e} (limit {limit})"
    before, after = model.constants(), from_torch(model, module).constants()
    changed = [n for n, a in before.items() if n not in after or after[n].tobytes() != a.tobytes()]
    assert not changed, f"not written back byte for byte: {', '.join(changed[:3])}"
    return f"{worst:.1e}"


def gradients(model: Model, row: Row, column: str) -> str:
    """How many numbers are trained, and how far their gradients are from the original's, of the largest.

    Exporters transpose, pack and rename weights, but never change how many numbers there are: each of the original's
    gradients has to be found among the module's, which may train what the original keeps fixed. Raises AssertionError.
    """
    parent = row.load(row.sizes, merged=column == "merged")
    parent = exporters.with_positions(parent) if column == "opset23" and row.decoder else parent
    module, original = to_torch(model).double(), as_fused(parent.module, model).double()
    names: dict[str, str] = module.meta["graphclone.inputs"]  # type: ignore[index, assignment]
    given = {n: t.double() if t.is_floating_point() else t for n, t in parent.inputs.items()}
    ours = module(**{argument: given[n] for n, argument in names.items()})
    theirs = original(**given)
    read = [t.name for t in model.graph.outputs if t.name in parent.outputs]
    found, wanted = (_gradient(answer, held, read) for answer, held in ((ours, module), (theirs, original)))
    largest = float(wanted[-1])
    asked = wanted[wanted > FAINT * largest]
    matched = _matched(found, asked, GRADIENT * largest)
    assert matched == len(asked), f"{matched} of the original's {len(asked)} gradients are found (limit {GRADIENT})"
    more = int((found > FAINT * largest).sum()) - len(asked)
    return f"{len(asked)} trained" + (f", and {more} that the original keeps fixed" if more > FEW else "")


def as_fused(original: torch.nn.Module, model: Model) -> torch.nn.Module:
    """The original as the file computes it: onnxruntime.transformers writes BiasGelu, which is by erf, for a bias and
    Gelu(approximate="tanh") too and leaves the attribute out."""
    if any(node.op == "BiasGelu" for node in model.graph.nodes):
        for holder in original.modules():
            for name, part in holder.named_children():
                if type(part).__name__ == "GELUTanh":
                    setattr(holder, name, torch.nn.GELU())
    return original


def _matched(found: Array, wanted: Array, near: float) -> int:
    """How many of some numbers have one of others to themselves that is near; both in order."""
    place, count, others = 0, 0, found.tolist()
    for number in wanted.tolist():
        while place < len(others) and others[place] < number - near:
            place += 1
        if place == len(others):
            break
        count += others[place] <= number + near
        place += others[place] <= number + near
    return count


def _gradient(answer: Any, module: torch.nn.Module, outputs: list[str]) -> Array:
    """Sizes of all gradients, in order."""
    terms = []
    for name in outputs:
        flat = answer[name].reshape(-1)
        terms.append((flat * torch.cos(torch.arange(flat.numel(), dtype=torch.float64))).sum())
    torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
    held = [p.grad.reshape(-1).abs() for p in module.parameters() if p.grad is not None]
    return np.sort(torch.cat(held).numpy())


def _tensor(array: Array) -> torch.Tensor:
    copied = np.array(array)
    if copied.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copied)
