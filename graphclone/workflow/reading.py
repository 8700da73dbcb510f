"""From YAML to a checked recipe: every refusal names the line, and the key that was probably meant."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from graphclone.errors import BadData, GraphCloneError, one_line
from graphclone.workflow.schema import Workflow

LARGEST = 1 << 20  # characters
MOST = 20_000  # values, aliases counted each time: a few lines of YAML can stand for billions
PREFIX = "GRAPHCLONE__"
# without those in base 60 and in base 8, which YAML 1.2 has not either: ``1:40`` is block 1 and its size
NUMBERS = {
    "tag:yaml.org,2002:int": r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$",
    "tag:yaml.org,2002:float": r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
}
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

Path_ = tuple[str | int, ...]


class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """YAML as PyYAML reads it, but for its numbers: ``NUMBERS``."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rows if tag not in NUMBERS]
    for first, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for kind_, pattern_ in NUMBERS.items():
    Loader.add_implicit_resolver(kind_, re.compile(pattern_), list("-+.0123456789"))


class BadRecipe(GraphCloneError):
    """A recipe that cannot be read, or says what no recipe says."""

    exit_code = 2


@dataclass
class _Reader:
    """YAML nodes to plain values; where each was said."""

    name: str
    environment: Mapping[str, str]
    places: dict[Path_, str] = field(default_factory=dict)
    count: int = 0

    def refuse(self, node: yaml.Node, what: str) -> BadRecipe:
        return BadRecipe(f"{self.name}, line {node.start_mark.line + 1}: {what}")

    def value(self, node: yaml.Node, path: Path_) -> Any:
        self.count += 1
        if self.count > MOST:
            raise self.refuse(node, f"more than {MOST:,} values: no recipe is that long")
        self.places.setdefault(path, f"line {node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        given = set()
        for key, held in self._pairs(node):
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                word = getattr(key, "value", None)
                quoted = f': put it in quotes, "{word}":' if isinstance(word, str) and word.isalpha() else ""
                raise self.refuse(key, f"a key is a word, not {word or key!r:.40}" + quoted)
            if (key.value, id(node)) in given:
                raise self.refuse(key, f"the key {key.value!r} is there twice")
            given.add((key.value, id(node)))
            self.places[*path, key.value] = f"line {key.start_mark.line + 1}"
            found[key.value] = self.value(held, (*path, key.value))
        return found

    def _pairs(self, node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
        """Keys and values; what ``<<`` brings in gives way to what stands here."""
        own = [pair for pair in node.value if pair[0].tag != "tag:yaml.org,2002:merge"]
        known = {key.value for key, _ in own if isinstance(key.value, str)}
        merged: dict[Any, tuple[yaml.Node, yaml.Node]] = {}
        for key, held in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for one in held.value if isinstance(held, yaml.SequenceNode) else [held]:
                    if not isinstance(one, yaml.MappingNode):
                        raise self.refuse(key, "<< takes keys and values")
                    for pair in one.value:
                        if pair[0].value not in known:
                            merged.setdefault(pair[0].value, pair)
        return [*own, *merged.values()]

    def _scalar(self, node: yaml.Node) -> Any:
        text = _VARIABLE.sub(lambda found: self._variable(node, found), node.value)
        plain = isinstance(node, yaml.ScalarNode) and node.style is None
        if text != node.value and plain:
            return scalar(text)
        if text != node.value:
            return text
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except yaml.MarkedYAMLError:
            raise self.refuse(node, f"{node.tag}: a recipe holds text, numbers, true and false alone") from None
        except ValueError as reason:
            raise self.refuse(node, _short(reason)) from None

    def _variable(self, node: yaml.Node, found: re.Match[str]) -> str:
        value = self.environment.get(found[1], found[2])
        if value is None:
            raise self.refuse(node, f"the environment has no {found[1]}: set it, or write ${{{found[1]}:-default}}")
        return value


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. folder: what its paths are relative to."""

    name: str
    folder: Path
    held: Workflow


def scalar(text: str) -> Any:
    """A plain word of YAML as a number, a truth value, a list, or itself."""
    try:
        return Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError):  # what looks like a date, and is none
        return text


def read(
    source: str, changes: Sequence[str] = (), environment: Mapping[str, str] | None = None, stdin: str | None = None
) -> Recipe:
    """A recipe from a file ("-": standard input), changed by the environment and then by ``changes``.

    changes: ``key.key=value``. environment: GRAPHCLONE__KEY__KEY=value. Raises BadRecipe, BadData for a missing file.
    """
    environment = os.environ if environment is None else environment
    name, text = _text(source, stdin)
    reader = _Reader(name, environment)
    values = _parsed(reader, text)
    for variable in sorted(environment):
        if variable.startswith(PREFIX):
            keys = variable[len(PREFIX) :].lower().split("__")
            _change(reader, values, keys, environment[variable], f"the environment's {variable}")
    for change in changes:
        dotted, equals, value = change.partition("=")
        if not equals or not dotted:
            raise BadRecipe(f"--set {change}: write it as key=value, such as targets.small.hidden=192")
        _change(reader, values, dotted.strip().split("."), value, f"--set {change}")
    try:
        held = Workflow.model_validate(values)
    except ValidationError as problem:
        raise BadRecipe(_said(reader, problem, values)) from None
    return Recipe(name, Path() if source == "-" else Path(source).parent, held)


def _text(source: str, stdin: str | None) -> tuple[str, str]:
    if source == "-":
        return "standard input", sys.stdin.read(LARGEST) if stdin is None else stdin
    path = Path(source)
    if not path.is_file():
        raise BadData(f"{path}: no such recipe" if not path.exists() else f"{path}: a folder, not a recipe")
    try:
        if path.stat().st_size > LARGEST:
            raise BadRecipe(f"{path}: {path.stat().st_size:,} bytes: no recipe is that long")
        return str(path), path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadRecipe(f"{path}: not text (a recipe is YAML in UTF-8)") from None


def _parsed(reader: _Reader, text: str) -> dict[str, Any]:
    try:
        node = yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as reason:
        line = f", line {reason.problem_mark.line + 1}" if reason.problem_mark else ""
        raise BadRecipe(f"{reader.name}{line}: not YAML ({reason.problem})") from None
    except (yaml.YAMLError, RecursionError) as reason:
        raise BadRecipe(f"{reader.name}: not YAML ({_short(reason)})") from None
    if not isinstance(node, yaml.MappingNode):
        raise BadRecipe(f"{reader.name}: a recipe is keys and values, such as `parent: model.onnx`")
    try:
        held = reader.value(node, ())
    except RecursionError:
        raise BadRecipe(f"{reader.name}: it holds itself") from None
    assert isinstance(held, dict)
    return held


def _change(reader: _Reader, values: dict[str, Any], keys: Sequence[str], value: str, where: str) -> None:
    inside: Any = values
    for depth, key in enumerate(keys):
        reader.places[tuple(keys[: depth + 1])] = where
        if depth == len(keys) - 1:
            inside[key] = scalar(value)
        else:
            if inside.get(key) is None:
                inside[key] = {}
            inside = inside[key]
            if not isinstance(inside, dict):
                raise BadRecipe(f"{where}: {'.'.join(keys[: depth + 1])} has no keys in it")


def _said(reader: _Reader, problem: ValidationError, values: Mapping[str, Any]) -> str:
    """The first faults, a clause each, in one line."""
    faults: dict[str, str] = {}
    for error in problem.errors(include_url=False):
        path = error["loc"] if error["type"] == "missing" else _path(values, error["loc"])
        where = next(reader.places[path[:n]] for n in range(len(path), -1, -1) if path[:n] in reader.places)
        faults.setdefault(f"{where} {path}", f"{where}: {_fault(path, error)}")
    listed = list(faults.values())
    more = f" (and {len(listed) - 3} more)" if len(listed) > 3 else ""
    return f"{reader.name}, {'; '.join(listed[:3])}{more}"


def _path(values: Any, loc: Sequence[str | int]) -> Path_:
    """The part of pydantic's location that stands in the file; the rest names the kinds that a value may have."""
    for depth, key in enumerate(loc):
        if not (isinstance(values, Mapping) and key in values or isinstance(values, list) and isinstance(key, int)):
            return tuple(loc[:depth])
        values = values[key]  # type: ignore[index]
    return tuple(loc)


def _fault(path: Path_, error: Mapping[str, Any]) -> str:
    shown = ".".join(map(str, path))
    if error["type"] == "extra_forbidden":
        known = sorted(_keys(path[:-1]))
        near = difflib.get_close_matches(str(path[-1]), known, 1, 0.5)
        meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        return f"no key {shown!r}; {meant}"
    if error["type"] == "missing":
        return f"{shown!r} is missing"
    said = error["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String ")
    given = error.get("input")
    return f"{shown or 'the recipe'}: {said}" + ("" if isinstance(given, Mapping | list) else f", not {given!r:.60}")


def _keys(path: Path_) -> set[str]:
    """What may stand at a place of the recipe."""
    kind: Any = Workflow
    for key in path:
        kind = kind.model_fields[str(key)].annotation if _is_section(kind) else get_args(kind)[1]
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        kind = next(one for one in kinds if _is_section(one) or get_origin(one) is dict)
    return set(kind.model_fields)


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _short(reason: BaseException) -> str:
    return one_line(reason, 200)
