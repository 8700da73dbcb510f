"""What a case of the table of flows is: a node under test in a tiny graph, its float operands as weights.

``special`` says of an operand's axis what a perturbation of one of its positions does, where it does not simply flow:
``pinned``   whatever changes something may not be cut
``some``     reaches only part of what carries it
``noted``    met by a product, a reduction, a norm or a lookup: its neurons end here
``shared``   part of what it is goes on: a head
``setting``  says what the operator does: never cut
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

MICROSOFT = "com.microsoft"


@dataclass(frozen=True)
class Case:
    label: str
    nodes: tuple[onnx.NodeProto, ...]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    feeds: Mapping[str, np.ndarray] = field(default_factory=dict)
    special: Mapping[tuple[str, int], str] = field(default_factory=dict)
    perturbed: Any = None  # what a position becomes; by default another number of the other sign

    @property
    def row(self) -> tuple[str, str]:
        """The node under test is the last one."""
        return self.nodes[-1].domain, self.nodes[-1].op_type


def floats(*shape: int) -> np.ndarray:
    """Distinct numbers of both signs, none near zero."""
    rng = np.random.default_rng(int(np.prod(shape)) + len(shape))
    values = (np.arange(np.prod(shape)) + 1.0) / (np.prod(shape) + 1.0)
    return (rng.permutation(values) * rng.choice([-1, 1], values.size)).reshape(shape).astype(np.float32)


def positive(*shape: int) -> np.ndarray:
    return np.abs(floats(*shape))


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def node(op, inputs, outputs=("y",), domain="", **attributes):
    return onnx.helper.make_node(op, list(inputs), list(outputs), domain=domain, **attributes)


def case(label, op, constants, special=None, feeds=None, outputs=("y",), domain="", perturbed=None, **attributes):
    """A single node whose inputs are all of ``constants`` and ``feeds``, in that order; a name with ! is left out."""
    names = ["" if n.startswith("!") else n for n in (*constants, *(feeds or {}))]
    held = {n: v for n, v in constants.items() if not n.startswith("!")}
    made = node(op, names, outputs, domain, **attributes)
    return Case(f"{op} {label}".strip(), (made,), held, feeds or {}, special or {}, perturbed)
