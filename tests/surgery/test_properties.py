"""The properties of any clone: on seeded parents, and each found wanting where a clone is a little wrong."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import models
from graphclone.surgery.operate import clone
from tests.surgery.parents import parent
from tests.surgery.properties import PROPERTIES
from tests.surgery.subject import Subject

SEEDED = {"llama": "torchscript", "gpt2": "dynamo", "bert": "torchscript", "vit-tiny": "dynamo"}
CALIBRATION = {"vit-tiny": (60, (8, 1))}


@cache
def subject(name):
    more = {"calibration": CALIBRATION[name]} if name in CALIBRATION else {}
    return Subject(parent(name, SEEDED[name]), models.cached(name, exporter=SEEDED[name]), **more)


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("property_", PROPERTIES)
def test_it_holds(property_, name, tmp_path):
    PROPERTIES[property_](subject(name), tmp_path)


def block_weight(found, part, name):
    (block, *_) = found.anatomy.stacks[0].blocks
    (weight, *_) = getattr(getattr(block, part)[0], name)
    return weight


def changed_in(model, name, edit):
    (tensor,) = [t for t in model.graph.tensors().values() if t.name == name]
    tensor.values = edit(np.array(tensor.values))
    return model


def noise(found, model, call):
    """Every number of one matrix is off by a few percent, each time otherwise."""
    random = np.random.default_rng(call)
    weight = block_weight(found, "feed_forward", "down")
    return changed_in(model, weight, lambda a: a * random.uniform(0.95, 1.05, a.shape).astype(a.dtype))


def last_bit(found, model, call):
    """One number is another by its last bits."""

    def edit(array):
        array.reshape(-1)[:1].view(np.uint32)[:] += call
        return array

    return changed_in(model, block_weight(found, "feed_forward", "down"), edit)


def rolled_keys(found, model, call):
    """Each key goes to the next group of queries."""
    weight = block_weight(found, "attention", "k")
    linear = next(ln for ln in found.anatomy.linears if ln.weight == weight)
    return changed_in(
        model, weight, lambda a: np.roll(a, found.anatomy.stacks[0].blocks[0].attention[0].head_dim, linear.out_axis)
    )


def scaled_gain(found, model, call):
    """A gain is scaled, whatever the method."""
    gain = found.anatomy.stacks[0].blocks[0].norms[0].gain
    return changed_in(model, gain, lambda a: a * np.float32(1 + call / 100))


def backwards(found, model, call):
    """Each row of a matrix stands in another's place."""
    return changed_in(model, block_weight(found, "feed_forward", "down"), lambda a: a[::-1])


def first_frequencies(found, model, call):
    """The frequencies that are kept are the highest ones."""
    (group,) = {name for name, _ in found.anatomy.stacks[0].blocks[0].attention[0].qk_dims}
    tables = {ref.tensor for ref in found.anatomy.groups[group].axes}
    (name,) = [n for n in tables if found.model.constants()[n].size == found.anatomy.groups[group].size]
    held = found.model.constants()[name].reshape(-1)
    return changed_in(model, name, lambda a: held[: a.size].reshape(a.shape))


def untied(found, model, call):
    """A tensor of its own for one of those that read the embedding."""
    (embedding,) = [
        t
        for t in model.graph.tensors().values()
        if isinstance(t, gs.Constant) and len(t.outputs) > 1 and t.values.ndim > 1
    ]
    reader = embedding.outputs[-1]
    index = next(k for k, t in enumerate(reader.inputs) if t is embedding)
    reader.inputs[index] = gs.Constant("own", embedding.values)
    return model


SPOILED = {  # property -> what is wrong with the clone, in which parent
    "an empty plan changes no byte": (last_bit, "llama"),
    "a permutation changes no answer": (noise, "llama"),
    "a cut of a cut is the cut of both": (last_bit, "llama"),
    "what is dropped is the parent with it zeroed": (noise, "llama"),
    "the norm's correction is exact where channels are zero": (noise, "llama"),
    "paper and norm-gain never both": (scaled_gain, "llama"),
    "least squares is no worse on tokens held out": (backwards, "llama"),
    "queries keep their keys": (rolled_keys, "llama"),
    "kept pairs turn at their own frequencies": (first_frequencies, "llama"),
    "a tied tensor stays one": (untied, "gpt2"),
    "two runs, the same bytes": (last_bit, "llama"),
}


@pytest.mark.parametrize("property_", PROPERTIES)
def test_it_fails_where_a_clone_is_a_little_wrong(property_, tmp_path):
    spoil, name = SPOILED[property_]
    sound, calls = subject(name), iter(range(1, 99))

    def wrong(*arguments):
        return spoil(sound.found, clone(*arguments), next(calls))

    with pytest.raises(AssertionError):
        PROPERTIES[property_](Subject(sound.found, sound.file, wrong), tmp_path)
