"""Load trained weights into a transformers class and be sure that none is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphclone.errors import BadModel

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn


def load(architecture: Any, source: Path | None, **options: Any) -> nn.Module:
    """``architecture.from_pretrained``, in evaluation mode and without a randomly initialised parameter.

    transformers fills what it does not find with noise and only warns. Raises BadModel, naming the parameters, instead.
    """
    module: nn.Module
    module, report = architecture.from_pretrained(source, output_loading_info=True, **options)
    lost = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if lost:
        shown = ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        raise BadModel(f"{architecture.__name__}: no weights for {shown}; install the pinned transformers")
    return module.eval()
