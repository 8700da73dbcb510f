"""Olive's package configuration with the pass GraphClone in it: what ``olive run --package-config`` takes.

Olive discovers no passes by itself; the file given replaces its own list, so it holds all of that too.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from graphclone.requirements import FEATURES, MissingPackage

NAME, MODULE = "GraphClone", "graphclone.olive.passes.GraphClone"
ENTRY = {
    "module_path": MODULE,
    "supported_providers": ["*"],
    "supported_accelerators": ["*"],
    "supported_precisions": ["*"],
    "dataset": "dataset_optional",
    "extra_dependencies": ["graphclone"],
}


def configuration() -> dict[str, Any]:
    """The passes of the installed Olive, and this one. Raises MissingPackage where there is no Olive."""
    FEATURES["olive"].require("olive-config")
    try:
        held = json.loads(resources.files("olive").joinpath("olive_config.json").read_text(encoding="utf-8"))
        passes, extras = dict(held["passes"]), dict(held["extra_dependencies"])
    except (OSError, ValueError, KeyError, TypeError, ModuleNotFoundError) as reason:
        raise MissingPackage(
            f"olive-config: this olive-ai holds no list of passes ({type(reason).__name__}: {reason}): "
            f"pip install -U 'graphclone[olive]'"
        ) from None
    return {
        **held,
        "passes": {**passes, NAME: ENTRY},
        "extra_dependencies": {**extras, "graphclone": ["graphclone[olive]"]},
    }
