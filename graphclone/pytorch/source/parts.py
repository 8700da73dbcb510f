"""Builds the tree of modules: which part holds which calls, weights and tables, and what it is handed from outside."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from graphclone.errors import UnsupportedGraph
from graphclone.pytorch.extents import extent
from graphclone.pytorch.recognition.rewriting import calls, rank
from graphclone.pytorch.recording import Recording
from graphclone.pytorch.source.leaves import Leaf, attribute, leaves, name_of_leaf, spoken
from graphclone.pytorch.source.placement import Path, Placement
from graphclone.pytorch.weights import Weight, WeightMap


@dataclass(eq=False)
class Part:
    """A module: ``items`` are its calls and the parts it calls, in order.

    ``inputs`` come from outside, ``outputs`` are read outside. ``sizes``: a size measured outside -> the input and
    axis where it can be measured here. ``names``: what weights, tables and modules of torch.nn are called here.
    """

    path: Path
    items: list[fx.Node | Part] = field(default_factory=list)
    inputs: list[fx.Node] = field(default_factory=list)
    outputs: list[fx.Node] = field(default_factory=list)
    sizes: dict[fx.Node, tuple[fx.Node, int | None]] = field(default_factory=dict)
    leaves: dict[fx.Node, tuple[str, Leaf]] = field(default_factory=dict)
    names: dict[fx.Node, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last step of the path."""
        return self.path[-1] if self.path else ""

    def parts(self) -> Iterator[Part]:
        """The parts called here."""
        return (item for item in self.items if isinstance(item, Part))


@dataclass(frozen=True)
class Tree:
    """The whole module: its root part, what each parameter and buffer is called, and which modules share a weight."""

    root: Part
    weights: WeightMap
    tables: dict[str, str]  # buffer of the module -> table of the recording
    ties: tuple[tuple[str, str], ...]  # (parameter, the one that it is)


class _Circular(Exception):
    """Parts of one module that wait for each other."""

    def __init__(self, held: Path, parts: list[Part]) -> None:
        self.held, self.parts = held, parts


def tree(recording: Recording, placement: Placement) -> Tree:
    """Make modules of the calls of a recording, as they were placed; parts that wait for each other are taken apart."""
    while True:
        try:
            return _Maker(recording, placement).make()
        except _Circular as found:
            taken_apart = placement.flatten(found.held, {p.path for p in found.parts})
            if not taken_apart:
                names = ", ".join(".".join(p.path) for p in found.parts)
                raise UnsupportedGraph(f"the parts of the module wait for each other: {names or 'none'}") from None


class _Maker:
    def __init__(self, recording: Recording, placement: Placement) -> None:
        self.recording, self.placement = recording, placement
        self.order = {node: i for i, node in enumerate(recording.graph.nodes)}
        self.leaves = leaves(recording)
        self.weight_of = {weight.name: weight for weight in recording.weights}
        self.owned: dict[fx.Node, Path] = {}  # weights and tables read by calls, not by modules of torch.nn
        self.renamed: dict[str, str] = {}
        self.ties: list[tuple[str, str]] = []
        self.buffers: dict[str, str] = {}

    def make(self) -> Tree:
        calls_ = [n for n in self.recording.graph.nodes if n.op in ("call_function", "call_method")]
        self._own(calls_)
        root = self._part((), calls_)
        self._adopt_unread(root)
        weights = [self._renamed(weight) for weight in self.recording.weights]
        return Tree(root, WeightMap(tuple(weights), self.recording.weights.left), self.buffers, tuple(self.ties))

    def _own(self, calls_: list[fx.Node]) -> None:
        """A weight or table belongs to the part that holds all of its readers."""
        by_leaf = {w for leaf in self.leaves.values() for w in leaf.weights.values()}
        for node in self.recording.graph.nodes:
            if node.op == "get_attr" and node not in by_leaf:
                paths = [self.placement.paths.get(user, ()) for user in node.users] or [()]
                shared = 0
                while all(len(p) > shared for p in paths) and len({p[shared] for p in paths}) == 1:
                    shared += 1
                self.owned[node] = paths[0][:shared]

    def _part(self, path: Path, nodes: list[fx.Node]) -> Part:
        part = Part(path)
        here: list[fx.Node] = []
        below: dict[str, list[fx.Node]] = defaultdict(list)
        for node in nodes:
            deeper = self.placement.paths.get(node, ())[len(path) :]
            (below[deeper[0]] if deeper else here).append(node)
        children = [self._part((*path, name), inside) for name, inside in below.items()]
        part.items = self._sorted(path, here, children)
        self._bound(part, set(nodes))
        self._name(part)
        return part

    def _sorted(self, path: Path, nodes: list[fx.Node], children: list[Part]) -> list[fx.Node | Part]:
        """In an order in which everything is computed before it is read, as near to the graph's as can be."""
        maker: dict[fx.Node, Any] = {n: n for n in nodes} | {o: c for c in children for o in c.outputs}
        items: list[Any] = [*nodes, *children]
        place = {id(i): max(self.order[o] for o in i.outputs) if isinstance(i, Part) else self.order[i] for i in items}
        needs = {id(i): {id(maker[n]) for n in self._reads(i) if n in maker} - {id(i)} for i in items}
        readers: dict[int, list[int]] = defaultdict(list)
        for item, needed in needs.items():
            for one in needed:
                readers[one].append(item)
        by_id = {id(i): i for i in items}
        ready = [(place[i], i) for i, needed in needs.items() if not needed]
        heapq.heapify(ready)
        result: list[fx.Node | Part] = []
        while ready:
            _, item = heapq.heappop(ready)
            result.append(by_id[item])
            for reader in readers[item]:
                needs[reader].discard(item)
                if not needs[reader]:
                    heapq.heappush(ready, (place[reader], reader))
        if len(result) != len(items):
            waiting = {i: {m for m in needed if needs[m]} for i, needed in needs.items() if needed}
            raise _Circular(path, [c for c in children if id(c) in _cycle(waiting)])
        return result

    def _bound(self, part: Part, nodes: set[fx.Node]) -> None:
        """Find what comes from outside and what is read outside; sizes are measured here where they can be."""
        reads = dict.fromkeys(n for item in part.items for n in self._reads(item) if n not in nodes)
        mine = [n for n in reads if n.op == "get_attr" and self.owned.get(n, ()) == part.path]
        outer = [n for n in reads if n not in mine]
        if part.path:
            tensors = [n for n in outer if rank(n) and n.op != "get_attr"]
            part.sizes = {n: where for n in outer if (where := _measured(n, tensors)) is not None}
        part.inputs = [n for n in outer if n not in part.sizes]
        part.outputs = [n for n in self.order if n in nodes and any(user not in nodes for user in n.users)]

    def _reads(self, item: fx.Node | Part) -> list[fx.Node]:
        """What has to be handed to a call; a module of torch.nn has its weights already."""
        if isinstance(item, Part):
            return item.inputs
        held = self.leaves[item].weights.values() if item in self.leaves else ()
        return [n for n in item.all_input_nodes if n not in held]

    def _name(self, part: Part) -> None:
        """Names of the weights, tables and torch.nn modules that stand in this part."""
        taken: dict[str, int] = {"norm": -1} if len(part.path) == 1 else {}
        prefix = ".".join(part.path)
        for node in (i for i in part.items if isinstance(i, fx.Node) and i in self.leaves):
            leaf = self.leaves[node]
            weight = self.weight_of[str(leaf.weights["weight"].target)]
            name = _free(taken, name_of_leaf(node, leaf, part.path, self.placement, weight), part)
            part.leaves[node] = (name, leaf)
            for leaf_name, held in leaf.weights.items():
                self._call(str(held.target), f"{prefix}.{name}.{leaf_name}".lstrip("."))
        for node, path in self.owned.items():
            if path != part.path:
                continue
            key = str(node.target)
            if key in self.weight_of:
                part.names[node] = _free(taken, self._spoken(self.weight_of[key]), part)
                self._call(key, f"{prefix}.{part.names[node]}".lstrip("."))
            else:
                part.names[node] = _free(taken, _table_name(node), part)
                self.buffers[f"{prefix}.{part.names[node]}".lstrip(".")] = key

    def _spoken(self, weight: Weight) -> str:
        return spoken(weight, weight.role) if self.placement.streams else attribute(weight.name)

    def _call(self, weight: str, name: str) -> None:
        """Name a weight; under a second name it is tied."""
        if self.renamed.setdefault(weight, name) != name:
            self.ties.append((name, self.renamed[weight]))

    def _adopt_unread(self, root: Part) -> None:
        """A weight that no output needs is a parameter all the same."""
        taken = {name.split(".")[0]: 0 for name in self.renamed.values()}
        for name, weight in self.weight_of.items():
            if name not in self.renamed:
                node = self.recording.graph.get_attr(name)
                node.meta["example"] = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
                root.names[node] = _free(taken, self._spoken(weight), root)
                self._call(name, root.names[node])

    def _renamed(self, weight: Weight) -> Weight:
        return replace(weight, name=self.renamed[weight.name])


def _cycle(needs: dict[int, set[int]]) -> set[int]:
    """One cycle among items of which each waits for another."""
    item, seen = next(iter(needs)), list[int]()
    while item not in seen:
        seen.append(item)
        item = next(iter(needs[item]))
    return set(seen[seen.index(item) :])


def _measured(node: fx.Node, tensors: list[fx.Node]) -> tuple[fx.Node, int | None] | None:
    """A size that one of the tensors has too, or the device that all are on."""
    if calls(node, getattr) and node.args[1] == "device" and tensors:
        return tensors[0], None
    if not calls(node, "size"):
        return None
    wanted = extent(node.args[0], node.args[1])  # type: ignore[arg-type]
    for tensor in tensors:
        for axis in range(rank(tensor) or 0):
            if extent(tensor, axis) == wanted:
                return tensor, axis
    return None


RESERVED = frozenset(dir(torch.nn.Module())) | {"blocks"}
TABLE_NAMES = {
    torch.bool: "mask",
    torch.int64: "positions",
    torch.int32: "positions",
    torch.int8: "integers",
    torch.uint8: "integers",
}


def _table_name(node: fx.Node) -> str:
    example = node.meta["example"]
    if any(
        calls(user, torch.mul) and any(calls(u, torch.cos, torch.sin, torch.cat) for u in user.users)
        for user in node.users
    ):
        return "frequencies"
    return TABLE_NAMES.get(example.dtype, "table" if example.dim() else "number")


def _free(taken: dict[str, int], wanted: str, part: Part) -> str:
    """The norms of a block are a list; other names get a number from the second on."""
    count = taken[wanted] = taken.get(wanted, -1) + 1 if wanted in taken else 0
    if len(part.path) == 1 and wanted == "norm":
        return f"norm.{count}"
    name = f"{wanted}_{count}" if count or wanted in RESERVED else wanted
    if count and name in taken:
        return _free(taken, f"{wanted}_", part)
    return name
