"""Does arithmetic on sizes, ints and scalar symbols, simplified where a number makes it trivial."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphclone.pytorch.values import Scalar, Symbol

if TYPE_CHECKING:
    from graphclone.pytorch.recorder import Recorder


def nonnegative(a: Scalar) -> bool:
    """Whether a number is proved not to be negative: sizes, and what is added, multiplied or divided from them."""
    return bool(a.node.meta.get("nonnegative")) if isinstance(a, Symbol) else a >= 0


def proved(result: Scalar, *operands: Scalar) -> Scalar:
    """The result of what gives no negative number of operands that are none."""
    if isinstance(result, Symbol) and all(map(nonnegative, operands)):
        result.node.meta["nonnegative"] = True
    return result


def add(r: Recorder, a: Scalar, b: Scalar) -> Scalar:
    """a + b, simplified."""
    if _is(a, 0) or _is(b, 0):
        return b if _is(a, 0) else a
    return proved(r.call(operator.add, a, b), a, b)


def multiply(r: Recorder, a: Scalar, b: Scalar) -> Scalar:
    """a * b, simplified."""
    if _is(a, 1) or _is(b, 1):
        return b if _is(a, 1) else a
    return proved(r.call(operator.mul, a, b), a, b)


def _is(a: Scalar, number: int) -> bool:
    return type(a) is int and a == number


def product(r: Recorder, numbers: Sequence[Scalar]) -> Scalar:
    """All of them multiplied; 1 for none."""
    total: Scalar = 1
    for number in numbers:
        total = multiply(r, total, number)
    return total
