"""Writes a tree of parts as a Python program: a class for each kind of part, and the model that holds them."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import torch
from torch import fx

from graphclone.pytorch.recording import Recording
from graphclone.pytorch.source.expressions import Unnamed, name_of
from graphclone.pytorch.source.narrow import needed
from graphclone.pytorch.source.parts import Part, Tree
from graphclone.pytorch.source.writer import Writer, attribute

MODEL = "Model"
IMPORTS = (("math.", "import math"), ("operator.", "import operator"))
CALL_OF_BLOCK = re.compile(r"^(?P<left>.*) = self\.(?P<stack>.*)\[(?P<index>\d+)\]\((?P<args>.*)\)$")


@dataclass(frozen=True)
class Program:
    """``source`` defines the class ``Model``, which takes no argument and has the tree's names."""

    source: str


def program(recording: Recording, tree: Tree) -> Program:
    """Write the program of a tree."""
    return Program(_Programmer(recording, tree).write())


class _Programmer:
    def __init__(self, recording: Recording, tree: Tree) -> None:
        self.recording, self.tree = recording, tree
        self.classes: dict[str, str] = {}  # text without its name -> name
        self.brought: dict[str, str] = {}  # functions that come along: name -> source
        self.weights = {weight.name: weight for weight in recording.weights}
        self.widened = {name: weight.computed for name, weight in self.weights.items() if weight.computed is not None}
        self.made_by: dict[int, str] = {}

    def write(self) -> str:
        arguments = [n for n in self.recording.graph.nodes if n.op == "placeholder"]
        outputs: Any = next(n for n in self.recording.graph.nodes if n.op == "output").args[0]
        for part in self.tree.root.parts():
            self._class(part)
        model = self._model(arguments, dict(outputs))
        body = [*self.brought.values(), *(text.replace("NAME", name, 1) for text, name in self.classes.items()), model]
        whole = "\n\n\n".join(text.strip("\n") for text in body)
        imports = [line for word, line in IMPORTS if word in whole]
        functional = ["import torch.nn.functional as F"] if re.search(r"\bF\.", whole) else []
        head = "\n".join([*imports, *([""] if imports else []), "import torch", *functional, "from torch import nn"])
        return f"{head}\n\n\n{whole}\n"

    def _class(self, part: Part) -> str:
        """Write the class of a part, or find the one that says the same."""
        for inner in part.parts():
            self._class(inner)
        forward = Writer(part, self._function, self.widened).forward(part.inputs)
        text = _class_text("NAME", self._constructor(part), forward.arguments, forward.lines)
        if text not in self.classes:
            self.classes[text] = _fresh(_class_name(part.name), self.classes.values())
        self.made_by[id(part)] = self.classes[text]
        return self.classes[text]

    def _model(self, arguments: list[fx.Node], outputs: Mapping[str, fx.Node]) -> str:
        forward = Writer(self.tree.root, self._function, self.widened, dict(outputs)).forward(arguments)
        lines = self._constructor(self.tree.root)
        stacks = [attribute(p.name.rpartition(".")[0]) for p in self.tree.root.parts() if "." in p.name]
        counts = {stack: stacks.count(stack) for stack in stacks}
        ties = [f"self.{_reached(a)} = self.{_reached(b)}  # one weight" for a, b in self.tree.ties]
        return _class_text(MODEL, [*lines, *ties], forward.arguments, _looped(forward.lines, counts))

    def _constructor(self, part: Part) -> list[str]:
        lines = []
        stacks = [p for p in part.parts() if "." in p.name]
        for stack, parts in groupby(sorted(stacks, key=_place), key=lambda p: p.name.rpartition(".")[0]):
            holder, *inner = stack.split(".")
            made = f"nn.ModuleList([{', '.join(self._made(parts))}])"
            lines.append(f"self.{holder} = " + (f'nn.ModuleDict({{"{inner[0]}": {made}}})' if inner else made))
        lines = [*lines, *(f"self.{p.name} = {self.made_by[id(p)]}()" for p in part.parts() if "." not in p.name)]
        listed: dict[str, list[str]] = {}
        for name, leaf in part.leaves.values():
            first, *rest = name.split(".")
            listed.setdefault(first, []).append(leaf.build)
            if not rest:
                lines.append(f"self.{name} = {leaf.build}")
        lists = {name: built for name, built in listed.items() if f"{name}.0" in {n for n, _ in part.leaves.values()}}
        lines += [f"self.{name} = nn.ModuleList([{', '.join(built)}])" for name, built in lists.items()]
        self.brought |= needed(lines)
        return [*_embeddings_first(lines), *self._own(part)]

    def _made(self, parts: Iterable[Part]) -> list[str]:
        """Equal blocks in a row as one comprehension."""
        runs = [(name, len(list(run))) for name, run in groupby(parts, key=lambda p: self.made_by[id(p)])]
        if len(runs) == 1:
            name, count = runs[0]
            return [f"{name}() for _ in range({count})"] if count > 1 else [f"{name}()"]
        return [f"*({name}() for _ in range({count}))" if count > 1 else f"{name}()" for name, count in runs]

    def _own(self, part: Part) -> list[str]:
        """Weights and tables that the part's own calls read."""
        lines = []
        for node, name in part.names.items():
            weight = self.weights.get(str(node.target))
            example = node.meta["example"]
            sizes = ", ".join(map(str, weight.shape if weight is not None else example.shape)) or "()"
            dtype = weight.dtype if weight is not None else example.dtype
            empty = f"torch.empty({sizes}" + (")" if dtype == torch.float32 else f", dtype={dtype})")
            if weight is None:
                lines.append(f'self.register_buffer("{name}", {empty}, persistent=False)')
            else:
                lines.append(f"self.{name} = nn.Parameter({empty})")
        return lines

    def _function(self, function: Any) -> str:
        """The name of a function; one without a public home comes along with its source."""
        try:
            return name_of(function)
        except Unnamed:
            name = str(function.__name__)
            source = textwrap.dedent(inspect.getsource(function))
            if self.brought.setdefault(name, source) != source:
                raise RuntimeError(f"two functions called {name}") from None  # both are graphclone's: rename one
            return name


def _place(part: Part) -> tuple[str, int]:
    stack, _, index = part.name.rpartition(".")
    return stack, int(index)


def _embeddings_first(lines: list[str]) -> list[str]:
    """In the order in which values pass through them, as near as the kinds tell."""
    early = [line for line in lines if re.match(r"self\.(\w*embedding\w*|patch\w*) = ", line)]
    late = [line for line in lines if re.match(r"self\.(norm|head)\b", line) and "ModuleList" not in line]
    norms = [line for line in lines if line.startswith("self.norm = nn.ModuleList")]
    rest = [line for line in lines if line not in early and line not in late and line not in norms]
    return [*early, *norms, *rest, *late]


def _class_name(name: str) -> str:
    """attention -> Attention; blocks.3 -> Block."""
    if "blocks." in name:
        return "Block"
    return "".join(word.capitalize() for word in re.sub(r"_\d+$", "", name).split("_"))


def _fresh(name: str, taken: Iterable[str]) -> str:
    held, number, found = {*taken, MODEL}, 1, name
    while found in held:
        number += 1
        found = f"{name}{number}"
    return found


def _class_text(name: str, constructor: list[str], arguments: Iterable[str], lines: Iterable[str]) -> str:
    text = [f"class {name}(nn.Module):"]
    if constructor:
        text += ["    def __init__(self):", "        super().__init__()"]
        text += [f"        {line}" for line in constructor]
        text.append("")
    text.append(f"    def forward({', '.join(['self', *arguments])}):")
    text += [f"        {line}" for line in lines]
    return "\n".join(text)


def _looped(lines: Iterable[str], counts: Mapping[str, int]) -> list[str]:
    """Calls of one block after the other that differ in nothing else are a loop."""
    result: list[str] = []

    def key(line: str) -> Any:
        match = CALL_OF_BLOCK.match(line)
        return (match["left"], match["stack"], match["args"]) if match else line

    for said, run in groupby(lines, key=key):
        same = list(run)
        if not isinstance(said, tuple) or len(same) == 1 or not _in_a_row(same):
            result += same
            continue
        left, stack, args = said
        first = int(CALL_OF_BLOCK.match(same[0])["index"])  # type: ignore[index]
        last = first + len(same)
        picked = "" if (first, last) == (0, counts.get(stack)) else f"[{first or ''}:{last}]"
        result += [f"for block in self.{stack}{picked}:", f"    {left} = block({args})"]
    return result


def _in_a_row(calls_of_blocks: list[str]) -> bool:
    found = [int(match["index"]) for line in calls_of_blocks if (match := CALL_OF_BLOCK.match(line))]
    return found == list(range(found[0], found[0] + len(found)))


def _reached(name: str) -> str:
    """A dotted name as Python reaches it from the model."""
    steps = name.split(".")
    text = steps[0]
    for before, step in pairwise(steps):
        dictionary = before.startswith("stack") and step == "blocks"
        text += f"[{step}]" if step.isdigit() else f'["{step}"]' if dictionary else f".{step}"
    return text


__all__ = ["MODEL", "Program", "attribute", "program"]
