"""Products, convolutions, pools."""

from __future__ import annotations

import numpy as np

from tests.anatomy.flow_cases.case import MICROSOFT, case, floats, numbers

NOTED_INNER = {("a", 1): "noted", ("b", 0): "noted"}
LINEAR_CASES = [
    case("", "MatMul", {"a": floats(2, 4), "b": floats(4, 3)}, NOTED_INNER),
    case("vectors", "MatMul", {"a": floats(4), "b": floats(4, 3)}, {("a", 0): "noted", ("b", 0): "noted"}),
    case("batched", "MatMul", {"a": floats(5, 2, 4), "b": floats(5, 4, 3)}, {("a", 2): "noted", ("b", 1): "noted"}),
    case("", "FusedMatMul", {"a": floats(2, 4), "b": floats(4, 3)}, NOTED_INNER, domain=MICROSOFT, alpha=0.5),
    case(
        "transposed",
        "FusedMatMul",
        {"a": floats(4, 2), "b": floats(3, 4)},
        {("a", 0): "noted", ("b", 1): "noted"},
        domain=MICROSOFT,
        transA=1,
        transB=1,
    ),
    case(
        "the first axis to before the last",
        "FusedMatMul",
        {"a": floats(2, 5, 4), "b": floats(3, 5, 4)},
        {("a", 2): "noted", ("b", 2): "noted"},
        domain=MICROSOFT,
        transBatchA=1,
        transBatchB=1,
        transB=1,
    ),
    case(
        "",
        "FusedGemm",
        {"a": floats(2, 4), "b": floats(4, 3), "c": floats(3)},
        NOTED_INNER,
        domain=MICROSOFT,
        activation="Tanh",
    ),
    case("", "Gemm", {"a": floats(2, 4), "b": floats(4, 3), "c": floats(3)}, NOTED_INNER),
    case(
        "transposed",
        "Gemm",
        {"a": floats(4, 2), "b": floats(3, 4), "c": floats(2, 3)},
        {("a", 0): "noted", ("b", 1): "noted"},
        transA=1,
        transB=1,
    ),
    case(
        "as in attention",
        "Einsum",
        {"a": floats(2, 3, 4), "b": floats(5, 3, 4)},
        {("a", 2): "noted", ("b", 2): "noted"},
        equation="thd,shd->hts",
    ),
]


def spatial(*names):
    return {(name, axis): "pinned" for name in names for axis in (2, 3)}


IMAGE, FILTERS = floats(2, 3, 6, 6), floats(4, 3, 3, 3)
CHANNELS = {("x", 1): "noted", ("w", 1): "noted"}
SCALED = spatial("x") | {("s", 0): "setting"}
CONV_CASES = [
    case("", "Conv", {"x": IMAGE, "w": FILTERS, "b": floats(4)}, CHANNELS | spatial("x", "w")),
    case(
        "strided", "Conv", {"x": IMAGE, "w": FILTERS}, CHANNELS | spatial("x", "w"), strides=[2, 3], pads=[1, 0, 2, 1]
    ),
    case(
        "same", "Conv", {"x": IMAGE, "w": FILTERS}, CHANNELS | spatial("x", "w"), auto_pad="SAME_UPPER", strides=[2, 2]
    ),
    case(
        "grouped",
        "Conv",
        {"x": floats(1, 4, 5, 5), "w": floats(6, 2, 3, 3), "b": floats(6)},
        {("x", 1): "pinned", ("w", 0): "pinned", ("w", 1): "pinned", ("b", 0): "pinned"} | spatial("x", "w"),
        group=2,
    ),
    case(
        "of one channel each",
        "Conv",
        {"x": floats(2, 4, 5, 5), "w": floats(4, 1, 3, 3), "b": floats(4)},
        spatial("x", "w"),
        group=4,
    ),
    case(
        "of one channel each",
        "ConvTranspose",
        {"x": floats(2, 4, 5, 5), "w": floats(4, 1, 3, 3), "b": floats(4)},
        spatial("x", "w"),
        group=4,
        strides=[2, 2],
    ),
    case(
        "two filters a channel",
        "Conv",
        {"x": floats(1, 3, 5, 5), "w": floats(6, 1, 3, 3)},
        {("x", 1): "pinned", ("w", 0): "pinned"} | spatial("x", "w"),
        group=3,
    ),
    case(
        "",
        "ConvTranspose",
        {"x": IMAGE, "w": floats(3, 4, 3, 3), "b": floats(4)},
        {("x", 1): "noted", ("w", 0): "noted", ("x", 0): "some", ("w", 1): "some"} | spatial("x", "w"),
        strides=[2, 2],
        output_padding=[1, 0],
    ),
    case(
        "of a size",
        "ConvTranspose",
        {"x": IMAGE, "w": floats(3, 4, 3, 3)},
        {("x", 1): "noted", ("w", 0): "noted"} | spatial("x", "w"),
        output_shape=[7, 8],
    ),
    case("sizes", "Resize", {"x": IMAGE, "!r": 0, "!s": 0, "sizes": numbers(2, 3, 9, 4)}, spatial("x")),
    case("scales", "Resize", {"x": IMAGE, "!r": 0, "s": np.array([1, 1, 2, 0.5], np.float32)}, SCALED),
    case("some axes", "Resize", {"x": IMAGE, "!r": 0, "!s": 0, "sizes": numbers(9, 4)}, spatial("x"), axes=[2, 3]),
    case("", "MaxPool", {"x": IMAGE}, spatial("x") | {("x", 0): "some", ("x", 1): "some"}, kernel_shape=[2, 2]),
    case(
        "rounded up",
        "MaxPool",
        {"x": IMAGE},
        spatial("x") | {("x", 0): "some", ("x", 1): "some"},
        kernel_shape=[3, 3],
        strides=[2, 2],
        ceil_mode=1,
    ),
    case("", "AveragePool", {"x": IMAGE}, spatial("x"), kernel_shape=[3, 2], strides=[2, 1]),
    case("", "GlobalAveragePool", {"x": IMAGE}, {("x", 2): "noted", ("x", 3): "noted"}),
    case("", "InstanceNormalization", {"x": IMAGE, "s": floats(3), "b": floats(3)}, spatial("x")),
]

CASES = [*LINEAR_CASES, *CONV_CASES]
