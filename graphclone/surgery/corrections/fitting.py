"""Ridge regression from moments, its strength chosen on tokens that the fit has not seen.

What a clone's product reads, z, is to give t, a linear function of what was measured. With moments of both that is

    M = (E[z z^T] + lambda m I)^-1 E[z t^T],   m = mean(diag E[z z^T])

lambda is the one of ``RIDGES`` with the least error on the tokens held out, raised until M is at most ``GROWTH`` times
as large as what stands there without it, and where even that is no better on those tokens, nothing is changed. Where
no tokens were set apart, lambda is ``DEFAULT``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Note = dict[str, float | str]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # candidates for lambda
DEFAULT = 1e-3
GROWTH = 1.5  # largest norm of M in norms of what it replaces
STRONGEST = 1e3  # lambda at which all hope is lost
SINGULAR = 1e-12  # eigenvalues below this share of the largest are none
ENOUGH = 20  # tokens a neuron: moments of fewer are noise


@dataclass(frozen=True)
class Moments:
    """E[a a^T], E[a] of the tokens fitted and of those held out (None: none were). tokens: how many there were."""

    second: Array
    mean: Array
    unseen: Array | None
    unseen_mean: Array | None
    tokens: int = 0

    @classmethod
    def of(cls, held: Mapping[str, Array]) -> Moments:
        """Of the sums of one site: fitted are all tokens but those that were set apart."""
        whole, total = float(held["moment_count"][0]), held["moment_sum"]
        unseen = float(held["unseen_moment_count"][0]) if "unseen_moment_count" in held else 0.0
        fitted = whole - unseen
        if not unseen or not fitted:
            return cls(held["moment"] / max(whole, 1.0), total / max(whole, 1.0), None, None, int(whole))
        return cls(
            (held["moment"] - held["unseen_moment"]) / fitted,
            (total - held["unseen_moment_sum"]) / fitted,
            held["unseen_moment"] / unseen,
            held["unseen_moment_sum"] / unseen,
            int(whole),
        )

    def centred(self) -> Moments:
        """About the means of the tokens fitted, which a bias makes up for."""
        return self._changed(np.ones(self.mean.size), -self.mean)

    def scaled(self, gain: Array, shift: Array) -> Moments:
        """Of gain * a + shift."""
        return self._changed(gain, shift)

    def _changed(self, gain: Array, shift: Array) -> Moments:
        unseen = unseen_mean = None
        if self.unseen is not None and self.unseen_mean is not None:
            unseen, unseen_mean = _moved(self.unseen, self.unseen_mean, gain, shift)
        second, mean = _moved(self.second, self.mean, gain, shift)
        return Moments(second, mean, unseen, unseen_mean, self.tokens)


def _moved(second: Array, mean: Array, gain: Array, shift: Array) -> tuple[Array, Array]:
    cross = np.outer(gain * mean, shift)
    return second * np.outer(gain, gain) + cross + cross.T + np.outer(shift, shift), gain * mean + shift


@dataclass(frozen=True)
class Wanted:
    """t = matrix^T a[sources], from z = a[inputs]; matrix None: t is a[sources]. plain: what M is without a fit."""

    inputs: Array
    sources: Array
    matrix: Array | None
    plain: Array

    def system(self, second: Array) -> tuple[Array, Array]:
        """E[z z^T] and E[z t^T]."""
        cross = second[np.ix_(self.inputs, self.sources)]
        return second[np.ix_(self.inputs, self.inputs)], cross if self.matrix is None else cross @ self.matrix

    def left(self, mean: Array) -> Array:
        """t less what the slice makes of z, for one vector a."""
        target = mean[self.sources] if self.matrix is None else mean[self.sources] @ self.matrix
        return np.asarray(target - mean[self.inputs] @ self.plain)

    def energy(self, second: Array) -> float:
        """E|t|^2."""
        own = second[np.ix_(self.sources, self.sources)]
        return float(np.trace(own) if self.matrix is None else np.einsum("ij,ij->", self.matrix, own @ self.matrix))


@dataclass(frozen=True)
class Fit:
    """values: M, float64 [inputs, outputs], or None to leave what is there. added: what its bias gets on top of what it
    has, or None. note: what was found."""

    values: Array | None
    added: Array | None
    note: Note


def repaired(wanted: Wanted, moments: Moments, base: Array | None = None) -> Fit:
    """The best of the fit, a bias alone, and nothing, on the tokens held out. base: E[t] less the bias there is, where
    a bias can take what is lost on average; None where there is none."""
    mean = moments.mean[wanted.inputs]
    if base is not None:
        moments = moments.centred()
    zz, zt = wanted.system(moments.second)

    def added(made: Array) -> Array | None:
        return None if base is None else base - mean @ made

    if moments.unseen is None or moments.unseen_mean is None:
        made = ridge(zz, zt, DEFAULT)
        return Fit(made, added(made), {"lambda": DEFAULT})
    held, crossed = wanted.system(moments.unseen)
    whole = wanted.energy(moments.unseen)

    def error(made: Array) -> float:
        """E|t - M^T z|^2 on the tokens held out."""
        return whole - 2 * float(np.einsum("ij,ij->", made, crossed)) + float(np.einsum("ij,ij->", made, held @ made))

    tried = [(strength, ridge(zz, zt, strength)) for strength in RIDGES]
    lost, strength, made = min(((error(m), s, m) for s, m in tried), key=lambda row: row[0])
    while np.linalg.norm(made) > GROWTH * np.linalg.norm(wanted.plain) and strength < STRONGEST:
        strength *= 10
        made = ridge(zz, zt, strength)
        lost = error(made)
    biased = before = error(wanted.plain)
    shift = added(wanted.plain)
    if shift is not None:  # without it, the slice is off by this on every token
        before += float(shift @ shift) + 2 * float(shift @ wanted.left(moments.unseen_mean))
    share = max(whole, np.finfo(np.float64).tiny)
    note: Note = {"lambda": strength, "error": lost / share, "error of the slice": before / share}
    if lost < min(biased, before):
        return Fit(made, added(made), note)
    if biased < before:
        kept = "with its bias corrected it is better on the tokens held out"
        return Fit(None, shift, {**note, "error": biased / share, "kept the slice": kept})
    return Fit(None, None, {**note, "kept the slice": "it is better on the tokens held out"})


def ridge(zz: Array, zt: Array, strength: float) -> Array:
    """M for one lambda, in float64; by eigenvectors where the moments are singular and no ridge helps."""
    system = zz + strength * float(np.trace(zz)) / len(zz) * np.eye(len(zz))
    try:
        made = np.linalg.solve(system, zt)
        if np.isfinite(made).all():
            return np.asarray(made)
    except np.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh((system + system.T) / 2)
    floor = max(float(values.max(initial=0.0)) * SINGULAR, np.finfo(np.float64).tiny)
    inverse = np.where(values > floor, 1.0 / np.maximum(values, floor), 0.0)
    return np.asarray(vectors @ (inverse[:, None] * (vectors.T @ zt)))
