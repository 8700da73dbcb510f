"""Data movement."""

from __future__ import annotations

import numpy as np

from tests.anatomy.flow_cases.case import case, floats, numbers

FIRST, LAST = np.iinfo(np.int64).min, np.iinfo(np.int64).max
CASES = [
    case("", "Shape", {"x": floats(2, 3)}),
    case("part", "Shape", {"x": floats(2, 3, 4)}, start=1, end=-1),
    case("", "Size", {"x": floats(2, 3)}),
    case("", "Transpose", {"x": floats(2, 3, 4)}, perm=[2, 0, 1]),
    case("reversed", "Transpose", {"x": floats(2, 3, 4)}),
    case("splits", "Reshape", {"x": floats(2, 12), "s": numbers(2, 3, 4)}),
    case("merges", "Reshape", {"x": floats(2, 3, 4), "s": numbers(0, -1)}),
    case("folds heads into the batch", "Reshape", {"x": floats(2, 3, 4, 5), "s": numbers(-1, 4, 5)}),
    case("regroups", "Reshape", {"x": floats(4, 6), "s": numbers(3, 8)}, {("x", 0): "some", ("x", 1): "some"}),
    case("ones", "Reshape", {"x": floats(2, 3), "s": numbers(1, 2, 1, 3, 1)}),
    case("", "Flatten", {"x": floats(2, 3, 4)}, axis=2),
    case("from the end", "Flatten", {"x": floats(2, 3, 4)}, axis=-1),
    *(case("of an empty cache", "Flatten", {}, feeds={"x": floats(2, 3, 0, 4)}, axis=axis) for axis in range(3)),
    case("", "Squeeze", {"x": floats(2, 1, 3), "axes": numbers(1)}),
    case("all", "Squeeze", {"x": floats(1, 2, 1, 3)}),
    case("", "Unsqueeze", {"x": floats(2, 3), "axes": numbers(0, -1)}),
    case("", "Slice", {"x": floats(4, 6), "s": numbers(1), "e": numbers(LAST), "a": numbers(-1), "t": numbers(2)}),
    case(
        "backwards",
        "Slice",
        {"x": floats(6), "s": numbers(LAST), "e": numbers(FIRST), "a": numbers(0), "t": numbers(-1)},
    ),
    case("no axes", "Slice", {"x": floats(4, 6), "s": numbers(1, -4), "e": numbers(3, 9)}),
    case("", "Split", {"x": floats(2, 6), "s": numbers(1, 3, 2)}, outputs=("y", "z", "w"), axis=1),
    case("in parts", "Split", {"x": floats(5, 2)}, outputs=("y", "z"), num_outputs=2),
    case(
        "",
        "Concat",
        {"a": floats(2, 3), "b": floats(2, 1), "c": floats(2, 2)},
        {(name, 0): "some" for name in "abc"},
        axis=-1,
    ),
    case("with numbers", "Concat", {"a": floats(2, 3)}, {("a", 1): "pinned"}, {"n": floats(1, 3)}, axis=0),
    case("list", "Gather", {"x": floats(4, 5), "i": numbers(3, 0, 0, -1)}, axis=1),
    case("one", "Gather", {"x": floats(4, 5), "i": np.array(2)}, {("x", 0): "pinned"}, axis=0),
    case("table", "Gather", {"x": floats(4, 5)}, {("x", 0): "pinned", ("x", 1): "some"}, {"i": numbers(3, 1)}, axis=0),
    case(
        "grid",
        "Gather",
        {"x": floats(4, 5), "i": np.array([[3, 1], [0, 2]])},
        {("x", 0): "pinned"},
        axis=0,
    ),
    case(
        "",
        "GatherElements",
        {"x": floats(2, 3), "i": np.array([[2, 0], [1, 1]])},
        {("x", 0): "pinned", ("x", 1): "pinned"},
        axis=1,
    ),
    case(
        "",
        "GatherND",
        {"x": floats(4, 3, 2), "i": np.array([[1, 0], [3, 2], [0, 1]])},
        {("x", 0): "pinned", ("x", 1): "pinned"},
    ),
    case(
        "",
        "ScatterElements",
        {"x": floats(2, 4), "i": np.array([[2, 0], [1, 3]]), "u": floats(2, 2)},
        {(name, axis): "pinned" for name in "xu" for axis in range(2)},
        axis=1,
    ),
    case(
        "of a part",
        "ScatterElements",
        {"x": floats(3, 4), "i": np.array([[2, 0], [1, 3]]), "u": floats(2, 2)},
        {(name, axis): "pinned" for name in "xu" for axis in range(2)},
        axis=1,
    ),
    case(
        "",
        "ScatterND",
        {"x": floats(4, 3), "i": np.array([[2], [0]]), "u": floats(2, 3)},
        {("x", 0): "pinned", ("u", 0): "pinned", ("x", 1): "some", ("u", 1): "some"},
    ),
    case(
        "of numbers",
        "ScatterND",
        {"x": floats(4, 3), "i": np.array([[2, 1], [0, 0]]), "u": floats(2)},
        {("x", 0): "pinned", ("x", 1): "pinned", ("u", 0): "pinned"},
    ),
    case("of one axis", "GatherND", {"x": floats(4, 3, 2), "i": np.array([[3], [0], [-2]])}),
    case("", "ConstantOfShape", {"s": numbers(2, 3)}),
    case("of sizes", "ConstantOfShape", {"s": numbers(4)}),
    case("", "Expand", {"x": floats(2, 1, 3), "s": numbers(2, 4, 1)}),
    case("in front", "Expand", {"x": floats(3), "s": numbers(2, 3)}),
    case("", "Tile", {"x": floats(2, 3), "r": numbers(1, 2)}),
    case("", "Pad", {"x": floats(2, 3), "p": numbers(0, 1, 0, 2)}, {("x", 0): "some", ("x", 1): "pinned"}),
    case(
        "of axes",
        "Pad",
        {"x": floats(2, 3), "p": numbers(1, 0), "!v": 0, "a": numbers(0)},
        {("x", 0): "pinned", ("x", 1): "some"},
    ),
    case("", "Trilu", {"x": floats(2, 3, 3)}, {("x", 0): "some", ("x", 1): "pinned", ("x", 2): "pinned"}),
]
