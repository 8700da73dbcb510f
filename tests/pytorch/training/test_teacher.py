"""Learning from the parent: in ONNX Runtime, with its hidden states, and from what was kept of it on disk."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch

import graphclone as gc
from graphclone.errors import BadData, InvalidTarget
from graphclone.plan import Plan
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.training import TASKS, Setting, TrainingOptions
from graphclone.pytorch.training.cache import FULL, Cache
from graphclone.pytorch.training.course import Beside, run
from graphclone.pytorch.training.hidden import kinship, with_outputs
from graphclone.pytorch.training.losses import hidden_distance
from graphclone.pytorch.training.teacher import Teacher
from graphclone.verification.sessions import open_session
from tests.pytorch.training.conftest import counting
from tests.tolerances import assert_close


def example(batch):
    return TASKS["causal-lm"].example(batch, Setting(), np.random.default_rng(0))


def test_a_model_has_nothing_to_learn_from_itself(llama):
    options = TrainingOptions(steps=3, learning_rate=1e-9)  # AdamW would blow the noise of rounding up to full steps
    trained = run(llama, counting(), options, Beside(teacher=llama), held_out=counting(1))
    assert max(map(abs, trained.history.losses)) < 1e-6
    assert trained.history.taught == 3


def test_a_clone_comes_closer_to_its_teacher(llama, cut):
    options = TrainingOptions(steps=30, learning_rate=3e-3)
    trained = run(cut, counting(), options, Beside(teacher=llama))
    assert trained.history.losses[-1] < trained.history.losses[0] / 2
    session = open_session(trained.model)
    before, after, teacher = (
        s.run(counting(1)[0])["logits"] for s in (open_session(cut), session, open_session(llama))
    )
    assert np.abs(after - teacher).mean() < np.abs(before - teacher).mean()


def test_half_a_teacher_is_half_of_each_loss(llama, cut):
    found = {}
    for weight in (0.0, 0.5, 1.0):
        options = TrainingOptions(steps=1, teacher_weight=weight, hidden_weight=0.0)
        found[weight] = run(cut, counting(), options, Beside(teacher=llama)).history.losses[0]
    assert found[0.5] == pytest.approx((found[0.0] + found[1.0]) / 2, rel=1e-5)
    alone = run(cut, counting(), TrainingOptions(steps=1), Beside()).history.losses[0]
    assert found[0.0] == pytest.approx(alone, rel=1e-6)


def test_hidden_states_meet_block_by_block_and_neuron_by_neuron(llama, cut):
    """Blocks 0 and 2 were kept. A clone of the same width and depth is exactly its parent; a cut one is near it."""
    kin = kinship(cut, llama)
    theirs = gc.inspect(llama).stacks[0].blocks
    assert [pair.theirs for pair in kin.pairs] == [theirs[0].exit, theirs[2].exit]
    assert kin.dropped == pytest.approx(1 / 3)
    anatomy = gc.inspect(llama)
    residual = anatomy.stacks[0].residual
    size = anatomy.groups[residual].size
    turned = gc.clone(llama, Plan(llama.sha256, {residual: tuple(range(size))[::-1]}, {}, "none"))
    kin = kinship(turned, llama)
    teacher = Teacher.open(llama, TASKS["causal-lm"], Setting(), pairs=kin.pairs)
    taught = teacher(example(counting(1)[0]), hidden=True)
    ours = to_torch(with_outputs(turned, [pair.ours for pair in kin.pairs])).eval()
    with torch.no_grad():
        outputs = ours(**{n: torch.from_numpy(a) for n, a in counting(1)[0].items()})
    for pair, held in zip(kin.pairs, taught.hidden, strict=True):
        assert_close(outputs[pair.ours].numpy(), held.numpy())
    assert float(hidden_distance([outputs[p.ours] for p in kin.pairs], taught.hidden, None)) < 1e-5


def test_hidden_states_add_to_the_loss_and_fade(llama, cut):
    """Depth falls by a third, so they are imitated without being asked for; by half the run they weigh nothing."""
    losses = {
        weight: run(
            cut, counting(), TrainingOptions(steps=8, hidden_weight=weight, learning_rate=1e-9), Beside(teacher=llama)
        ).history.losses
        for weight in (None, 0.0, 1.0)
    }
    assert losses[None] == losses[1.0]
    apart = [a - b for a, b in zip(losses[1.0], losses[0.0], strict=True)]
    assert apart[0] > 0.01
    assert all(a >= b - 1e-6 for a, b in pairwise(apart[:5]))
    assert apart[4:] == pytest.approx([0.0] * 4, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"graphclone.plan": None}, "carries no plan"),
        ({"graphclone.plan": "other"}, "is not the clone's parent"),
    ],
)
def test_hidden_states_of_strangers_are_refused(llama, cut, change, message):
    stranger = cut.copy()
    text = change["graphclone.plan"]
    if text is None:
        del stranger.metadata["graphclone.plan"]
    else:
        stranger.metadata["graphclone.plan"] = Plan("0" * 64, {}, {}, "none").to_json()
    with pytest.raises(InvalidTarget, match=message):
        run(stranger, counting(), TrainingOptions(steps=1, hidden_weight=1.0), Beside(teacher=llama))
    run(stranger, counting(), TrainingOptions(steps=1), Beside(teacher=llama))  # logits need no plan


def test_a_teacher_of_another_vocabulary_is_refused_with_both_sizes(llama):
    other = llama.copy()
    (logits,) = other.graph.outputs
    ends = [gs.Constant(name, np.array([k])) for name, k in (("from", 0), ("to", 97), ("along", 2))]
    fewer = gs.Variable("logits_of_97", np.float32, [*logits.shape[:2], 97])
    other.graph.nodes.append(gs.Node("Slice", "fewer", {}, [logits, *ends], [fewer]))
    other.graph.outputs = [fewer]
    other.path = None
    with pytest.raises(InvalidTarget, match=r"teacher's vocabulary has 97 entries, the clone's 131"):
        run(llama, counting(), TrainingOptions(steps=1), Beside(teacher=other))


def test_a_teacher_that_reads_something_else_is_refused(llama, parent_file):
    vit = gc.load(parent_file("vit-tiny", exporter="dynamo"))
    with pytest.raises(BadData, match=r"teacher|logits"):
        run(llama, counting(), TrainingOptions(steps=1), Beside(teacher=vit))


def test_bound_outputs_are_those_of_a_plain_run(llama):
    """The way to a GPU, taken on the CPU: feeds and results by DLPack."""
    session, batch = open_session(llama), counting(1)[0]
    bound = session.run_bound({n: torch.from_numpy(a) for n, a in batch.items()}, ["logits"], "cpu")
    assert np.array_equal(torch.from_dlpack(bound["logits"]).numpy(), session.run(batch)["logits"])


def test_a_second_run_reads_what_the_teacher_said(llama, cut, tmp_path):
    options = TrainingOptions(steps=6, hidden_weight=0.0)
    beside = Beside(teacher=llama, cache=tmp_path, data="counting", shuffle=4)
    first, second = (run(cut, counting(), options, beside).history for _ in range(2))
    live = run(cut, counting(), options, Beside(teacher=llama, shuffle=4)).history
    assert (first.taught, second.taught, live.taught) == (4, 0, 6)  # in the second pass rows come in other company
    assert first.losses == second.losses
    assert_close(np.array(first.losses, np.float32), np.array(live.losses, np.float32))


def test_another_teacher_or_other_data_has_a_cache_of_its_own(llama, cut, tmp_path):
    options = TrainingOptions(steps=1, hidden_weight=0.0)
    for data, teacher in (("a", llama), ("b", llama), ("a", cut)):
        run(cut, counting(1), options, Beside(teacher=teacher, cache=tmp_path, data=data))
    assert len(list(tmp_path.iterdir())) == 3


def test_of_a_large_vocabulary_the_top_is_kept(tmp_path):
    cache = Cache.open(tmp_path, "a" * 64, "data", "causal-lm", top=8)
    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 4, FULL + 1)).astype(np.float32))
    feeds = {"input_ids": np.arange(12).reshape(3, 4)}
    kept = cache.write(feeds, logits, logits=True)
    assert kept.output.shape == kept.top.shape == (3, 4, 8)
    assert_close(kept.output[0, 0].numpy(), torch.log_softmax(logits, -1)[0, 0][kept.top[0, 0].long()].numpy())
    reopened = Cache.open(tmp_path, "a" * 64, "data", "causal-lm", top=8)
    mixed = reopened.read({"input_ids": feeds["input_ids"][[2, 0]]})
    assert torch.equal(mixed.output, kept.output[[2, 0]])
    assert torch.equal(mixed.top, kept.top[[2, 0]])
    assert reopened.read({"input_ids": feeds["input_ids"] + 1}) is None


def test_more_than_there_are_tokens_are_all_of_them(tmp_path):
    cache = Cache.open(tmp_path, "a" * 64, "data", "causal-lm", top=FULL * 4)
    logits = torch.randn(1, 2, FULL + 1, generator=torch.Generator().manual_seed(0))
    kept = cache.write({"input_ids": np.ones((1, 2), np.int64)}, logits, logits=True)
    assert kept.output.shape == kept.top.shape == (1, 2, FULL + 1)


def test_a_broken_cache_is_refused_by_name(tmp_path):
    cache = Cache.open(tmp_path, "a" * 64, "data", "causal-lm")
    cache.write({"x": np.zeros((1, 2))}, torch.zeros(1, 2), logits=False)
    (file,) = Path(cache.folder).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(BadData, match=file.name):
        Cache.open(tmp_path, "a" * 64, "data", "causal-lm")


def test_a_cache_serves_no_masks_that_change(llama, tmp_path):
    with pytest.raises(InvalidTarget, match="drawn anew"):
        run(llama, counting(), TrainingOptions(steps=1, task="masked-lm"), Beside(teacher=llama, cache=tmp_path))


def test_an_encoder_learns_its_parents_embedding(bert, tmp_path):
    """Half of the residual neurons: the clone's embedding is held against the neurons it was made of.

    What the teacher said the first time is read the second.
    """
    anatomy = gc.inspect(bert)
    residual = anatomy.stacks[0].residual
    kept = tuple(range(0, anatomy.groups[residual].size, 2))
    clone = gc.clone(bert, Plan(bert.sha256, {residual: kept}, {}, "none"), anatomy=anatomy)
    data = counting()
    fed = [{name: batch.get(name, np.zeros_like(batch["input_ids"])) for name in inputs(bert)} for batch in data]
    options = TrainingOptions(steps=25, learning_rate=3e-3, task="embedding", evaluate_every=25)
    beside = Beside(teacher=bert, read="last_hidden_state", cache=tmp_path)
    trained = run(clone, fed, options, beside, held_out=fed[:1])
    (_, before), (_, after) = trained.history.evaluations[0], trained.history.evaluations[-1]
    assert after < before / 2
    assert trained.in_runtime == pytest.approx(after, rel=1e-3)
    assert trained.history.taught == 3  # of four batches, one of which was evaluated on before
    again = run(clone, fed, options, beside, held_out=fed[:1]).history
    assert (again.taught, again.losses) == (0, trained.history.losses)


def inputs(model):
    return [tensor.name for tensor in model.graph.inputs]


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO GPU: a teacher beside a module on CUDA is not tested here"
)
def test_on_a_gpu_nothing_passes_through_the_host(llama):
    cpu, gpu = (
        Teacher.open(llama, TASKS["causal-lm"], Setting(), device=torch.device(where)) for where in ("cpu", "cuda")
    )
    assert gpu.gpu == 0
    given = example(counting(1)[0])
    said = gpu(given).output
    assert said.device.type == "cuda"
    assert_close(said.cpu().numpy(), cpu(given).output.numpy(), "float16")
