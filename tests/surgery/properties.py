"""What has to be true of any clone of any parent, one row each: seeded parents and trained ones are held against all.

A property makes its clones through ``subject.cut``, so that a test can hand it one that makes them a little wrong.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import graph, pipeline, saving
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy, Attention, AxisRef, FeedForward
from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.planner import Target
from graphclone.surgery.operate import clone
from tests.surgery.parents import Array, Parent, dropped, shuffled, zeroed
from tests.surgery.rescaled import rescaled, with_biases
from tests.surgery.silenced import measured
from tests.surgery.subject import Cut, Subject, activations, followed
from tests.tolerances import assert_close

INNER = ("ffn", "head", "kv_head", "group")
HALF = Target(hidden="50%", ffn="50%", layers="50%")


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def assert_same_bytes(actual: Model, wanted: Model) -> None:
    before, after = wanted.constants(), actual.constants()
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert after[name].dtype == array.dtype
        assert after[name].tobytes() == array.tobytes(), f"{name} has other bytes"


def assert_same_answers(actual: list[Array], wanted: list[Array]) -> None:
    for got, want in zip(actual, wanted, strict=True):
        assert_close(got, want)


def empty_plan(subject: Subject, folder: Path) -> None:
    """Nothing is asked for: not a byte changes, of weights or of answers."""
    for method in ("none", "paper"):
        made = subject.made(Plan(subject.found.anatomy.fingerprint, {}, method=method))
        assert_same_bytes(made, subject.found.model)
    assert [a.tobytes() for a in subject.answers(made)] == [a.tobytes() for a in subject.wanted]


def permutation(subject: Subject, folder: Path) -> None:
    """All neurons in another order answer the same."""
    found, order = subject.found, rng()
    keep = {n: shuffled(order, found.anatomy.groups[n].size) for n in found.groups()}
    made = subject.made(found.plan(keep))
    held = made.constants()
    assert any(held[n].tobytes() != a.tobytes() for n, a in found.model.constants().items() if n in held)
    assert_same_answers(subject.answers(made), followed(subject, subject.wanted, keep))


def cut_of_cut(subject: Subject, folder: Path) -> None:
    """Cutting a clone again, read from its file, is cutting once by the composed plan: to the byte."""
    found, order = subject.found, rng()
    (stack,) = found.anatomy.stacks
    surviving = sorted({0, len(stack.blocks) // 2, len(stack.blocks) - 1})
    drop = [b.index for b in stack.blocks if b.index not in surviving]
    kinds = ("residual", "tail", "ffn", "head", "kv_head")
    first = {n: order.permutation(k) for n, k in found.some(order, 0.75, *kinds).items()}
    saving.save(subject.made(found.plan(first, drop=drop)), folder / "once.onnx")
    model = graph.load(folder / "once.onnx")
    once = Parent(found.name, found.exporter, model, inspect(model))
    second = once.some(order, 0.6, *kinds)
    twice = subject.made(once.plan(second), once)
    composed = dict(first)
    for name, kept in second.items():
        original = renamed(name, surviving)
        composed[original] = first[original][kept]
    direct = subject.made(found.plan(composed, drop=drop))
    floats = {n: a for n, a in direct.constants().items() if a.dtype.kind == "f"}
    after = twice.constants()
    assert len(floats) > 10
    for name, array in floats.items():
        assert after[name].tobytes() == array.tobytes(), f"{name} has other bytes"
    assert [a.tobytes() for a in subject.answers(twice)] == [a.tobytes() for a in subject.answers(direct)]


def renamed(name: str, surviving: list[int]) -> str:
    """A group of the clone's block i as the parent calls it."""
    head, *rest = name.split(".")
    return ".".join([head, str(surviving[int(rest[0])]), *rest[1:]]) if head == "blocks" else name


def zeroed_parent(subject: Subject, folder: Path) -> None:
    """Without neurons and heads it is the parent in which nothing reads them."""
    keep = subject.found.some(rng(), 0.5, *INNER, "v_dim")
    assert len(keep) >= 2 * len(subject.found.anatomy.stacks[0].blocks)
    made = subject.made(subject.found.plan(keep))
    assert_same_answers(subject.answers(made), subject.answers(zeroed(subject.found, keep)))


def norm_correction(subject: Subject, folder: Path) -> None:
    """Exact where the channels that go say nothing."""
    keep = {subject.found.anatomy.stacks[0].residual: subject.channels}
    wanted = followed(subject, subject.answers(subject.silent.model), keep)
    assert_same_answers(subject.answers(subject.narrowed("norm-gain")), wanted)


def scaled_once(subject: Subject, folder: Path) -> None:
    """The paper scales weights, norm-gain gains, and no clone has both."""
    (stack,) = subject.found.anatomy.stacks
    with pytest.raises(InvalidTarget, match="paper and norm-gain exclude each other"):
        subject.found.plan({stack.residual: subject.channels}, "paper+norm-gain")
    with pytest.raises(InvalidTarget, match="exclude each other"):
        pipeline.plan(subject.found.anatomy, None, HALF, importance="first", method="norm-gain+paper")
    gains = {n.gain for b in stack.blocks for n in b.norms if n.site}
    reading = {p.weight for p in subject.found.anatomy.linears if stack.residual in p.reads}
    single = {w for w in reading if len(subject.found.model.graph.tensors()[w].outputs) == 1}
    plain, paper, gained = (subject.narrowed(m).constants() for m in ("none", "paper", "norm-gain"))
    assert len(gains) > len(stack.blocks)
    assert len(single) > len(stack.blocks)
    for names, changed, same in ((gains, gained, paper), (single, paper, gained)):
        for name in names:
            assert changed[name].tobytes() != plain[name].tobytes(), f"{name} is not scaled"
            assert same[name].tobytes() == plain[name].tobytes(), f"{name} is scaled"


def heads_of(model: Model, anatomy: Anatomy, part: Attention, name: str) -> list[bytes]:
    """Each head's slice of a projection, as bytes."""
    (weight,) = getattr(part, name)
    linear = next(ln for ln in anatomy.linears if ln.weight == weight)
    array = np.moveaxis(model.constants()[weight], linear.in_axis if name == "o" else linear.out_axis, 0)
    if name != "o" and part.q == part.k:  # GPT-2 packs the three
        array = np.split(array, 3)["qkv".index(name)]
    return [np.ascontiguousarray(a).tobytes() for a in np.split(array, part.heads if name in "qo" else part.kv_heads)]


def pairing(subject: Subject, folder: Path) -> None:
    """Each query still meets the keys and values that it met, wherever its group went; found by the weights' bytes."""
    found = subject.found
    keep = {n: np.arange(found.anatomy.groups[n].size)[::-2] for n in found.groups("head", "kv_head", "group")}
    made = subject.made(found.plan(keep))
    anatomy = inspect(made)
    blocks = zip(found.anatomy.stacks[0].blocks, anatomy.stacks[0].blocks, strict=True)
    for (before,), (after,) in ((old.attention, new.attention) for old, new in blocks):
        assert after.kv_heads < before.kv_heads
        places = {}
        for name in "qkvo":
            of = {head: index for index, head in enumerate(heads_of(found.model, found.anatomy, before, name))}
            places[name] = [of.get(head) for head in heads_of(made, anatomy, after, name)]
        whole, group = before.heads // before.kv_heads, after.heads // after.kv_heads
        assert None not in places["q"] + places["k"], "every head is one of the parent's"
        assert places["q"] == places["o"]
        assert places["k"] == places["v"]
        assert [head // whole for head in places["q"]] == [head for head in places["k"] for _ in range(group)]


def head_dims(subject: Subject, folder: Path) -> None:
    """Narrower heads: the parent whose other dimensions are zero, at the clone's own scale; kept pairs turn as fast."""
    found = subject.found
    whole = found.anatomy.stacks[0].blocks[0].attention[0].head_dim
    plan = pipeline.plan(found.anatomy, None, Target(head_dim="50%"), importance="uniform", method="none")
    made = subject.made(plan)
    reference = rescaled(found, plan.keep, np.sqrt(whole / (whole // 2)))
    assert_same_answers(subject.answers(made), subject.answers(reference))
    if found.anatomy.stacks[0].blocks[0].attention[0].rotary:
        (pairs,) = {k for n, k in plan.keep.items() if found.anatomy.groups[n].kind == "qk_dim"}
        assert 1 < len(pairs) == whole // 4
        before, after = angles(subject, found.model), angles(subject, made)
        assert np.array_equal(after, before[..., list(pairs)])
        assert len(np.unique(after[0, -1])) == len(pairs), "each its own frequency"


def angles(subject: Subject, model: Model) -> Array:
    """[..., position, pair]: what the graph takes the cosine of, of the first half of a head."""
    shown = model.copy()
    (node,) = [n for n in shown.graph.nodes if n.op == "Cos"]
    node.inputs[0].dtype = np.dtype(np.float32)
    shown.graph.outputs = [node.inputs[0]]
    shown.graph.cleanup()
    (found,) = subject.answers(shown)
    pairs = found.shape[-1] // 2
    assert np.array_equal(found[..., :pairs], found[..., pairs:]), "both halves of a head turn alike"
    return found[..., :pairs]


def tied_tensor(subject: Subject, folder: Path) -> None:
    """Matrices that several products read are as many, and read as often: an embedding that is the head stays one."""
    (stack,) = subject.found.anatomy.stacks
    keep = {stack.residual: range(stack.hidden // 2)} | {
        n: range(subject.found.anatomy.groups[n].size // 2) for n in subject.found.groups("ffn", "tail")
    }
    made = subject.made(subject.found.plan(keep, "paper"))
    assert shared(made) == shared(subject.found.model)


def shared(model: Model) -> list[tuple[str, ...]]:
    """Who reads each matrix of floats that more than one node reads; how many are read once."""
    held = [t for t in model.graph.tensors().values() if isinstance(t, gs.Constant)]
    wide = [t for t in held if t.values.ndim > 1 and t.values.dtype.kind == "f" and min(t.values.shape) > 1]
    readers = sorted(tuple(sorted(n.op for n in t.outputs)) for t in wide)
    assert len(readers) > 6
    return readers


SCRIPT = """
import hashlib, sys
from pathlib import Path
from tests.surgery.properties import HALF, written
print(written(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def written(file: Path, out: Path, cut: Cut = clone) -> str:
    """A clone made and saved, all of it from the file; the digest of its bytes."""
    model = graph.load(file)
    anatomy = inspect(model)
    plan = pipeline.plan(anatomy, None, HALF, importance="uniform", method="paper")
    saving.save(cut(model, anatomy, plan), out)
    return hashlib.sha256(out.read_bytes()).hexdigest()


def same_bytes(subject: Subject, folder: Path) -> None:
    """Two runs, two processes in which Python hashes strings differently."""
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p) or "."}
    run = [sys.executable, "-c", SCRIPT, str(subject.file), str(folder / "other.onnx")]
    other = subprocess.run(run, env=environment, check=True, capture_output=True, text=True).stdout.split()[-1]
    assert written(subject.file, folder / "own.onnx", subject.cut) == other


def least_squares(subject: Subject, folder: Path) -> None:
    """On tokens that nothing was fitted to it is no worse than the slice, at every product, and does change them.

    Of a trained parent it is two blocks and 512 of the feed-forward's neurons: moments take 20 tokens a neuron.
    """
    found = subject.small
    keep = {n: np.arange(found.anatomy.groups[n].size // 2) for n in found.groups("ffn")}
    keep |= {n: np.arange(found.anatomy.groups[n].size - 1) for n in found.groups("head", "kv_head")}
    statistics = measured(found, *subject.calibration, moments=True)
    made = subject.made(found.plan(keep, "least-squares"), found, statistics).constants()
    held = found.model.constants()
    parts = [w for b in found.anatomy.stacks[0].blocks for p in b.attention + b.feed_forward for w in writing(p)]
    products = [linear for linear in found.anatomy.linears if linear.weight in parts]
    assert len(products) == len(parts) == 2 * len(found.anatomy.stacks[0].blocks)
    changed = 0
    read = activations(found.model, [linear.input for linear in products], subject.calibration[1])
    for linear, a in zip(products, read, strict=True):
        stays = ~dropped(found.anatomy, AxisRef(linear.weight, linear.in_axis), keep)
        whole, fitted = (np.moveaxis(w[linear.weight].astype(np.float64), linear.in_axis, 0) for w in (held, made))
        bias = [ref.tensor for ref in with_biases(found, (linear.weight,))[1:]]
        shift = made[bias[0]].astype(np.float64) - held[bias[0]] if bias else 0.0
        lost = a @ whole - a[:, stays] @ whole[stays]
        left = a @ whole - a[:, stays] @ fitted - shift
        changed += not np.array_equal(fitted, whole[stays])
        assert np.square(left).sum() <= np.square(lost).sum(), f"{linear.weight} is worse than its slice"
    assert changed > len(products) // 2


def writing(part: Attention | FeedForward) -> tuple[str, ...]:
    return part.o if isinstance(part, Attention) else part.down


PROPERTIES: dict[str, Callable[[Subject, Path], None]] = {
    "an empty plan changes no byte": empty_plan,
    "a permutation changes no answer": permutation,
    "a cut of a cut is the cut of both": cut_of_cut,
    "what is dropped is the parent with it zeroed": zeroed_parent,
    "the norm's correction is exact where channels are zero": norm_correction,
    "paper and norm-gain never both": scaled_once,
    "least squares is no worse on tokens held out": least_squares,
    "queries keep their keys": pairing,
    "kept pairs turn at their own frequencies": head_dims,
    "a tied tensor stays one": tied_tensor,
    "two runs, the same bytes": same_bytes,
}
