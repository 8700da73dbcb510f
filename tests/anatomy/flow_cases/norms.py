"""Reductions and normalisations."""

from __future__ import annotations

from graphclone.anatomy.flows.norms import REDUCTIONS
from tests.anatomy.flow_cases.case import case, floats, numbers, positive
from tests.anatomy.flow_cases.linear import IMAGE

NORMALISED = {("x", 2): "noted"}
CASES = [
    *(
        case(
            "",
            op,
            {"x": positive(2, 3, 4), "axes": numbers(1)},
            {("x", 1): "noted"}
            | (dict.fromkeys([("x", 0), ("x", 2)], "some") if op in ("ReduceMax", "ReduceMin") else {}),
            keepdims=keep,
        )
        for op in REDUCTIONS
        for keep in (0, 1)
    ),
    case("of all", "ReduceSum", {"x": floats(2, 3)}, {("x", 0): "noted", ("x", 1): "noted"}),
    case("", "ArgMax", {"x": floats(2, 3)}, {("x", 1): "pinned"}, axis=1),
    case("", "ArgMin", {"x": floats(2, 3)}, {("x", 1): "pinned"}, axis=1, keepdims=0),
    case("", "TopK", {"x": floats(2, 5), "k": numbers(2)}, {("x", 1): "pinned"}, outputs=("y", "i")),
    case(
        "",
        "LayerNormalization",
        {"x": floats(2, 3, 4), "g": floats(4), "b": floats(4)},
        NORMALISED,
        outputs=("y", "m", "d"),
    ),
    case(
        "over two axes",
        "LayerNormalization",
        {"x": floats(2, 3, 4), "g": floats(3, 4), "b": floats(3, 4)},
        NORMALISED | {("x", 1): "noted"},
        axis=-2,
    ),
    case("", "RMSNormalization", {"x": floats(2, 3, 4), "g": floats(4)}, NORMALISED),
    case("", "SimplifiedLayerNormalization", {"x": floats(2, 3, 4), "g": floats(4)}, NORMALISED),
    case("", "LpNormalization", {"x": floats(2, 3)}, {("x", 1): "noted"}, axis=1),
    case(
        "",
        "MeanVarianceNormalization",
        {"x": IMAGE},
        {("x", 0): "noted", ("x", 2): "noted", ("x", 3): "noted"},
    ),
    case(
        "",
        "BatchNormalization",
        {"x": IMAGE, "s": floats(3), "b": floats(3), "m": floats(3), "v": positive(3)},
    ),
    case(
        "",
        "GroupNormalization",
        {"x": floats(2, 4, 3), "s": floats(4), "b": floats(4)},
        {("x", 1): "pinned", ("s", 0): "pinned", ("b", 0): "pinned", ("x", 2): "pinned"},
        num_groups=2,
    ),
]
