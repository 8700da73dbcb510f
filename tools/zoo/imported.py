"""What has to be true of a cell in PyTorch: the module answers as ONNX Runtime does, and goes back byte for byte."""

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
from tools.zoo.oracles import EXTENTS, difference, tolerance

RELATIVE = 1e-5  # for float32; coarser types have the zoo's own tolerance


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


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    copied = np.array(array)
    if copied.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(copied)
