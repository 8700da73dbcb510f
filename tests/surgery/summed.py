"""The hand-made decoder with norms over several nodes, whose means are sums divided by a number, as JAX writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from graphclone.graph import Model
from tests.surgery.tied import HIDDEN, Decoder, assembled

LAST = np.array([-1])


@dataclass
class Summed(Decoder):
    """``form``: how the norms are written, a name of FORMS."""

    form: str = "sum"

    def number(self, name, value):
        self.weights[name] = np.asarray(value, np.float32)
        return name

    def sum_of(self, x, name, op="ReduceSum"):
        if op != "ReduceSum":  # axes are an attribute before opset 18
            return self.add(op, [x], name, axes=[-1], keepdims=1)
        self.weights["last"] = LAST
        return self.add(op, [x, "last"], name, keepdims=1)

    def mean(self, x, name):
        """As jnp.mean is exported."""
        return self.add("Div", [self.sum_of(x, f"{name}.sum"), self.number("width", HIDDEN)], name)

    def squared(self, x, name):
        return self.add("Mul", [x, x], name)

    def norm(self, x, name):
        return (FORMS | COLUMN | UNBIASED)[self.form](self, x, name)

    def scaled(self, x, root, name):
        """Divided by the root mean square, times the gain."""
        safe = self.add("Add", [root, self.number("small", 1e-6)], f"{name}.safe")
        unit = self.add("Div", [x, safe], f"{name}.unit")
        return self.add("Mul", [unit, self.weight(f"{name}.gain", HIDDEN)], name)

    def rooted(self, x, mean, name):
        return self.scaled(x, self.add("Sqrt", [mean], f"{name}.root"), name)


def divided_sum(d, x, name):
    return d.rooted(x, d.mean(d.squared(x, f"{name}.square"), f"{name}.mean"), name)


def multiplied_sum(d, x, name):
    """The number first: 1/d times the sum."""
    total = d.sum_of(x, f"{name}.sum", "ReduceSumSquare")
    return d.rooted(x, d.add("Mul", [d.number("share", 1 / HIDDEN), total], f"{name}.mean"), name)


def length(d, x, name):
    """The length of the vector, divided by the root of its width."""
    total = d.sum_of(x, f"{name}.length", "ReduceL2")
    return d.scaled(x, d.add("Mul", [total, d.number("share", HIDDEN**-0.5)], f"{name}.root"), name)


def root_of_sum(d, x, name):
    root = d.add("Sqrt", [d.sum_of(d.squared(x, f"{name}.square"), f"{name}.sum")], f"{name}.length")
    return d.scaled(x, d.add("Div", [root, d.number("width", HIDDEN**0.5)], f"{name}.root"), name)


def layer_norm(d, x, name):
    centred = d.add("Sub", [x, d.mean(x, f"{name}.centre")], f"{name}.centred")
    normed = divided_sum(d, centred, f"{name}.scaled")
    return d.add("Add", [normed, d.weight(f"{name}.bias", HIDDEN)], name)


def fast_layer_norm(d, x, name):
    """Flax: the variance is the mean of squares less the square of the mean, and the gain meets its root first."""
    mean, squares = d.mean(x, f"{name}.centre"), d.mean(d.squared(x, f"{name}.square"), f"{name}.mean")
    variance = d.add("Sub", [squares, d.squared(mean, f"{name}.centre2")], f"{name}.difference")
    variance = d.add("Max", [variance, d.number("none", 0)], f"{name}.variance")
    safe = d.add("Add", [variance, d.number("small", 1e-6)], f"{name}.safe")
    inverse = d.add("Reciprocal", [d.add("Sqrt", [safe], f"{name}.root")], f"{name}.inverse")
    factor = d.add("Mul", [inverse, d.weight(f"{name}.gain", HIDDEN)], f"{name}.factor")
    unit = d.add("Mul", [d.add("Sub", [x, mean], f"{name}.centred"), factor], f"{name}.unit")
    return d.add("Add", [unit, d.weight(f"{name}.bias", HIDDEN)], name)


def divided_before(d, x, name):
    """The number before the sum."""
    shares = d.add("Mul", [d.squared(x, f"{name}.square"), d.number("share", 1 / HIDDEN)], f"{name}.shares")
    return d.rooted(x, d.sum_of(shares, f"{name}.mean"), name)


def divided_behind_epsilon(d, x, name):
    total = d.sum_of(d.squared(x, f"{name}.square"), f"{name}.sum")
    safe = d.add("Add", [total, d.number("much", 1e-6 * HIDDEN)], f"{name}.more")
    return d.rooted(x, d.add("Mul", [safe, d.number("share", 1 / HIDDEN)], f"{name}.mean"), name)


def contracted(d, x, name):
    """A value contracted with itself."""
    d.weights["last"] = LAST
    d.nodes.append(onnx.helper.make_node("Einsum", [x, x], [f"{name}.sum"], equation="btd,btd->bt"))
    mean = d.add("Div", [f"{name}.sum", d.number("width", HIDDEN)], f"{name}.share")
    return d.rooted(x, d.add("Unsqueeze", [mean, "last"], f"{name}.mean"), name)


FORMS: dict[str, Callable[[Summed, str, str], str]] = {
    "sum / d": divided_sum,
    "1/d * sum": multiplied_sum,
    "length * d^-1/2": length,
    "root of sum / d^1/2": root_of_sum,
    "sum of shares": divided_before,
    "(sum + d e) / d": divided_behind_epsilon,
    "product with itself / d": contracted,
    "LayerNorm": layer_norm,
    "LayerNorm of a fast variance": fast_layer_norm,
}


def column(d, x, name):
    d.weights["shares"] = np.full((HIDDEN, 1), 1 / HIDDEN, np.float32)
    return d.rooted(x, d.add("MatMul", [d.squared(x, f"{name}.square"), "shares"], f"{name}.mean"), name)


COLUMN: dict[str, Callable[[Summed, str, str], str]] = {"column of 1/d": column}


def mean_of_squares(d, x, name):
    square = d.squared(x, f"{name}.square")
    return d.add("ReduceMean", [square], f"{name}.share", axes=[-1], keepdims=1)


def times_d_by_less(d, x, name):
    """torch.var, as its dynamo exporter writes it."""
    times = d.add("Mul", [mean_of_squares(d, x, name), d.number("width", HIDDEN)], f"{name}.times")
    return d.rooted(x, d.add("Div", [times, d.number("less", HIDDEN - 1)], f"{name}.mean"), name)


def counted(d, x, name):
    """The same, as its TorchScript exporter does: from the shape."""
    d.weights["last"], d.weights["one"] = LAST, np.asarray(1.0, np.float32)
    size = d.add("Gather", [d.add("Shape", [x], f"{name}.shape"), "last"], f"{name}.size", axis=0)
    count = d.add("Cast", [d.add("ReduceProd", [size], f"{name}.all", keepdims=0)], f"{name}.count", to=1)
    times = d.add("Mul", [mean_of_squares(d, x, name), count], f"{name}.times")
    less = d.add("Sub", [count, "one"], f"{name}.less")
    return d.rooted(x, d.add("Div", [times, less], f"{name}.mean"), name)


def quotient(d, x, name):
    factor = d.number("correction", HIDDEN / (HIDDEN - 1))
    return d.rooted(x, d.add("Mul", [mean_of_squares(d, x, name), factor], f"{name}.mean"), name)


def sum_by_less(d, x, name):
    total = d.sum_of(d.squared(x, f"{name}.square"), f"{name}.sum")
    return d.rooted(x, d.add("Div", [total, d.number("less", HIDDEN - 1)], f"{name}.mean"), name)


UNBIASED: dict[str, Callable[[Summed, str, str], str]] = {
    "mean * d / (d - 1)": times_d_by_less,
    "mean * d / (d - 1) of a shape": counted,
    "mean * (d / (d - 1))": quotient,
    "sum / (d - 1)": sum_by_less,
}


def summed_parent(form: str) -> Model:
    return assembled(Summed(form=form))
