"""Assigns each call of a recorded graph to a block, attention or feed-forward of the anatomy.

A block is what depends on its entry and not on its exit. Inside it an attention is what depends on its projections of
queries, keys and values and not on what its output projection gives; a feed-forward likewise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from graphclone.anatomy.parts import Anatomy, Attention, Block, FeedForward
from graphclone.pytorch.extents import extent
from graphclone.pytorch.recognition.rewriting import calls, rank
from graphclone.pytorch.recording import HOLDS, Recording

Path = tuple[str, ...]  # ("blocks.3", "attention"); () is the model itself
GATED = "gate or up"  # one of two: the activation behind it tells which
BYTES = (torch.int8, torch.uint8)
ATTENTIONS = ("attention", "cross_attention")


@dataclass
class Placement:
    """The part that each call belongs to, and what each weight is there for."""

    paths: dict[fx.Node, Path] = field(default_factory=dict)
    roles: dict[str, str] = field(default_factory=dict)  # weight -> q, k, v, qkv, o, up, down ...
    streams: tuple[fx.Node, ...] = ()  # what enters the first block of each stack

    def flatten(self, held: Path, parts: set[Path]) -> bool:
        """Give the calls of parts to the module that holds them; the model itself has numbered blocks, so all of them.

        Returns whether that moved any.
        """
        moved = [n for n, p in self.paths.items() if p and (not held or p[: len(held) + 1] in parts)]
        self.paths |= dict.fromkeys(moved, held)
        self.streams = self.streams if held else ()
        return bool(moved)


def place(recording: Recording, anatomy: Anatomy | None) -> Placement:
    """Place every call; without an anatomy, or where a block is not found again, calls stay with the model."""
    placement = Placement()
    if anatomy is None:
        return placement
    holders = {tensor: node for node in recording.graph.nodes for tensor in node.meta.get(HOLDS, ())}
    found = [(name, b, _inside(recording, holders, b)) for name, b in _blocks(anatomy)]
    for name, _, inside in found:
        for node in inside:
            placement.paths.setdefault(node, (name,))
    firsts = [holders.get(s.blocks[0].entry) for s in anatomy.stacks]
    placement.streams = tuple(dict.fromkeys(n for n in firsts if n is not None))
    _measure_outside(recording, placement, [holders[b.exit] for _, b, inside in found if inside])
    _sink(recording, placement)
    for name, block, inside in found:
        if inside:
            _parts(recording, placement, (name,), block)
    return placement


def _blocks(anatomy: Anatomy) -> Iterator[tuple[str, Block]]:
    for stack in anatomy.stacks:
        prefix = "" if len(anatomy.stacks) == 1 else f"{stack.name}."
        for index, block in enumerate(stack.blocks):
            yield f"{prefix}blocks.{index}", block


def _inside(recording: Recording, holders: Mapping[str, fx.Node], block: Block) -> set[fx.Node]:
    """The calls between a block's entry and its exit; none where the two are not one flow any more."""
    entry, end = holders.get(block.entry), holders.get(block.exit)
    if entry is None or end is None or entry is end:
        return set()
    after = below(recording.graph.nodes, [end]) - {end}
    inside: set[fx.Node] = set()
    for node in recording.graph.nodes:
        if node.op in ("call_function", "call_method") and node not in after:
            reads = node.all_input_nodes
            if any(n in inside for n in reads) or (entry in reads and _is_tensor(node)):
                inside.add(node)
    return inside if end in inside else set()


def below(nodes: Iterable[fx.Node], starts: Iterable[fx.Node]) -> set[fx.Node]:
    """The starts and every call that depends on one; ``nodes`` in graph order."""
    found = set(starts)
    for node in nodes:
        if node.op != "output" and any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found


def above(ends: Iterable[fx.Node]) -> set[fx.Node]:
    """The ends and everything that they depend on."""
    found: set[fx.Node] = set()
    waiting = list(ends)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _is_tensor(node: fx.Node) -> bool:
    return not isinstance(node.meta.get("example"), (int, float, bool, torch.device, torch.Size))


def _measure_outside(recording: Recording, placement: Placement, ends: list[fx.Node]) -> None:
    """Sizes that are read outside the block that measured them are those of what the block gives."""
    known: dict[Any, fx.Node] = {}
    for end in ends:
        for axis in range(rank(end) or 0):
            known.setdefault(repr((placement.paths[end], extent(end, axis))), end)
    for node in [n for n in recording.graph.nodes if calls(n, "size") and n in placement.paths]:
        path, origin = placement.paths[node], extent(node.args[0], node.args[1])
        given = known.get(repr((path, origin)))
        readers = [user for user in node.users if placement.paths.get(user, ())[:1] != path[:1]]
        if given is None or not readers:
            continue
        axis = next(a for a in range(rank(given) or 0) if extent(given, a) == origin)
        with recording.graph.inserting_after(given):
            measured = recording.graph.call_method("size", (given, axis))
        measured.meta["example"] = node.meta.get("example", 1)
        for reader in readers:
            reader.replace_input_with(node, measured)


def _sink(recording: Recording, placement: Placement) -> None:
    """What is made with weights for one block alone belongs to it, such as a cross-attention's keys."""
    numbers = {name for name, table in recording.tables.items() if table.dtype not in BYTES}  # bytes are weights
    stem = above(placement.streams)
    made: set[fx.Node] = set()
    for node in recording.graph.nodes:
        if node.op == "get_attr" and str(node.target) not in numbers:
            made.add(node)
        elif node.op == "output" or node in placement.paths:
            continue
        elif any(n in made for n in node.all_input_nodes):
            made.add(node)
    for node in reversed(list(recording.graph.nodes)):
        if node in made and node.op != "get_attr" and node not in stem:
            users = {placement.paths.get(user, ()) for user in node.users}
            if len(users) == 1 and (only := next(iter(users))):
                placement.paths[node] = only


def _parts(recording: Recording, placement: Placement, path: Path, block: Block) -> None:
    nodes = [n for n in recording.graph.nodes if placement.paths.get(n) == path]
    named = {name: weight.name for weight in recording.weights for name, _ in weight.initializers}
    for name, attention in zip(ATTENTIONS, block.attention, strict=False):
        roles = _attention_roles(attention, named)
        _part(nodes, placement, (*path, name), roles, {w for w, role in roles.items() if role == "o"})
    for index, feed_forward in enumerate(block.feed_forward):
        roles = _feed_forward_roles(feed_forward, named)
        name = f"feed_forward_{index}" if index else "feed_forward"
        _part(nodes, placement, (*path, name), roles, {w for w, role in roles.items() if role == "down"})


def _attention_roles(attention: Attention, named: Mapping[str, str]) -> dict[str, str]:
    """qkv where one weight serves all three."""
    roles: dict[str, str] = {}
    for letter, names in (("q", attention.q), ("k", attention.k), ("v", attention.v)):
        for name in names:
            if name in named:
                roles[named[name]] = roles.get(named[name], "") + letter
    return roles | {named[name]: "o" for name in attention.o if name in named}


def _feed_forward_roles(feed_forward: FeedForward, named: Mapping[str, str]) -> dict[str, str]:
    up = [named[name] for name in feed_forward.up if name in named]
    word = ("gate_up" if len(up) == 1 else GATED) if feed_forward.gated else "up"
    return {**dict.fromkeys(up, word), **{named[n]: "down" for n in feed_forward.down if n in named}}


def _part(nodes: list[fx.Node], placement: Placement, path: Path, roles: dict[str, str], last: set[str]) -> None:
    """Place what lies between the readers of the first weights and those of the last."""
    readers = {n: weights & roles.keys() for n in nodes if (weights := _weights_of(n))}
    ends = [n for n, weights in readers.items() if weights & last]
    starts = [n for n, weights in readers.items() if weights - last]
    free = [n for n in nodes if placement.paths[n] == path[:-1]]
    if not ends or not starts or not set(ends) | set(starts) <= set(free):
        return
    inside = _between(free, starts, ends)
    if not _is_convex(nodes, inside):  # used again further on, or its keys and values are: one call, the first, is it
        again = _behind(nodes, ends)
        starts, ends = [n for n in starts if n not in again], [n for n in ends if n not in again]
        inside = _between(free, starts, ends)
    if not set(ends) <= inside or not _is_convex(nodes, inside):
        return
    placement.roles |= roles
    for node in inside:
        placement.paths[node] = path


def _between(free: list[fx.Node], starts: list[fx.Node], ends: list[fx.Node]) -> set[fx.Node]:
    return (below(free, starts) & set(free)) - (_behind(free, ends) - set(ends))


def _behind(nodes: list[fx.Node], ends: list[fx.Node]) -> set[fx.Node]:
    """What depends on one of the ends, other ends included."""
    found: set[fx.Node] = set()
    for node in nodes:
        if any(n in found or n in ends for n in node.all_input_nodes):
            found.add(node)
    return found


def _is_convex(nodes: list[fx.Node], inside: set[fx.Node]) -> bool:
    """Whether nothing leaves a part and comes back: it can be one call then."""
    left = below(nodes, inside) - inside
    return not any(n in left for node in inside for n in node.all_input_nodes)


def _weights_of(node: fx.Node) -> set[str]:
    """Names of what a call reads directly, or through a view of it."""
    held = {n for n in node.all_input_nodes if n.op == "get_attr"}
    for view in node.all_input_nodes:
        if view.target in ("t", "reshape", "permute"):
            held |= {n for n in view.all_input_nodes if n.op == "get_attr"}
    return {str(n.target) for n in held}
