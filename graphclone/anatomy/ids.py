"""Neuron ids: which positions of which axes must live or die together.

Every axis of every weight gets integer ids, one a position. Running the graph on ids yields two kinds of facts:

- two ids are the *same neuron* (an elementwise operator aligned them): ``unite``, a vectorised union-find;
- an id is a *conjunction* of two others (an axis of n = heads x head_dim positions was reshaped into two axes, and a
  value is always a full rectangle, so position (h, d) lives if and only if head h and dimension d live): ``define``.

An axis of a value therefore carries a list of *factors*, arrays of ids as long as the axis; a position is alive when
all its factors are. ``ALWAYS`` is the id of what is never cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphclone.anatomy.parts import Ids

ALWAYS = 0
UNDEFINED = -1
Factors = tuple[Ids, ...]


class IdSpace:
    """The ids of one trace."""

    def __init__(self) -> None:
        self.size = 1
        self._parent = np.zeros(1024, np.int64)
        self._left = np.full(1024, UNDEFINED, np.int64)
        self._right = np.full(1024, UNDEFINED, np.int64)

    def fresh(self, count: int) -> Ids:
        """``count`` new ids, each its own class."""
        start, self.size = self.size, self.size + count
        if self.size > self._parent.size:
            room = max(self.size, 2 * self._parent.size) - self._parent.size
            self._parent = np.concatenate([self._parent, np.zeros(room, np.int64)])
            self._left = np.concatenate([self._left, np.full(room, UNDEFINED, np.int64)])
            self._right = np.concatenate([self._right, np.full(room, UNDEFINED, np.int64)])
        ids = np.arange(start, self.size, dtype=np.int64)
        self._parent[ids] = ids
        return ids

    def trim(self) -> None:
        """Give back the room that was made for more: a trace is kept as long as its anatomy."""
        self._parent = self._parent[: self.size].copy()  # one at a time, as each is large
        self._left = self._left[: self.size].copy()
        self._right = self._right[: self.size].copy()

    def find(self, ids: Ids) -> Ids:
        """The representative of each id (pointer jumping, with path compression)."""
        root = self._parent[ids]
        above = self._parent[root]
        if (above == root).all():  # nearly always
            return root
        while not (above == root).all():
            root, above = above, self._parent[above]
        self._parent[ids] = root
        return root

    def unite(self, first: Ids, second: Ids) -> None:
        """Declare first[i] and second[i] the same neuron; conjunctions that meet are united part by part.

        A conjunction that comes to contain itself is united with its parts: stricter, never wrong.
        """
        queue = [(first, second)]
        met: list[Ids] = []
        while queue:
            a, b = queue.pop()
            while True:
                a, b = self.find(a), self.find(b)
                differ = a != b
                if not differ.any():
                    break
                a, b = a[differ], b[differ]
                # one parent a round for each root; what is left over meets again in the next round
                high, where, _ = distinct(np.maximum(a, b))
                self._parent[high] = np.minimum(a, b)[where]
                queue.extend(self._carry_definitions(high))
                met.append(high)
            if not queue and met:
                circular = self._circular(self.find(np.concatenate(met)))
                queue += [(circular, self._left[circular]), (circular, self._right[circular])]
                self._left[circular] = UNDEFINED
                met.clear()

    def _circular(self, roots: Ids) -> Ids:
        """Among ``roots`` and what they are made of: the conjunctions that contain themselves, or lie between such."""
        seen = frontier = distinct(roots[self._left[roots] != UNDEFINED])[0]
        if not seen.size:
            return seen
        while frontier.size:
            below = self.find(np.concatenate([self._left[frontier], self._right[frontier]]))
            below = below[self._left[below] != UNDEFINED]
            if not below.size:  # nearly always: nothing but neurons lies below
                break
            frontier = np.setdiff1d(below, seen)
            seen = np.union1d(seen, frontier)
        left, right = self.find(self._left[seen]), self.find(self._right[seen])
        if not (self._left[left] != UNDEFINED).any() and not (self._left[right] != UNDEFINED).any():
            return seen[:0]
        while True:  # peel what has no conjunction below it, or none above it
            inner = np.isin(left, seen) | np.isin(right, seen)
            inner &= np.isin(seen, left) | np.isin(seen, right)
            if inner.all():
                return seen
            seen, left, right = seen[inner], left[inner], right[inner]

    def _carry_definitions(self, merged: Ids) -> list[tuple[Ids, Ids]]:
        """Move the conjunctions of roots that are roots no more; return what has to be united for it."""
        carried = merged[self._left[merged] != UNDEFINED]
        if not carried.size:
            return []
        root = self.find(carried)
        free = (self._left[root] == UNDEFINED) & (root != ALWAYS)
        self._left[root[free]] = self._left[carried[free]]
        self._right[root[free]] = self._right[carried[free]]
        always = root == ALWAYS  # a conjunction that always holds: so do both parts
        left = np.where(always, ALWAYS, self._left[root])
        right = np.where(always, ALWAYS, self._right[root])
        return [(self._left[carried], left), (self._right[carried], right)]

    def define(self, ids: Ids, parts: Sequence[Ids]) -> None:
        """Declare ids[i] alive exactly when every parts[k][i] is."""
        if len(parts) == 1:
            self.unite(ids, parts[0])
            return
        conjunction = self.fresh(ids.size)
        self._left[conjunction] = parts[0]
        if len(parts) == 2:
            self._right[conjunction] = parts[1]
        else:
            rest = self.fresh(ids.size)
            self.define(rest, parts[1:])
            self._right[conjunction] = rest
        self.unite(ids, conjunction)

    def resolve(self, factors: Sequence[Ids]) -> Factors:
        """Factors as roots without definition: conjunctions opened, what always lives left out, repeats once."""
        found: list[Ids] = []
        stack = list(reversed(factors))
        while stack:
            root = self.find(stack.pop())
            defined = self._left[root] != UNDEFINED
            if defined.any():
                stack.append(np.where(defined, self._right[root], ALWAYS))
                stack.append(np.where(defined, self._left[root], root))
            elif root.any() and not any(np.array_equal(root, other) for other in found):
                found.append(root)
        return tuple(found)

    def same(self, first: Sequence[Ids], second: Sequence[Ids]) -> tuple[Factors, Factors]:
        """Two aligned axes live and die together. Returns the factors of each that found no counterpart.

        Factors pair up when they divide the positions alike; one factor against several becomes their conjunction.

        Six columns of a weight meet an axis of 2 heads x 3 dimensions: column 4 is head 1 and dimension 1.

        >>> space = IdSpace()
        >>> columns, heads, dims = space.fresh(6), space.fresh(2), space.fresh(3)
        >>> space.same([columns], [np.repeat(heads, 3), np.tile(dims, 2)])
        ((), ())
        >>> [int(factor[4]) for factor in space.resolve([columns])] == [heads[1], dims[1]]
        True
        """
        left, right = list(self.resolve(first)), list(self.resolve(second))
        by_partition = {partition(f): f for f in reversed(right)}
        rest: list[Ids] = []
        for factor in left:
            partner = by_partition.pop(partition(factor), None)
            if partner is None:
                rest.append(factor)
            else:
                self.unite(factor, partner)
                right = [f for f in right if f is not partner]
        if not rest or not right:
            return tuple(rest), tuple(right)
        if len(rest) == 1:
            self._define_with_repeats(rest[0], right)
        elif len(right) == 1:
            self._define_with_repeats(right[0], rest)
        else:
            # several against several, divided differently: tie them all, which is stricter than needed, never wrong
            for factor in rest + right[1:]:
                self.unite(right[0], factor)
        return (), ()

    def _define_with_repeats(self, ids: Ids, parts: Sequence[Ids]) -> None:
        roots, first, inverse = distinct(self.find(ids))
        for part in parts:
            self.unite(part, part[first][inverse])
        self.define(roots, [part[first] for part in parts])

    def split(self, ids: Ids, shape: tuple[int, ...]) -> list[Factors]:
        """Factors of an axis as it is reshaped into several: one list per new axis."""
        axes: list[list[Ids]] = [[] for _ in shape]
        for factor in self.resolve([ids]):
            grid = factor.reshape(shape)
            varying = [k for k in range(len(shape)) if (grid != grid.take([0], axis=k)).any()]
            if len(varying) > 1:
                grid = self._split_grid(grid, varying, axes)
                continue
            widest = int(np.argmax(shape))
            axis = varying[0] if varying else widest
            index = tuple(slice(None) if k == axis else 0 for k in range(len(shape)))
            axes[axis].append(grid[index])
        return [tuple(factors) for factors in axes]

    def _split_grid(self, grid: Ids, varying: list[int], axes: list[list[Ids]]) -> Ids:
        coordinates = np.indices(grid.shape)
        flat = grid.reshape(-1)
        _, first, inverse = distinct(flat)
        parts = []
        for k in varying:
            factor = self.fresh(grid.shape[k])
            part = factor[coordinates[k].reshape(-1)]
            self.unite(part, part[first][inverse])
            axes[k].append(factor)
            parts.append(part)
        self.define(flat[first], [part[first] for part in parts])
        return grid


def partition(factor: Ids) -> bytes:
    """How a factor divides its positions, whatever its ids are called."""
    _, first, inverse = distinct(factor)
    return bytes(np.argsort(np.argsort(first))[inverse].astype(np.int64).data)


def distinct(ids: Ids) -> tuple[Ids, Ids, Ids]:
    """Its ids, sorted, where each stands first, and for every position which of them it holds.

    Nearly all that are asked for are sorted already, as ids are given out in order, and then are their own answer.
    """
    if (ids[1:] > ids[:-1]).all():
        places = np.arange(ids.size)
        return ids, places, places
    values, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return values, first, inverse
