"""Parents whose dropped neurons say nothing that the kept ones do not: there a correction has to be exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from graphclone import feeds
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import AxisRef
from graphclone.graph import Model
from graphclone.statistics import run
from tests.surgery.parents import Parent, session


def changed(found: Parent, edits) -> Parent:
    """The parent with some of its initializers replaced: name -> array -> array."""
    model = found.model.copy()
    model.path = None
    model.__dict__.pop("sha256", None)
    for tensor in model.graph.tensors().values():
        if tensor.name in edits:
            tensor.values = edits[tensor.name](np.array(tensor.values)).astype(tensor.values.dtype)
    return replace(found, model=model, anatomy=inspect(model))


def residual_axes(found: Parent):
    """Every axis of an initializer along which the residual stream stands, whole."""
    (stack,) = found.anatomy.stacks
    return {
        ref: members
        for ref, factors in found.anatomy.axes.items()
        for name, members in factors
        if name == stack.residual and len(factors) == 1
    }


def read_axes(found: Parent) -> set[AxisRef]:
    """Axes of weights that read the residual stream: what norms multiply by among them."""
    stack = found.anatomy.stacks[0]
    norms = [n for b in stack.blocks for n in b.norms] + list(stack.norms)
    gains = {AxisRef(n.gain, 0) for n in norms} | {AxisRef(n.bias, 0) for n in norms if n.bias}
    return gains | {AxisRef(p.weight, p.in_axis) for p in found.anatomy.linears if stack.residual in p.reads}


def without(found: Parent, dropped, *, centred: bool) -> Parent:
    """Dropped channels of the stream are zero, or (``centred``) the mean of the others, which a LayerNorm takes for
    zero; its bias there is zero."""
    reads = read_axes(found)
    size = found.anatomy.groups[found.anatomy.stacks[0].residual].size
    kept = np.setdiff1d(np.arange(size), dropped)
    stack = found.anatomy.stacks[0]
    biases = {n.bias for n in [*(m for b in stack.blocks for m in b.norms), *stack.norms] if n.bias}
    edits = {}

    def silence(axis):
        def edit(array):
            moved = np.moveaxis(array, axis, -1)
            moved[..., dropped] = moved[..., kept].mean(axis=-1, keepdims=True) if centred else 0.0
            return np.moveaxis(moved, -1, axis)

        return edit

    def no_bias(array):
        array[dropped] = 0.0
        return array

    for ref in residual_axes(found):
        if ref not in reads or (ref.tensor, ref.axis) in tied(found):
            edits[ref.tensor] = silence(ref.axis)
    return changed(found, edits | dict.fromkeys(biases, no_bias))


def level(found: Parent) -> Parent:
    """Gains and factors a channel are the same number along the stream, and biases say nothing of what is dropped: so
    a mean stays a mean behind them."""
    stack = found.anatomy.stacks[0]
    norms = [n for n in (*stack.norms, *(m for b in stack.blocks for m in b.norms)) if n.site]
    constants = found.model.constants()
    gains = [n.gain for n in norms] + [n for n in constants if "lambda" in n]
    rng = np.random.default_rng(3)
    numbers = {name: rng.uniform(0.6, 1.6) for name in gains}
    edits = {name: lambda a, number=number: np.full_like(a, number) for name, number in numbers.items()}
    biases = [n.bias for n in norms if n.bias]
    drawn = {name: rng.standard_normal(constants[name].shape) * 0.3 for name in biases}
    return changed(found, edits | {name: lambda a, values=values: values for name, values in drawn.items()})


def without_epsilon(found: Parent) -> Parent:
    """What norms add to the mean of squares is next to nothing: it weighs more over fewer channels, by the token."""
    stack = found.anatomy.stacks[0]
    used = {n.epsilon for n in (*stack.norms, *(m for b in stack.blocks for m in b.norms))}
    held = {
        n: float(a.reshape(-1)[0]) for n, a in found.model.constants().items() if a.size == 1 and a.dtype.kind == "f"
    }
    names = [n for n, value in held.items() if any(abs(value - epsilon) < 1e-3 * epsilon for epsilon in used)]
    return changed(found, dict.fromkeys(names, lambda array: np.asarray(array * 1e-4)))


def means(found: Parent, gone) -> Parent:
    """Where norms are the stream itself: biases have a mean of zero, which dropped channels have too."""
    stack = found.anatomy.stacks[0]
    biases = [n.bias for n in (*stack.norms, *(m for b in stack.blocks for m in b.norms)) if n.bias and n.site]

    def edit(array):
        array -= np.delete(array, gone).mean()
        array[gone] = 0.0
        return array

    return changed(found, dict.fromkeys(biases, edit))


def tied(found: Parent) -> set[tuple[str, int]]:
    """Axes of an embedding that is the head too: written and read, so it is silenced as what writes."""
    uses = {}
    for node in found.model.graph.nodes:
        for tensor in node.inputs:
            uses[tensor.name] = uses.get(tensor.name, 0) + 1
    return {(p.weight, p.in_axis) for p in found.anatomy.linears if uses.get(p.weight, 0) > 1}


def measured(found: Parent, batches: int = 8, size: tuple[int, int] = (8, 32), **how):
    """Statistics of seeded ids or pixels."""
    return run.measure(found.model, found.anatomy, data(found.model, batches, size), threads=1, **how)


def data(model: Model, batches: int = 8, size: tuple[int, int] = (8, 32)):
    """Seeded ids or pixels."""
    return [feeds.tiny_feeds(model, *size, seed=np.random.SeedSequence([7, k])) for k in range(batches)]


def answer(model: Model, fed):
    """The first output."""
    return session(model).run(None, fed)[0]
