"""Shapes, slices, indices, sorting, and tensors made from numbers."""

from __future__ import annotations

import numpy as np
import onnx

from tests.pytorch.cases.case import Case, cases, floats, ints

X = floats(2, 3, 4)
IMAGE = floats(1, 8, 2, 3)
TO_END = (1 << 63) - 1


def _shapes() -> list[Case]:
    found = [
        *cases("Reshape", X, ints(0, -1), constant=(1,)),
        *cases("Reshape", X, ints(4, 3, 2), constant=(1,)),
        *cases("Reshape", X, ints(6, 4)),
        *cases("Transpose", X, perm=[2, 0, 1]),
        *cases("Transpose", X),
        *cases("Flatten", X, axis=2),
        *cases("Flatten", X, axis=0),
        *cases("Flatten", X, axis=-1, since=11),
        *cases("Concat", X, floats(2, 3, 1), axis=2),
        *cases("Concat", X, floats(2, 1, 4), axis=-2, since=11),
        *cases("Expand", floats(3, 1), ints(2, 3, 4), constant=(1,)),
        *cases("Expand", X, ints(3, 1), constant=(1,)),
        *cases("Expand", floats(3, 1), ints(1, 4)),
        *cases("Tile", X, ints(1, 2, 3), constant=(1,)),
        *cases("Tile", X, ints(2, 1, 1)),
        *cases("Shape", X),
        *cases("Shape", X, start=1, end=-1, since=15),
        *cases("Size", X),
        *cases("DepthToSpace", IMAGE, blocksize=2),
        *cases("DepthToSpace", IMAGE, blocksize=2, mode="CRD", since=11),
        *cases("SpaceToDepth", floats(1, 2, 4, 6), blocksize=2),
        *cases("Trilu", floats(2, 4, 4)),
        *cases("Trilu", floats(4, 5), np.int64(1), constant=(1,), upper=0),
    ]
    thin = floats(2, 1, 3, 1)
    for op, given in (("Squeeze", thin), ("Unsqueeze", X)):
        found += cases(op, given, until=11, axes=[1, 3])
        found += cases(op, given, ints(1, 3), constant=(1,), since=13)
        found += cases(op, given, ints(-1, 1), constant=(1,), since=13)
    return [*found, *cases("Squeeze", thin)]


def _slices() -> list[Case]:
    found = [
        *cases("Split", floats(2, 6), until=11, axis=1, split=[2, 4], outputs=2),
        *cases("Split", floats(2, 6), until=11, axis=-1, outputs=3),
        *cases("Split", floats(2, 6), ints(1, 5), since=13, axis=1, constant=(1,), outputs=2),
        *cases("Split", floats(2, 6), since=13, until=13, axis=1, outputs=3),
        *cases("Split", floats(2, 7), since=18, axis=1, num_outputs=3, outputs=3),
        *cases("Slice", X, until=1, starts=[1, 0], ends=[TO_END, -1], axes=[1, 2]),
    ]
    for starts, ends, axes, steps in (
        ((1, 0), (TO_END, -1), (1, 2), None),
        ((0,), (2,), (-1,), (1,)),
        ((3,), (0,), (2,), (-2,)),
        ((-1,), (-TO_END,), (1,), (-1,)),
    ):
        operands = [X, ints(*starts), ints(*ends), ints(*axes), None if steps is None else ints(*steps)]
        found += cases("Slice", *operands, since=10, constant=(1, 2, 3, 4))
    return [
        *found,
        *cases("Slice", X, ints(1), ints(3), since=10),
        *cases("Pad", X, until=2, pads=[0, 1, 2, 0, 0, 1], value=0.5),
        *cases("Pad", X, until=2, pads=[0, 0, 2, 0, 0, 1], mode="edge"),
        *cases("Pad", X, ints(0, 1, 2, 0, 0, 1), np.float32(0.5), constant=(1, 2), since=11),
        *cases("Pad", X, ints(0, 1, 2, 0, 0, 1), constant=(1,), since=11, mode="reflect"),
        *cases("Pad", X, ints(0, 0, 2, 0, 0, 1), constant=(1,), since=11, mode="edge"),
        *cases("Pad", X, ints(2, 1), None, ints(-1), constant=(1, 3), since=18),
        *cases("Pad", X, ints(2, 1), None, ints(2), constant=(1, 3), since=19, mode="wrap"),
    ]


def _indices() -> list[Case]:
    table = floats(5, 4)
    indices = ints([0, 2, 1, -1], [1, 1, 0, 2], [2, 0, 0, 1]).reshape(1, 3, 4).repeat(2, 0)
    return [
        *cases("Gather", table, ints([0, 4], [2, 2]), constant=(0,)),
        *cases("Gather", X, ints(0, 2, -1), axis=1, constant=(1,)),
        *cases("Gather", X, np.int64(-1), axis=2, constant=(1,)),
        *cases("Gather", X, ints([1, 0], [2, 2]), axis=-2),
        *cases("GatherElements", X, indices, axis=1),
        *cases("GatherND", X, ints([0, 1], [1, 2]), constant=(1,)),
        *cases("GatherND", X, ints([0, 1, -1], [1, 2, 0])),
        *cases("GatherND", X, ints([1], [0]), constant=(1,), since=12, batch_dims=1),
        *cases("ScatterND", X, ints([0, 1], [1, 2]), floats(2, 4), constant=(1,)),
        *cases("ScatterND", X, ints([0, 1], [0, 1]), floats(2, 4), constant=(1,), since=16, reduction="add"),
        *cases("ScatterND", X, ints([1, 2]), floats(1, 4), constant=(1,)),
        *cases("GatherND", X, ints([1, 2]), constant=(1,)),
        *(
            case
            for reduction in ("mul", "max", "min")
            for case in [
                *cases("ScatterND", X, ints([0, 1], [-1, 2], [0, 1]), floats(3, 4), since=18, reduction=reduction),
                *cases("ScatterND", X, ints([0, 1, -1], [0, 1, -1]), floats(2), since=18, reduction=reduction),
                *cases("ScatterND", X, ints([1], [-1]), floats(2, 3, 4, low=0.0), since=18, reduction=reduction),
            ]
        ),
        *cases("ScatterElements", X, np.argsort(X, 1), floats(2, 3, 4), axis=1),
        *cases("ScatterElements", X, ints([[0, -1]]), floats(1, 1, 2), axis=2, since=16, reduction="add"),
        *cases("ScatterElements", X, ints([[0, 0]]), floats(1, 1, 2), axis=2, since=18, reduction="max"),
        *cases("NonZero", np.array([[1.0, 0.0], [0.0, 3.0]], np.float32)),
        *cases("TopK", X, ints(2), constant=(1,), outputs=2),
        *cases("TopK", X, ints(2), constant=(1,), outputs=2, since=11, axis=1, largest=0),
        *cases("ArgMax", X, axis=1),
        *cases("ArgMax", np.ones((2, 3), np.float32), axis=1, keepdims=0, since=12, select_last_index=1),
        *cases("ArgMin", X, axis=2, keepdims=0),
        *cases("CumSum", X, np.int64(1), constant=(1,)),
        *cases("CumSum", X, np.int64(-1), constant=(1,), exclusive=1, reverse=1),
        *cases("CumSum", np.array([1, 1e10, 3, np.inf, 2], np.float32), np.int64(0), constant=(1,), exclusive=1),
        *cases("CumSum", X, np.int64(-2), constant=(1,), exclusive=1),
        *cases("CumSum", ints(1, 2, 3), np.int64(0), constant=(1,)),
        *cases("OneHot", ints(0, 2, -1, 7), np.int64(4), np.array([0.1, 0.9], np.float32), constant=(1, 2)),
        *cases("OneHot", ints([0, 2]), ints(4), np.array([0.0, 1.0], np.float32), constant=(1, 2), axis=0),
        *cases("Compress", X, np.array([True, False, True]), axis=1, constant=(1,)),
        *cases("Compress", X, np.array([True, False, True])),
    ]


def _made() -> list[Case]:
    sevens = onnx.numpy_helper.from_array(np.array([7], np.int64))
    return [
        *cases("Range", np.int64(1), np.int64(9), np.int64(2)),
        *cases("Range", np.float32(0.5), np.float32(2.0), np.float32(0.5), constant=(0, 2)),
        *cases("Range", np.int64(3), np.int64(-1), np.int64(2)),
        *cases("Range", np.int64(3), np.int64(-1), np.int64(2), constant=(2,)),
        *cases("Range", np.int64(3), np.int64(-2), np.int64(-2), constant=(2,)),
        *cases("Range", np.int64(-2), np.int64(3), np.int64(-2), constant=(2,)),
        *cases("Range", np.float32(0.5), np.float32(0.0), np.float32(0.5), constant=(0, 1, 2)),
        *cases("ConstantOfShape", ints(2, 3)),
        *cases("ConstantOfShape", ints(2, 3), value=sevens),
        *cases("EyeLike", floats(3, 4), k=1),
        *cases("EyeLike", floats(3, 3), dtype=onnx.TensorProto.INT64),
    ]


CASES = [*_shapes(), *_slices(), *_indices(), *_made()]
