"""The id space against brute force: every keep-set of the final classes satisfies all that was stated."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from graphclone.anatomy.ids import ALWAYS, IdSpace, distinct, partition

KEEP_SETS = 64  # tried for each case; all of them where there are fewer


@dataclass
class Facts:
    """An id space with a record of everything that was said about it."""

    ids: IdSpace = field(default_factory=IdSpace)
    claims: list[tuple[list[list[int]], list[list[int]]]] = field(default_factory=list)  # positions: all of = all of
    pinned: list[np.ndarray] = field(default_factory=list)

    def claim(self, left, right):
        """Position by position, the conjunction of ``left`` equals that of ``right``."""
        self.claims.append(([f.tolist() for f in left], [f.tolist() for f in right]))

    def unite(self, a, b):
        self.claim([a], [b])
        self.ids.unite(a, b)

    def define(self, ids, parts):
        self.claim([ids], parts)
        self.ids.define(ids, parts)

    def same(self, first, second):
        self.claim(first, second)
        for factors in self.ids.same(first, second):
            self.pinned.extend(factors)

    def split(self, ids, shape):
        axes = self.ids.split(ids, shape)
        coordinates = np.indices(shape).reshape(len(shape), -1)
        spread = [f[coordinates[k]] for k, factors in enumerate(axes) for f in factors]
        self.claim([ids], spread)
        return axes

    def leaves(self, one):
        return {int(f[0]) for f in self.ids.resolve([np.array([one])])}

    def violated(self, rng):
        """The first claim that a keep-set of the final classes breaks, or None."""
        resolved = [self.leaves(i) for i in range(self.ids.size)]
        free = sorted(set().union(*resolved) - {ALWAYS})
        pinned = set().union(*(resolved[i] for f in self.pinned for i in f.tolist())) if self.pinned else set()
        for choice in _choices(len(free), rng):
            alive = dict(zip(free, choice, strict=True)) | dict.fromkeys(pinned, True) | {ALWAYS: True}
            lives = [all(alive[leaf] for leaf in leaves) for leaves in resolved]
            for left, right in self.claims:
                for position in range(len((left or right)[0])):
                    if all(lives[f[position]] for f in left) != all(lives[f[position]] for f in right):
                        return left, right, position, alive
        return None


def _choices(count, rng):
    if 2**count <= KEEP_SETS:
        return list(itertools.product((False, True), repeat=count))
    return [tuple(rng.random(count) < p) for p in rng.uniform(0.2, 0.95, KEEP_SETS)]


def _drawn(rng, facts, count):
    return rng.integers(0, facts.ids.size, count)


def _unite(rng, facts):
    count = int(rng.integers(1, 5))
    facts.unite(_drawn(rng, facts, count), _drawn(rng, facts, count))


def _define(rng, facts):
    count = int(rng.integers(1, 4))
    facts.define(_drawn(rng, facts, count), [_drawn(rng, facts, count) for _ in range(int(rng.integers(1, 4)))])


def _same(rng, facts):
    count = int(rng.integers(1, 7))
    first, second = ([_drawn(rng, facts, count) for _ in range(int(rng.integers(1, 4)))] for _ in range(2))
    facts.same(first, second)


def _split(rng, facts):
    shape = tuple(int(d) for d in rng.integers(1, 4, int(rng.integers(1, 4))))
    facts.split(_drawn(rng, facts, int(np.prod(shape))), shape)


STATEMENTS: tuple[Callable, ...] = (_unite, _define, _same, _split)


@pytest.mark.parametrize("seed", range(150))
def test_every_keep_set_of_the_classes_satisfies_every_fact_stated(seed):
    rng, facts = np.random.default_rng(seed), Facts()
    facts.ids.fresh(int(rng.integers(4, 14)))
    for _ in range(int(rng.integers(1, 7))):
        STATEMENTS[rng.integers(len(STATEMENTS))](rng, facts)
    assert facts.violated(rng) is None


def test_the_check_sees_a_fact_that_was_not_kept(rng):
    facts = Facts()
    a, b = facts.ids.fresh(1), facts.ids.fresh(1)
    facts.claim([a], [b])  # said, but never told to the id space
    assert facts.violated(rng) is not None


@pytest.mark.parametrize("seed", range(30))
def test_classes_are_the_transitive_closure_and_nothing_more(seed):
    rng, ids = np.random.default_rng(seed), IdSpace()
    ids.fresh(40)
    reach = np.eye(ids.size, dtype=bool)
    for _ in range(int(rng.integers(1, 8))):
        a, b = rng.integers(0, ids.size, (2, int(rng.integers(1, 6))))
        ids.unite(a, b)
        reach[a, b] = reach[b, a] = True
    for middle in range(ids.size):
        reach |= reach[:, [middle]] & reach[[middle], :]
    roots = ids.find(np.arange(ids.size))
    assert np.array_equal(roots[:, None] == roots[None, :], reach)


def test_an_axis_of_heads_by_dimensions_is_any_rectangle_of_them(rng):
    """Exact, not merely sound: 3 x 4 positions, 7 free neurons."""
    facts = Facts()
    packed = facts.ids.fresh(12)
    heads, dims = facts.split(packed, (3, 4))
    assert (len(heads), len(dims)) == (1, 1)
    assert facts.violated(rng) is None
    assert len({frozenset(facts.leaves(i)) for i in packed}) == 12
    assert len(set().union(*(facts.leaves(i) for i in packed))) == 7
    merged = np.repeat(heads[0], 4), np.tile(dims[0], 3)
    facts.same([packed], merged)
    assert len(set().union(*(facts.leaves(i) for i in packed))) == 7, "reshaping back says nothing new"


def test_definitions_that_meet_are_united_part_by_part():
    ids = IdSpace()
    a, b = ids.fresh(6), ids.fresh(6)
    (rows_a,), (columns_a,) = ids.split(a, (2, 3))
    (rows_b,), (columns_b,) = ids.split(b, (2, 3))
    ids.unite(a, b)
    assert np.array_equal(ids.find(rows_a), ids.find(rows_b))
    assert np.array_equal(ids.find(columns_a), ids.find(columns_b))
    assert np.unique(ids.find(np.concatenate([rows_a, columns_a]))).size == 5


def test_definitions_that_divide_differently_tie_what_they_must(rng):
    facts = Facts()
    packed = facts.ids.fresh(12)
    facts.split(packed, (3, 4))
    facts.split(packed, (4, 3))
    facts.split(packed, (2, 6))
    assert facts.violated(rng) is None


CIRCLES = {
    "a part is united with its whole": lambda f, a, b, c, d: (f.define(a, [b, c]), f.unite(a, b)),
    "the whole is united with its part": lambda f, a, b, c, d: (f.define(d, [b, c]), f.unite(b, d)),
    "defined by itself": lambda f, a, b, c, d: f.define(a, [a, b]),
    "by each other": lambda f, a, b, c, d: (f.define(a, [b, c]), f.define(b, [a, d])),
    "two wholes, one the other's part": lambda f, a, b, c, d: (
        f.define(a, [b, c]),
        f.define(d, [a, b]),
        f.unite(a, d),
    ),
    "through a third": lambda f, a, b, c, d: (f.define(a, [b, c]), f.define(d, [a, c]), f.unite(b, d)),
    "through the parts of parts": lambda f, a, b, c, d: (
        f.define(a, [b, c]),
        f.define(b, [c, d]),
        f.unite(a, d),
    ),
}


@pytest.mark.parametrize("circle", CIRCLES)
@pytest.mark.parametrize("order", range(4))
def test_circular_definitions_end_and_hold(circle, order, rng):
    facts = Facts()
    parts = [facts.ids.fresh(2) for _ in range(4)]
    CIRCLES[circle](facts, *np.roll(np.array(parts), order, axis=0))
    assert facts.violated(rng) is None


def test_what_always_lives_makes_its_parts_live(rng):
    facts = Facts()
    whole, a, b = (facts.ids.fresh(3) for _ in range(3))
    facts.define(whole, [a, b])
    facts.unite(whole[:1], np.array([ALWAYS]))
    assert facts.violated(rng) is None
    assert facts.leaves(a[0]) == facts.leaves(b[0]) == set()
    assert facts.leaves(whole[1]) == {int(a[1]), int(b[1])}


def test_factors_pair_by_how_they_divide_an_axis():
    ids = IdSpace()
    heads, dims = ids.fresh(2), ids.fresh(3)
    rows, columns = ids.fresh(2), ids.fresh(3)
    left = [np.repeat(heads, 3), np.tile(dims, 2)]
    right = [np.tile(columns, 2), np.repeat(rows, 3)]  # the other order
    assert ids.same(left, right) == ((), ())
    assert np.array_equal(ids.find(heads), ids.find(rows))
    assert np.array_equal(ids.find(dims), ids.find(columns))


def test_a_factor_without_a_counterpart_is_handed_back():
    ids = IdSpace()
    heads, dims, rows = ids.fresh(2), ids.fresh(3), ids.fresh(2)
    (left, right) = ids.same([np.repeat(heads, 3), np.tile(dims, 2)], [np.repeat(rows, 3)])
    assert [f.tolist() for f in left] == [np.tile(dims, 2).tolist()]
    assert right == ()


def test_a_partition_forgets_names_and_nothing_else():
    assert partition(np.array([5, 5, 9, 5])) == partition(np.array([7, 7, 2, 7]))
    assert partition(np.array([5, 5, 9, 5])) != partition(np.array([5, 9, 9, 5]))


def test_the_space_grows_past_its_first_room():
    ids = IdSpace()
    many = [ids.fresh(700) for _ in range(5)]
    ids.unite(many[0], many[4])
    assert np.array_equal(ids.find(many[4]), many[0])
    assert np.array_equal(ids.find(many[2]), many[2])


@pytest.mark.parametrize("ids", [[], [4], [1, 2, 9], [3, 3, 1, 7, 1], [5, 4], [2, 2]])
def test_distinct_ids_are_what_numpy_finds(ids):
    ids = np.array(ids, np.int64)
    expected = np.unique(ids, return_index=True, return_inverse=True)
    for found, true in zip(distinct(ids), expected, strict=True):
        assert np.array_equal(found, true)
