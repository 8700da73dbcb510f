"""Matrix products, convolutions, reductions, softmax and norms."""

from __future__ import annotations

import numpy as np

from tests.pytorch.cases.case import MICROSOFT, Case, cases, floats, ints

X = floats(2, 3, 4)
IMAGE = floats(2, 4, 7, 6)
GAIN, BIAS = floats(4, low=0.5), floats(4)
SMALL = np.float32(1e-3)  # so small that the epsilon of a norm counts
FUSED = floats(4, 3), floats(4, 5), floats(5)


def _linear() -> list[Case]:
    found = [
        *cases("MatMul", X, floats(4, 5), constant=(1,)),
        *cases("MatMul", X, floats(2, 4, 5)),
        *cases("MatMul", X, floats(4)),
        *cases("Gemm", floats(3, 4), floats(4, 5), floats(5), constant=(1, 2)),
        *cases("Gemm", floats(4, 3), floats(5, 4), floats(3, 1), transA=1, transB=1, alpha=0.5, beta=2.0),
        *cases("Gemm", floats(3, 4), floats(4, 5), since=11, alpha=0.5),
        *(
            case
            for name in ("Relu", "Sigmoid", "Tanh")
            for case in cases("FusedGemm", *FUSED, domain=MICROSOFT, transA=1, activation=name)
        ),
        *cases(
            "FusedGemm", floats(3, 4), floats(4, 5), domain=MICROSOFT, activation="LeakyRelu", activation_alpha=0.25
        ),
        *cases("FusedMatMul", X, floats(2, 5, 4), domain=MICROSOFT, transB=1, alpha=0.5),
        *cases("FusedMatMul", floats(2, 4, 3), floats(4, 5), domain=MICROSOFT, transA=1),
        *cases(
            "FusedMatMul", floats(2, 5, 4), floats(3, 5, 4), domain=MICROSOFT, transBatchA=1, transBatchB=1, transB=1
        ),
        *cases(
            "FusedMatMul", floats(4, 5, 2), floats(4, 5, 3), domain=MICROSOFT, transBatchA=1, transA=1, transBatchB=1
        ),
        *cases("Einsum", X, floats(2, 5, 4), equation="bij,bkj->bik"),
        *cases("Conv", IMAGE, floats(5, 4, 3, 2), floats(5), constant=(1, 2), pads=[1, 0, 1, 0], strides=[2, 1]),
        *cases("Conv", IMAGE, floats(4, 2, 3, 3), constant=(1,), group=2, dilations=[2, 1]),
        *cases("Conv", IMAGE, floats(5, 4, 3, 2), pads=[1, 0, 0, 1]),
        *cases("Conv", IMAGE, floats(5, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
        *cases("Conv", IMAGE, floats(5, 4, 4, 3), auto_pad="SAME_LOWER", strides=[1, 2]),
        *cases("Conv", floats(2, 4, 9), floats(5, 4, 3), constant=(1,), strides=[2]),
        *cases("ConvTranspose", IMAGE, floats(4, 3, 2, 2), floats(3), constant=(1, 2), strides=[2, 2]),
        *cases("ConvTranspose", IMAGE, floats(4, 3, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2], output_padding=[1, 1]),
        *cases("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0]),
        *cases("AveragePool", IMAGE, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0]),
        *cases("AveragePool", IMAGE, kernel_shape=[3, 2], pads=[1, 0, 1, 0], count_include_pad=1),
        *_padded_pools(),
        *cases("GlobalAveragePool", IMAGE),
        *cases("GlobalMaxPool", IMAGE),
    ]
    return [*found, *_resized()]


def _padded_pools() -> list[Case]:
    """Pads wider than half the kernel, or another before and after: torch takes neither."""
    found: list[Case] = []
    for pads in (
        {"pads": [2, 1, 2, 1]},
        {"pads": [1, 0, 0, 2]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
    ):
        found += cases("MaxPool", IMAGE - 3, kernel_shape=[3, 3], strides=[2, 2], **pads)
        for counted in (0, 1):
            found += cases("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 1], count_include_pad=counted, **pads)
    return found


def _resized() -> list[Case]:
    doubled, none = np.array([1, 1, 2, 3], np.float32), np.zeros(0, np.float32)
    halved = np.array([1, 1, 1.5, 0.5], np.float32)
    sizes = ints(2, 4, 9, 11)
    centred = {"coordinate_transformation_mode": "half_pixel"}
    corners = {"coordinate_transformation_mode": "align_corners"}
    plain = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return [
        *cases("Upsample", IMAGE, doubled, constant=(1,), mode="nearest"),
        *cases("Resize", IMAGE, doubled, constant=(1,), until=10),
        *cases("Resize", IMAGE, none, doubled, constant=(1, 2), since=11),
        *cases("Resize", IMAGE, none, doubled, constant=(1, 2), since=11, **plain),
        *cases("Resize", IMAGE, none, halved, constant=(1, 2), since=11, **plain),
        *cases("Resize", IMAGE, none, halved, constant=(1, 2), since=11, mode="linear", **centred),
        *cases("Resize", IMAGE, none, none, sizes, constant=(1, 2, 3), since=11, mode="linear", **corners),
        *cases("Resize", IMAGE, none, none, sizes, constant=(1, 2, 3), since=11, mode="linear", **centred),
        *cases("Resize", IMAGE, None, None, sizes, constant=(3,), since=13, mode="cubic", **centred),
        *cases("Resize", IMAGE, None, None, ints(9, 11), constant=(3,), since=18, mode="linear", axes=[2, 3]),
        *_resized_otherwise(none, plain),
    ]


def _resized_otherwise(none: np.ndarray, plain: dict[str, str]) -> list[Case]:
    """Along other axes than the last ones, to sizes that float64 would not give, to one place, to the nearest."""
    last = IMAGE.transpose(0, 2, 3, 1)
    long = floats(1, 2, 19, 10)
    scales = {
        "channels": np.array([1, 2, 2, 2], np.float32),
        "batch": np.array([2, 1, 1.5, 1], np.float32),
        "seven": np.array([1, 1, 0.6, 0.7], np.float32),
    }
    single = {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}
    found: list[Case] = []
    for name in ("channels", "batch", "seven"):
        found += cases("Resize", long, none, scales[name], constant=(1, 2), since=11, **plain)
        found += cases("Resize", long, scales[name], constant=(1,), until=10)
    for transform in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
        for rounding in ("floor", "ceil", "round_prefer_floor"):
            how = {"coordinate_transformation_mode": transform, "nearest_mode": rounding}
            found += cases("Resize", long, None, None, ints(1, 2, 11, 17), constant=(3,), since=13, until=13, **how)
    return [
        *found,
        *cases("Resize", long, none, scales["seven"], constant=(1, 2), since=11, mode="linear"),
        *cases("Resize", last, none, np.array([1, 2, 1.5, 1], np.float32), constant=(1, 2), since=11, mode="linear"),
        *cases("Resize", last, none, none, ints(2, 9, 11, 4), constant=(1, 2, 3), since=11, mode="linear"),
        *cases("Resize", last, None, None, ints(2, 9, 11, 4), since=13, mode="linear"),
        *cases("Resize", last, None, None, ints(9, 11), constant=(3,), since=18, mode="cubic", axes=[1, 2]),
        *cases("Resize", IMAGE, None, None, ints(2, 4, 1, 9), constant=(3,), since=13, **single),
        *cases("Resize", IMAGE, None, None, ints(2, 4, 9, 1), since=13, **single),
        *cases("Resize", floats(3, 4), None, None, ints(5, 7), constant=(3,), since=13, mode="linear"),
        *cases("Resize", IMAGE, None, None, sizes_of(IMAGE), constant=(3,), since=13, mode="linear"),
    ]


def sizes_of(array: np.ndarray) -> np.ndarray:
    return ints(*array.shape)


REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Sum SumSquare Prod".split()


def _reductions() -> list[Case]:
    positive = floats(2, 3, 4, low=0.5)
    found: list[Case] = []
    for name in REDUCTIONS:
        op, moved = f"Reduce{name}", 13 if name == "Sum" else 18
        found += cases(op, positive, keepdims=0)
        found += cases(op, positive, until=moved - 1, axes=[0, 2])
        found += cases(op, positive, ints(-1), constant=(1,), since=moved, keepdims=0)
        found += cases(op, positive, ints(0, 2), constant=(1,), since=moved)
        found += cases(op, positive, None, since=moved, noop_with_empty_axes=1)
    for name in ("Max", "Min", "Sum", "Prod"):
        found += cases(f"Reduce{name}", np.array([[1, 5], [3, 2]], np.int32))
    for name in ("Mean", "L2", "L1", "SumSquare"):
        found += cases(f"Reduce{name}", ints([1, 2, 5], [-1, -2, -4]), until=17, axes=[1])
    return found


def _norms() -> list[Case]:
    found: list[Case] = []
    for op in ("Softmax", "LogSoftmax"):
        found += [*cases(op, X), *cases(op, X, axis=1), *cases(op, X, axis=2), *cases(op, X, axis=0)]
    skip = floats(2, 3, 4, low=-1.0)
    words, segments = floats(11, 4), floats(2, 4)
    ids = np.array([[1, 2, 10], [4, 0, 3]], np.int32)
    kinds, mask = np.array([[0, 1, 1], [0, 0, 1]], np.int32), np.array([[1, 1, 0], [1, 1, 1]], np.int32)
    channels = floats(4, low=0.5), floats(4)
    return [
        *found,
        *cases("Hardmax", X, axis=1),
        *cases("LayerNormalization", X, GAIN, BIAS, constant=(1, 2), epsilon=1e-3),
        *cases("LayerNormalization", X, floats(3, 4), constant=(1,), axis=1),
        *cases("LayerNormalization", X, floats(1, low=0.5), constant=(1,), axis=1),
        *cases("RMSNormalization", X, GAIN, constant=(1,), epsilon=1e-3),
        *cases("RMSNormalization", X, floats(3, 4), constant=(1,), axis=1),
        *(
            case
            for gain in (floats(4), floats(3, 1), floats(1), floats(1, 4))
            for case in [
                *cases("LayerNormalization", X, gain, constant=(1,), axis=1),
                *cases("LayerNormalization", X, gain, floats(4), constant=(1, 2), axis=1),
                *cases("RMSNormalization", X, gain, constant=(1,), axis=1),
            ]
        ),
        *cases("LayerNormalization", X, floats(1, low=0.5), constant=(1,)),
        *cases("LayerNormalization", X, GAIN, floats(1), constant=(1, 2)),
        *cases("RMSNormalization", X, floats(1, low=0.5), constant=(1,)),
        *cases("SimplifiedLayerNormalization", X, GAIN, constant=(1,), epsilon=1e-3),
        *cases("SkipLayerNormalization", X, skip, GAIN, BIAS, floats(4), domain=MICROSOFT, constant=(2, 3, 4)),
        *cases("SkipLayerNormalization", X, skip, GAIN, domain=MICROSOFT, constant=(2,)),
        *cases("SkipSimplifiedLayerNormalization", X, skip, GAIN, floats(4), domain=MICROSOFT, constant=(2, 3)),
        *cases("SkipSimplifiedLayerNormalization", SMALL * X, SMALL * skip, GAIN, domain=MICROSOFT, constant=(2,)),
        *cases(
            "EmbedLayerNormalization", ids, kinds, words, floats(5, 4), segments, GAIN, BIAS, mask,
            domain=MICROSOFT, constant=(2, 3, 4, 5, 6), outputs=2,
        ),
        *cases(
            "EmbedLayerNormalization", ids, None, words, floats(5, 4), None, GAIN, BIAS,
            domain=MICROSOFT, constant=(2, 3, 5, 6), outputs=2,
        ),
        *cases("InstanceNormalization", IMAGE, *channels, constant=(1, 2)),
        *cases("InstanceNormalization", floats(2, 4, 1), *channels, constant=(1, 2)),
        *cases("GroupNormalization", floats(1, 4, 1, 1), *channels, constant=(1, 2), num_groups=4),
        *cases("GroupNormalization", IMAGE, *channels, constant=(1, 2), num_groups=2),
        *cases("BatchNormalization", IMAGE, *channels, floats(4), floats(4, low=0.5, high=2.5), constant=(1, 2, 3, 4)),
        *cases("LpNormalization", X, axis=1, p=1),
        *cases("LpNormalization", X),
        *cases("LpNormalization", X * (X > 0.5).all(-1, keepdims=True)),
        *cases("LpNormalization", np.zeros((2, 3), np.float32), p=1),
        *cases("MeanVarianceNormalization", IMAGE),
    ]  # fmt: skip


CASES = [*_linear(), *_reductions(), *_norms()]
