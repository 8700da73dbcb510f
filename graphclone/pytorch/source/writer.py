"""Writes the forward of one part as lines of Python; what is read once is inlined where that reads well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_arg

from graphclone.pytorch.recognition.rewriting import calls
from graphclone.pytorch.source.expressions import ATOM, Expression, Reference, call, literal
from graphclone.pytorch.source.naming import Names, wanted_name
from graphclone.pytorch.source.parts import Part

LINE = 104
WIDEST, CHAIN = 74, 58  # characters of an expression, or of a chain of methods, that may stand inside another


@dataclass(frozen=True)
class Forward:
    """``arguments`` in order, and the lines of the body."""

    arguments: tuple[str, ...]
    lines: tuple[str, ...]


class Writer:
    """Writes one part; ``names(function)`` says how a function is called, ``widened`` what some weights are cast to."""

    def __init__(
        self,
        part: Part,
        names: Callable[[Any], str],
        widened: Mapping[str, torch.dtype],
        outputs: dict[str, fx.Node] | None = None,
    ) -> None:
        self.part, self.functions, self.widened, self.outputs = part, names, widened, outputs
        self.maker = {o: item for item in part.parts() for o in item.outputs}
        self.results = list(outputs.values()) if outputs is not None else list(part.outputs)
        self.inline: set[fx.Node] = set()
        self.names = Names()

    def forward(self, arguments: list[fx.Node]) -> Forward:
        """Decide what is written where it is read, then name and write the rest in order."""
        self._choose_inline()
        last = self._last_reads()
        given = [self.names.give(n, wanted_name(n, self.part, self.names.given), -1, last.get(n, 0)) for n in arguments]
        lines: list[str] = []
        for index, item in enumerate(self._statements()):
            lines.append(self._statement(index, item, last))
        lines.append(self._return())
        return Forward(tuple(given), tuple(lines))

    def _statements(self) -> list[fx.Node | Part]:
        """Everything that gets a line: sizes first where they are read from an input."""
        sizes = list(self.part.sizes)
        items = [i for i in self.part.items if self._single(i) not in self.inline]
        return [*(s for s in sizes if s not in self.inline), *items]

    def _single(self, item: fx.Node | Part) -> fx.Node | None:
        if isinstance(item, Part):
            return item.outputs[0] if len(item.outputs) == 1 else None
        return item

    def _choose_inline(self) -> None:
        """A value read once, by a call of this part, whose text is short."""
        read: Counter[fx.Node] = Counter()
        for item in self.part.items:
            read.update(self._operands(item))
        read.update(self.results)
        for item in self.part.parts():
            if "blocks." in item.name:  # blocks are handed values with names
                read.update(item.inputs)
        free = {n: Expression(n.name) for n in self.part.inputs}

        def rough(node: fx.Node) -> Expression:
            return self._expression(node, rough) if node in self.inline else free.get(node, Expression("value"))

        for item in [*self.part.sizes, *self.part.items]:
            node = self._single(item)
            if node is None or read[node] > 1 or (node in self.results and self.outputs is None):
                continue
            if calls(node, torch.split, torch.chunk, "tolist") or (isinstance(item, Part) and "blocks." in item.name):
                continue
            if len(self._expression(node, rough).text) <= (CHAIN if node.op == "call_method" else WIDEST):
                self.inline.add(node)
        self._keep_lines_short(rough)
        if self.outputs is None and len(self.results) == 1 and read[self.results[0]] == 1:
            self.inline.add(self.results[0])  # returned as it is computed

    def _keep_lines_short(self, rough: Reference) -> None:
        """Where a line grows too long, its longest operands get lines of their own."""
        for item in self.part.items:
            node = self._single(item)
            while node is not None and node not in self.inline and len(self._expression(node, rough).text) > LINE:
                inside = self._inlined_in(node)
                if not inside:
                    break
                self.inline.remove(max(inside, key=lambda n: len(self._expression(n, rough).text)))

    def _inlined_in(self, node: fx.Node) -> list[fx.Node]:
        operands = self._operands(self.maker.get(node, node))
        return [n for n in operands if n in self.inline and n not in self.part.sizes]

    def _last_reads(self) -> dict[fx.Node, int]:
        """For each value with a name, the last statement that reads it."""
        last: dict[fx.Node, int] = {}

        def note(node: fx.Node, index: int) -> None:
            if node in self.inline:
                for inner in self._operands(self.maker.get(node, node)):
                    note(inner, index)
            else:
                last[node] = index

        statements = self._statements()
        for index, item in enumerate(statements):
            for node in self._operands(item):
                note(node, index)
        for node in self.results:
            note(node, len(statements))
        return last

    def _operands(self, item: fx.Node | Part) -> list[fx.Node]:
        """Each operand as often as it is written."""
        if isinstance(item, Part):
            return list(item.inputs)
        if item in self.part.sizes:
            return [self.part.sizes[item][0]]
        read = self.part.leaves[item][1].reads if item in self.part.leaves else (item.args, item.kwargs)
        found: list[fx.Node] = []
        map_arg(read, found.append)
        return found

    def _statement(self, index: int, item: fx.Node | Part, last: dict[fx.Node, int]) -> str:
        text = self._part_call(item, self._ref) if isinstance(item, Part) else self._expression(item, self._ref).text
        made = item.outputs if isinstance(item, Part) else [item]
        targets = [self._name(n, index, last.get(n, index)) for n in made]
        return f"{', '.join(targets)} = {text}"

    def _name(self, node: fx.Node, index: int, last: int) -> str:
        source = self.maker.get(node)
        wanted = "x" if source is not None and node is source.outputs[0] else self._plain(node)
        return self.names.give(node, wanted, index, last)

    def _plain(self, node: fx.Node) -> str:
        if node in self.maker:
            return wanted_name(node, self.maker[node], {})
        wanted = wanted_name(node, self.part, self.names.given)
        return wanted.rstrip("0123456789").rstrip("_") if wanted[-1:].isdigit() else wanted

    def _ref(self, node: fx.Node) -> Expression:
        if node in self.inline:
            return self._expression(node, self._ref)
        if node in self.names.given:
            return Expression(self.names.given[node])
        return self._held(node)

    def _held(self, node: fx.Node) -> Expression:
        """A weight or table of this part."""
        wide = self.widened.get(str(node.target))
        text = f"self.{attribute(self.part.names[node])}"
        return Expression(text if wide is None else f"{text}.to({wide})")

    def _expression(self, node: fx.Node, ref: Reference) -> Expression:
        if node in self.part.sizes:
            source, axis = self.part.sizes[node]
            return Expression(f"{ref(source).text}." + ("device" if axis is None else f"size({axis})"))
        if node in self.maker:
            return Expression(self._part_call(self.maker[node], ref))
        if node in self.part.leaves:
            name, leaf = self.part.leaves[node]
            reads = ", ".join(literal(r, ref) for r in leaf.reads)
            return Expression(f"self.{attribute(name)}({reads})")
        if node.op == "get_attr":
            return self._held(node) if node in self.part.names else ref(node)
        return call(node, ref, self.functions)

    def _part_call(self, part: Part, ref: Reference) -> str:
        return f"self.{attribute(part.name)}({', '.join(ref(n).text for n in part.inputs)})"

    def _return(self) -> str:
        if self.outputs is not None:
            pairs = (f"{literal(name, self._ref)}: {self._ref(node).text}" for name, node in self.outputs.items())
            return f"return {{{', '.join(pairs)}}}"
        return f"return {', '.join(self._ref(n).text for n in self.results)}"


def attribute(name: str) -> str:
    """norm.0 as norm[0]; a stack's blocks as its dictionary keeps them."""
    first, *rest = name.split(".")
    text = first
    for step in rest:
        text += f"[{step}]" if step.isdigit() else f'["{step}"]'
    return text


__all__ = ["ATOM", "Forward", "Writer", "attribute"]
