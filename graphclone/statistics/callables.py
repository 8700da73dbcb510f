"""Batches from the user's own function, which is run because the user named it."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from graphclone.errors import BadData
from graphclone.statistics.reading import Array, Asked, Reading, sha256_of

NAMED = re.compile(r"(?P<file>.+\.py):(?P<function>\w+)|(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


def fits(spec: str) -> bool:
    """Whether a spec names a function: ``module:function`` or ``path/to/file.py:function``."""
    return NAMED.fullmatch(spec) is not None and not Path(spec).exists()


def open_named(spec: str, asked: Asked) -> Reading:
    """``function()`` or ``function(inputs)`` gives batches: an iterable of mappings from input name to array.

    inputs: the graph's, by name, each with ``dtype`` and ``shape`` (a number, or the name of a symbolic axis). It is
    called anew for each reading, and has to give the same batches for shards and for going on with a run.
    """
    function, file = find(spec)
    takes = len([p for p in _parameters(function, spec) if p.default is p.empty and p.kind not in (2, 4)])
    if takes > 1:
        raise BadData(f"{spec}: it wants {takes} arguments; it is called with none, or with the model's inputs")

    def batches() -> Iterator[Mapping[str, Array]]:
        try:
            held = function(dict(asked.known)) if takes else function()
            if not isinstance(held, Iterable) or isinstance(held, Mapping):
                raise BadData(f"{spec}: it gave one {type(held).__name__}, not an iterable of batches")
            for batch in held:
                if not isinstance(batch, Mapping):
                    raise BadData(f"{spec}: it gave a {type(batch).__name__}, not a mapping from input names to arrays")
                yield batch
        except (BadData, GeneratorExit):
            raise
        except Exception as reason:
            raise BadData(f"{spec}: {type(reason).__name__}: {reason} ({_line_of(reason)})") from reason

    return Reading(spec, batches, lambda: sha256_of(spec, *([file] if file else [])))


def _parameters(function: Callable[..., Any], spec: str) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise BadData(f"{spec}: what it takes cannot be told: wrap it in a Python function") from None


def find(spec: str) -> tuple[Callable[..., Any], Path | None]:
    """The function that ``module:function`` or ``file.py:function`` names, and its source's file. Raises BadData."""
    found = NAMED.fullmatch(spec)
    assert found is not None
    name = found["function"] or found["name"]
    try:
        module = _from_file(Path(found["file"])) if found["file"] else _by_name(found["module"])
    except BadData:
        raise
    except Exception as reason:
        raise BadData(f"{spec}: cannot be imported ({type(reason).__name__}: {reason})") from reason
    function = getattr(module, name, None)
    if not callable(function):
        raise BadData(f"{spec}: {module.__name__} has no function {name!r}")
    source = getattr(module, "__file__", None)
    return function, Path(source) if source else None


def _from_file(file: Path) -> Any:
    if not file.is_file():
        raise BadData(f"{file}: there is no such file")
    described = spec_from_file_location(file.stem, file)
    assert described is not None
    assert described.loader is not None
    module = module_from_spec(described)
    described.loader.exec_module(module)
    return module


def _by_name(name: str) -> Any:
    here = str(Path.cwd())  # as `python -m` finds modules
    if here not in sys.path:
        sys.path.insert(0, here)
    return import_module(name)


def _line_of(reason: BaseException) -> str:
    """Where the user's code raised."""
    place = reason.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return f"{place.tb_frame.f_code.co_filename}, line {place.tb_lineno}" if place is not None else "nowhere"
