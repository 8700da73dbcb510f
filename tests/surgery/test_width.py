"""Width, held against exact oracles: nothing cut, everything permuted, neurons whose output projection is zeroed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from graphclone import pipeline
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import AxisRef
from graphclone.planner import Target
from tests.conftest import SEEDED_EXPORTS
from tests.surgery.parents import dropped, expected, outputs, parent, shuffled, with_constants, zeroed
from tests.surgery.tied import Decoder, assembled
from tests.tolerances import assert_close


def assert_same_outputs(actual, wanted):
    for got, want in zip(actual, wanted, strict=True):
        for a, b in zip(got, want, strict=True):
            assert_close(a, b)


def assert_same_bytes(actual, wanted):
    for got, want in zip(actual, wanted, strict=True):
        for a, b in zip(got, want, strict=True):
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("method", ["none", "paper"])
def test_keeping_everything_changes_no_byte(found, method):
    everything = {n: range(found.anatomy.groups[n].size) for n in found.groups()}
    made = found.cut(everything, method)
    before, after = found.model.constants(), made.constants()
    assert after.keys() == before.keys()
    assert all(after[n].tobytes() == before[n].tobytes() and after[n].dtype == before[n].dtype for n in before)
    assert_same_bytes(outputs(made), outputs(found.model))


def test_the_parent_is_left_alone(found, rng):
    before = {name: array.copy() for name, array in found.model.constants().items()}
    nodes = [(n.op, n.name, [t.name for t in n.inputs]) for n in found.model.graph.nodes]
    found.cut(found.some(rng, 0.5, "residual", "ffn", "head", "kv_head", "tail"), "paper", drop=[1])
    after = found.model.constants()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[n], after[n]) for n in before)
    assert nodes == [(n.op, n.name, [t.name for t in n.inputs]) for n in found.model.graph.nodes]
    assert all(t.inputs or t.outputs for t in found.model.graph.tensors().values())


KINDS = {  # kinds of groups that each architecture has, inner ones first
    "gpt2": (["ffn", "head", "v_dim"], ["qk_dim", "residual"]),
    "llama": (["ffn", "kv_head", "group", "v_dim"], ["qk_dim", "residual"]),
    "bert": (["ffn", "head", "v_dim"], ["qk_dim", "residual", "tail"]),
    "vit-tiny": (["ffn", "head", "v_dim"], ["qk_dim", "residual"]),
}
INNER = [(*cell, kind) for cell in SEEDED_EXPORTS for kind in KINDS[cell[0]][0]]
TOGETHER = ("inner", "residual", "all")  # inner groups one by one are the next test's


def test_the_kinds_are_all_there_are(found):
    cuttable = {found.anatomy.groups[n].kind for n in found.groups()}
    pinned = {g.kind for g in found.anatomy.groups.values() if g.pinned} - {"other"}
    assert cuttable | pinned - {"vocabulary"} == {k for part in KINDS[found.name] for k in part}
    assert pinned <= {"vocabulary"}


@pytest.mark.parametrize("kind", TOGETHER)
def test_a_permutation_changes_no_output(found, kind, rng):
    kinds = {"inner": KINDS[found.name][0], "residual": ["residual"], "all": []}
    names = found.groups(*kinds[kind])
    keep = {n: shuffled(rng, found.anatomy.groups[n].size) for n in names}
    made = found.cut(keep, "paper")
    before, after = found.model.constants(), made.constants()
    assert any(after[n].tobytes() != before[n].tobytes() for n in after if n in before), "nothing moved"
    assert_same_outputs(outputs(made), expected(found, found.model, keep))


@pytest.mark.parametrize(("name", "exporter", "kind"), INNER, ids="-".join)
def test_dropped_neurons_equal_the_parent_with_their_output_projection_zeroed(name, exporter, kind, rng):
    found = parent(name, exporter)
    keep = found.some(rng, 0.6, kind)
    made, reference = found.cut(keep), zeroed(found, keep)
    assert_same_outputs(outputs(made), outputs(reference))
    sizes = {n: g.size for n, g in inspect(made).groups.items()}
    assert {n: sizes.get(n, 1) for n in keep} == {n: len(k) for n, k in keep.items()}  # one alone is no group


def test_all_inner_groups_at_once(found, rng):
    keep = found.some(rng, 0.5, "ffn", "head", "kv_head", "group", "v_dim")
    assert_same_outputs(outputs(found.cut(keep)), outputs(zeroed(found, keep)))


def test_the_oracle_sees_one_neuron_too_many(found, rng):
    """The comparison can fail: one more neuron zeroed is a difference."""
    keep = found.some(rng, 0.5, "ffn")
    wrong = {n: k[1:] for n, k in keep.items()}
    with pytest.raises(AssertionError, match="differs by"):
        assert_same_outputs(outputs(found.cut(keep)), outputs(zeroed(found, wrong)))


def test_every_initializer_is_the_parents_slice(found, rng):
    """Computed here from the anatomy's axes, not by surgery."""
    keep = found.some(rng, 0.5, "residual", "tail", "ffn", "head", "kv_head")
    made = found.cut(keep)
    after = made.constants()
    sliced = 0
    for name, array in found.model.constants().items():
        want = array
        for axis in range(array.ndim):
            ref = AxisRef(name, axis)
            if any(group in keep for group, _ in found.anatomy.axes.get(ref, ())):
                want = np.compress(~dropped(found.anatomy, ref, keep), want, axis=axis)
        if want is not array:
            sliced += 1
            assert np.array_equal(after[name], want), name
    assert sliced > 20


HALF = {"gpt2": 20, "llama": 36, "bert": 28, "vit-tiny": 10}  # no divisor of anything, still reached exactly


def test_the_residual_width_narrows_to_the_size_asked(found, rng):
    size = HALF[found.name]
    keep = {n: np.sort(rng.permutation(found.anatomy.groups[n].size)[:size]) for n in found.groups("residual", "tail")}
    made = found.cut(keep, "paper")
    assert inspect(made).stacks[0].hidden == size
    for row, parents in zip(outputs(made), outputs(found.model), strict=True):
        for output, array, full in zip(made.graph.outputs, row, parents, strict=True):
            assert np.isfinite(array).all()
            follows = output.name in ("last_hidden_state", "pooler_output")
            assert array.shape == ((*full.shape[:-1], size) if follows else full.shape)
    after = made.constants()
    axes = [ref for n in keep for ref in found.anatomy.groups[n].axes]
    assert len(axes) > 20
    assert {after[ref.tensor].shape[ref.axis] for ref in axes} == {size}


def test_equal_vectors_that_an_exporter_merged_are_cut_apart(found, rng):
    """One all-equal bias for every block's feed-forward: each use is cut with its own block's indices."""
    model, anatomy = found.model, found.anatomy
    biases = [
        ref.tensor
        for block in anatomy.stacks[0].blocks
        for part in block.feed_forward
        for ref in anatomy.groups[part.group].axes
        if model.constants()[ref.tensor].ndim == 1
    ]
    assert bool(biases) == (found.name != "llama")
    if not biases:  # vectors of the feed-forward are what this is about
        return
    value = np.full_like(model.constants()[biases[0]], 0.25)
    apart = with_constants(model, dict.fromkeys(biases, value))
    merged = apart.copy()
    first = merged.graph.tensors()[biases[0]]
    for node in merged.graph.nodes:
        for k, tensor in enumerate(node.inputs):
            if tensor.name in biases:
                node.inputs[k] = first
    keep = {
        part.group: np.sort(rng.permutation(part.ffn)[: 100 - 20 * block.index])
        for block in anatomy.stacks[0].blocks
        for part in block.feed_forward
    }
    results = []
    for variant in (apart, type(apart)(merged.graph)):
        described = inspect(variant)
        other = type(found)(found.name, found.exporter, variant, described)
        results.append(outputs(other.cut(keep)))
    assert_same_bytes(*results)


@dataclass
class Multiplied(Decoder):
    """The embedding is multiplied by a number before the first block; what the head reads, by another."""

    embedding: float = 1.0
    head: float = 1.0

    def attention(self, x, i):
        return super().attention(x if i else self.times(x, "embedding"), i)

    def norm(self, x, name):
        made = super().norm(x, name)
        return self.times(made, "head") if name == "final" else made

    def times(self, x, name):
        self.weights[f"{name}.number"] = np.array(getattr(self, name), np.float32)
        return self.add("Mul", [x, f"{name}.number"], f"{name}.times")


@pytest.mark.parametrize(
    ("embedding", "head", "after"),
    [(8**0.5, 1, (2, 1)), (1, 8**-0.5, (1, 0.5)), (8**-0.5, 1, (8**-0.5, 1)), (8**0.5, 8**-0.5, (2, 0.5))],
)
def test_embeddings_grow_by_the_root_of_the_width_and_heads_shrink_by_it(embedding, head, after):
    """The other way around a number only happens to be such a root: it is the model's own."""
    model = assembled(Multiplied(embedding=embedding, head=head))
    anatomy = inspect(model)
    plan = pipeline.plan(anatomy, None, Target(hidden=4), importance="first", method="none")
    made = pipeline.clone(model, plan, anatomy=anatomy)
    pipeline.verify(model, made, plan).raise_if_failed()
    nodes = {n.outputs[0].name: n for n in made.graph.nodes}
    for name, number in zip(("embedding", "head"), after, strict=True):
        assert nodes[f"{name}.times"].inputs[1].values == pytest.approx(number)
