"""Which node of the parent is a node of the clone? By the names of what they make.

Copies of repeated blocks have ``_again`` behind theirs; caches are numbered anew where blocks or attentions are gone;
and a table that is picked from, or a product that is multiplied behind, has the name that its reader expects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_graphsurgeon as gs

from graphclone.graph import Model
from graphclone.verification.claims import Claims

AGAIN = re.compile(r"_again\d+$")
NUMBER = re.compile(r"\d+")
BEHIND = {"Gather": "", "Mul": "paper"}  # nodes put behind another, by a constant -> the method that does so
DROPS = ("drop_blocks", "drop_attention", "drop_feed_forward")


class Twins:
    """``drops``, ``repeats``: may blocks be gone, or there more than once? ``inserted``: nodes put behind others."""

    def __init__(self, parent: Model, clone: Model, claims: Claims) -> None:
        self.drops = any(any(getattr(claims.plan, field).values()) for field in DROPS)
        self.repeats = any(claims.plan.repeat_blocks.values())
        self.names = parent.graph.tensors()
        self.makers = {t.name: node for node in parent.graph.nodes for t in node.outputs if t.name}
        self.made = {self.plain(t.name) for node in clone.graph.nodes for t in node.outputs if t.name}
        before, after = parent.graph, clone.graph
        self.outer = {t.name for t in (*before.inputs, *before.outputs, *after.inputs, *after.outputs)}
        self.outputs = {t.name for t in after.outputs}
        for node in after.nodes if self.drops else ():  # an output keeps its name where its block is gone
            if node.op == "Identity" and getattr(self.makers.get(node.outputs[0].name), "op", "") != "Identity":
                self.made.discard(node.outputs[0].name)
        self.series: dict[str, list[gs.Node]] = {}
        for tensor in before.outputs:
            if tensor.name in self.makers:
                self.series.setdefault(NUMBER.sub("#", tensor.name), []).append(self.makers[tensor.name])
        self.aliases: dict[str, str] = {}
        self.inserted: set[int] = set()
        for node in reversed(after.nodes):  # readers before makers
            if self._is_behind(node, claims):
                self.inserted.add(id(node))
                self.aliases[node.inputs[0].name] = self.of(node.outputs[0].name)

    def plain(self, name: str) -> str:
        """Without what says that it is a copy's."""
        while name not in self.names and AGAIN.search(name):
            name = AGAIN.sub("", name)
        return name

    def of(self, name: str) -> str:
        """The parent's name of a value, where it has one."""
        return self.aliases.get(name) or self.plain(name)

    def _is_behind(self, node: gs.Node, claims: Claims) -> bool:
        if node.op not in BEHIND or len(node.inputs) != 2 or not isinstance(node.inputs[1], gs.Constant):
            return False
        claim, given = claims.slices.get(node.inputs[1].name), node.inputs[0]
        unknown = bool(given.inputs) and self.plain(given.name) not in self.names
        known = unknown and len(given.outputs) == 1 and self.of(node.outputs[0].name) in self.makers
        return known and claim is not None and claim.shape_constant and BEHIND[node.op] in claims.method

    def twins(self, node: gs.Node) -> list[gs.Node]:
        """The parent's nodes that it may be: several for one that makes nothing but a cache with another number."""
        names = [t.name for t in node.outputs if t.name]
        inner = [name for name in names if not self._renumbered(name)]
        found = [self.makers[self.of(name)] for name in inner if self.of(name) in self.makers]
        if found or inner:
            return found[:1]
        return [twin for name in names for twin in self.series.get(NUMBER.sub("#", self.of(name)), ())]

    def _renumbered(self, name: str) -> bool:
        return (self.drops or self.repeats) and name in self.outputs and bool(NUMBER.search(name))

    def is_copy(self, node: gs.Node) -> bool:
        """Of a repeated block, or the block that a copy took its output's name from."""
        return any(self.plain(t.name) != t.name or t.name in self.outputs for t in node.outputs if t.name)

    def same_value(self, new: gs.Tensor, old: gs.Tensor, reader: gs.Node) -> bool:
        """May a node read this where its twin reads that? Where something was dropped, what is not there any more was
        one with something before it; a copy reads what the block before it made."""
        name = self.of(new.name)
        if name == old.name:
            return True
        outer = name in self.outer and old.name in self.outer and (self.drops or self.repeats)
        if outer or (self.drops and (reader.op == "Shape" or old.name not in self.made)):
            return True
        return self.repeats and (self.is_copy(reader) or old.name not in self.made)


def read_by(node: gs.Node) -> Iterator[tuple[gs.Node, int]]:
    """Nodes that read what a node makes, and where."""
    for tensor in node.outputs:
        for reader in tensor.outputs:
            yield from ((reader, place) for place, given in enumerate(reader.inputs) if given is tensor)
