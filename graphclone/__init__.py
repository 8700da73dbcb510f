"""graphclone: cut an exported ONNX transformer to the shape that was asked for, verified and trainable.

>>> import graphclone as gc                                              # doctest: +SKIP
>>> model = gc.load("parent.onnx"); anatomy = gc.inspect(model)          # doctest: +SKIP
>>> plan = gc.plan(anatomy, gc.measure(model, batches), gc.Target(hidden=384, layers=15))   # doctest: +SKIP
>>> gc.save(gc.clone(model, plan), "clone.onnx")                         # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from graphclone.errors import (
    BadData,
    BadModel,
    GraphCloneError,
    InvalidTarget,
    UnsupportedGraph,
    VerificationFailed,
)
from graphclone.pipeline import (
    clone,
    from_torch,
    inspect,
    load,
    measure,
    measure_kept,
    pack,
    plan,
    save,
    to_torch,
    train,
    verify,
)
from graphclone.version import __version__

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.graph import Model
    from graphclone.plan import Plan
    from graphclone.planner import Target
    from graphclone.pytorch.training import TrainingOptions
    from graphclone.statistics.calibration import open_source
    from graphclone.statistics.store import Statistics
    from graphclone.verification import Report
    from graphclone.vocabulary import choose_tokens

__all__ = [
    "Anatomy",
    "BadData",
    "BadModel",
    "GraphCloneError",
    "InvalidTarget",
    "Model",
    "Plan",
    "Report",
    "Statistics",
    "Target",
    "TrainingOptions",
    "UnsupportedGraph",
    "VerificationFailed",
    "__version__",
    "choose_tokens",
    "clone",
    "from_torch",
    "inspect",
    "load",
    "measure",
    "measure_kept",
    "open_source",
    "pack",
    "plan",
    "save",
    "to_torch",
    "train",
    "verify",
]

_HOMES = {  # imported at first use: they bring NumPy, ONNX or more
    "Anatomy": "graphclone.anatomy.parts",
    "Model": "graphclone.graph",
    "Plan": "graphclone.plan",
    "Report": "graphclone.verification",
    "Statistics": "graphclone.statistics.store",
    "Target": "graphclone.planner",
    "TrainingOptions": "graphclone.pytorch.training",
    "choose_tokens": "graphclone.vocabulary",
    "open_source": "graphclone.statistics.calibration",
}


def __dir__() -> list[str]:
    """With the names that are imported at first use."""
    return sorted({*globals(), *_HOMES})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'graphclone' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
