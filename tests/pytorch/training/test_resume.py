"""A run that is killed goes on as if it had never stopped, and a state is never half there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer, models

import graphclone as gc
from graphclone.cli.app import run as command_line
from graphclone.errors import BadData, InvalidTarget
from graphclone.pytorch.training import TrainingDiverged, TrainingOptions
from graphclone.pytorch.training.checkpoint import BEST, Checkpoints, Progress
from graphclone.pytorch.training.course import Beside, run
from graphclone.pytorch.training.history import History
from graphclone.pytorch.training.processes import Processes
from tests.pytorch.training.conftest import counting

OPTIONS = TrainingOptions(
    steps=12, learning_rate=3e-3, evaluate_every=3, checkpoint_every=2, dropout=0.1, keep="best", weight_decay=0.1
)


class Killed(Exception):
    """What a test stops a run with."""


def stopped_at(step):
    def progress(done, total, loss):
        if done == step:
            raise Killed

    return progress


def held(model):
    return {name: array.tobytes() for name, array in model.constants().items()}


@pytest.mark.parametrize("step", [1, 2, 7])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(llama, tmp_path, step):
    whole = run(llama, counting(5), OPTIONS, Beside(shuffle=2), held_out=counting(1))
    beside = Beside(shuffle=2, states=tmp_path, resume=True)
    with pytest.raises(Killed):
        run(llama, counting(5), OPTIONS, beside, held_out=counting(1), progress=stopped_at(step))
    seen = []
    again = run(
        llama, counting(5), OPTIONS, beside, held_out=counting(1), progress=lambda done, *rest: seen.append(done)
    )
    assert seen[0] == step // 2 * 2 + 1
    assert held(again.model) == held(whole.model)
    assert again.history.losses == whole.history.losses
    assert again.history.evaluations == whole.history.evaluations
    assert again.history.best == whole.history.best


@pytest.mark.parametrize(
    "chosen",
    [
        {"task": "masked-lm", "accumulation": 2},
        {"precision": "bf16", "schedule": "wsd", "recompute": True},
        {"teacher_weight": 0.5, "hidden_weight": 1.0},
    ],
    ids=["masks", "bf16", "teacher"],
)
def test_whatever_it_is_trained_with(llama, cut, tmp_path, chosen):
    """Masks, batches added up, half precision, a teacher whose words were cached by the run that was stopped."""
    tokenizer = tmp_path / "tokenizer.json"
    made = Tokenizer(models.WordLevel({"[MASK]": 0, "a": 1}, unk_token="a"))
    made.add_special_tokens(["[MASK]"])
    made.save(str(tokenizer))
    teacher = {"teacher": llama, "data": "counting"} if "hidden_weight" in chosen else {}
    options = replace(OPTIONS, steps=7, **chosen)
    given = [cut, counting(5), options]
    cached = teacher and {"cache": tmp_path / "whole"}
    whole = run(*given, Beside(shuffle=2, tokenizer=tokenizer, **teacher, **cached), held_out=counting(1))
    cached = teacher and {"cache": tmp_path / "stopped"}
    beside = Beside(
        shuffle=2, tokenizer=tokenizer, states=tmp_path / "states", resume=True, logs=tmp_path / "logs",
        **teacher, **cached,
    )  # fmt: skip
    with pytest.raises(Killed):
        run(*given, beside, held_out=counting(1), progress=stopped_at(5))
    again = run(*given, beside, held_out=counting(1))
    assert held(again.model) == held(whole.model)
    assert again.history.losses == whole.history.losses
    assert curve(tmp_path / "logs", "train/loss") == list(range(1, 8))
    assert curve(tmp_path / "logs", "heldout/loss") == [0, 3, 6, 7]


def curve(logs, name):
    """The steps that a curve has points at, as TensorBoard shows it."""
    return [event.step for event in EventAccumulator(str(logs)).Reload().Scalars(name)]


def arguments(clone: Path, output: Path, data: Path, *more: str) -> list[str]:
    options = "--steps 16 --checkpoint-every 3 --learning-rate 3e-3 --batch-size 4 --shuffle 3 --held-out 1".split()
    return ["train", str(clone), "--data", str(data), "-o", str(output), *options, *more]


def test_a_process_killed_with_sigkill_is_gone_on_from(llama, tmp_path, capsys):
    """The file at the end is the same, byte for byte, and no point of the curves is lost or there twice."""
    data = tmp_path / "data.npz"
    np.savez(data, **{n: np.concatenate([b[n] for b in counting(6)]) for n in ("input_ids", "attention_mask")})
    clone, whole, output = llama.path, tmp_path / "whole.onnx", tmp_path / "killed.onnx"
    assert command_line(arguments(clone, whole, data)) == 0
    states, python = tmp_path / "killed.onnx.partial", [sys.executable, "-m", "graphclone"]
    logs = ("--logs", str(tmp_path / "logs"))
    with subprocess.Popen([*python, *arguments(clone, output, data, *logs)], stderr=subprocess.DEVNULL) as child:
        while not any(states.glob("state-*")) and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
    assert not output.exists()
    capsys.readouterr()
    assert command_line(arguments(clone, output, data)) == 2
    assert "--resume" in capsys.readouterr().err
    subprocess.run([*python, *arguments(clone, output, data, *logs, "--resume")], check=True, capture_output=True)
    assert held(gc.load(output)) == held(gc.load(whole))
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "killed.onnx", "logs", "whole.onnx"]
    assert curve(tmp_path / "logs", "train/loss") == list(range(1, 17))
    assert curve(tmp_path / "logs", "heldout/loss") == [0, 4, 8, 12, 16]


def test_a_run_that_stops_before_its_first_state_says_that_nothing_is_kept(llama, tmp_path, monkeypatch, capsys):
    """A folder without a state goes, unless the best weights are in it; with a state it is gone on with."""
    data, output = tmp_path / "data.npz", tmp_path / "out.onnx"
    states = tmp_path / "out.onnx.partial"
    np.savez(data, **{n: np.concatenate([b[n] for b in counting(6)]) for n in ("input_ids", "attention_mask")})
    for left, said, stays in (
        (".state-half", "stopped before the first state was written: nothing is kept", False),
        (BEST, f"the best weights so far are in {states / BEST}", True),
        ("state-00000003", f"the last state is in {states}, --resume goes on", True),
    ):

        def interrupted(*_, made=states / left, **__):
            made.mkdir(parents=True) if made.suffix == "" else made.touch()
            raise KeyboardInterrupt

        states.mkdir(exist_ok=True)
        monkeypatch.setattr("graphclone.pytorch.training.files.train_file", interrupted)
        assert command_line(arguments(llama.path, output, data)) == 130
        assert said in capsys.readouterr().err
        assert states.exists() == stays


def a_state(llama, folder, **options):
    chosen = TrainingOptions(steps=4, checkpoint_every=2, **options)
    with pytest.raises(Killed):
        run(llama, counting(), chosen, Beside(states=folder), progress=stopped_at(3))
    return chosen


def test_a_state_holds_tensors_and_json_and_nothing_else(llama, tmp_path):
    a_state(llama, tmp_path)
    (state,) = tmp_path.iterdir()
    assert sorted(path.name for path in state.iterdir()) == [
        "optimizer.safetensors",
        "state.json",
        "weights.safetensors",
    ]
    record = json.loads((state / "state.json").read_text())
    assert (record["step"], record["position"]) == (2, 2)
    moments = load_file(state / "optimizer.safetensors")
    weights = load_file(state / "weights.safetensors")
    assert moments.keys() == {f"{name}/{m}" for name in weights for m in ("step", "exp_avg", "exp_avg_sq")}
    assert {float(m) for name, m in moments.items() if name.endswith("/step")} == {2.0}


def test_the_weights_of_a_state_are_for_pack(llama, tmp_path):
    a_state(llama, tmp_path)
    tensors = {n: t.numpy() for n, t in load_file(next(tmp_path.glob("*/weights.safetensors"))).items()}
    assert held(gc.pack(llama, tensors)) != held(llama)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 1e-4}, "learning_rate was 0.001, is 0.0001"),
        ({"seed": 5}, "seed was 0, is 5"),
    ],
)
def test_a_state_of_another_run_is_refused(llama, tmp_path, change, message):
    a_state(llama, tmp_path)
    with pytest.raises(InvalidTarget, match=message):
        run(
            llama, counting(), TrainingOptions(steps=4, checkpoint_every=2, **change),
            Beside(states=tmp_path, resume=True),
        )  # fmt: skip


def test_a_state_is_not_gone_on_from_unasked(llama, tmp_path):
    chosen = a_state(llama, tmp_path)
    with pytest.raises(InvalidTarget, match="holds the state of a run at step 2"):
        run(llama, counting(), chosen, Beside(states=tmp_path))


@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_broken_state_is_refused_by_name(llama, tmp_path, name):
    chosen = a_state(llama, tmp_path)
    (file,) = tmp_path.glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(BadData, match=name):
        run(llama, counting(), chosen, Beside(states=tmp_path, resume=True))


def test_best_weights_that_are_gone_are_missed(llama, tmp_path):
    options = TrainingOptions(steps=4, evaluate_every=1, checkpoint_every=2, keep="best")
    beside = Beside(states=tmp_path, resume=True)
    with pytest.raises(Killed):
        run(llama, counting(), options, beside, held_out=counting(1), progress=stopped_at(3))
    (tmp_path / BEST).unlink()
    with pytest.raises(BadData, match=BEST):
        run(llama, counting(), options, beside, held_out=counting(1))


def test_what_a_killed_write_leaves_is_no_state(llama, tmp_path):
    (tmp_path / ".state-abc").mkdir()
    (tmp_path / ".state-abc" / "weights.safetensors").write_bytes(b"half")
    states = Checkpoints(tmp_path, {})
    assert states.newest() is None
    states.remove()
    assert not tmp_path.exists()


def test_only_the_newest_state_is_kept(module, tmp_path, llama):
    run(llama, counting(), TrainingOptions(steps=7, checkpoint_every=2), Beside(states=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000006"]


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_keeps_the_last_state(llama, tmp_path):
    data = [{"input_ids": b["input_ids"], "attention_mask": b["attention_mask"]} for b in counting(6)]
    options = TrainingOptions(steps=40, learning_rate=1e18, warmup=0.0, clip=1e18, checkpoint_every=1)
    with pytest.raises(TrainingDiverged, match=r"at step \d+: .*state-0000") as refusal:
        run(llama, data, options, Beside(states=tmp_path))
    (state,) = tmp_path.glob("state-*")
    assert str(state) in str(refusal.value)
    assert all(torch.isfinite(t).all() for t in load_file(state / "weights.safetensors").values())


def test_a_first_step_that_diverges_leaves_the_weights_it_began_with(llama, tmp_path):
    name, array = next((n, a) for n, a in llama.constants().items() if a.ndim == 1 and a.dtype.kind == "f")
    broken = llama.copy()
    broken.graph.tensors()[name].values = np.full_like(array, np.inf)
    with pytest.raises(TrainingDiverged, match="at step 1"):
        run(broken, counting(), TrainingOptions(steps=2, checkpoint_every=1), Beside(states=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["state-00000000"]


def test_best_weights_are_written_as_they_are_found(llama, tmp_path):
    options = TrainingOptions(steps=4, evaluate_every=2, checkpoint_every=4, keep="best")
    trained = run(llama, counting(), options, Beside(states=tmp_path), held_out=counting(1))
    tensors = {n: t.numpy() for n, t in load_file(tmp_path / BEST).items()}
    assert held(gc.pack(llama, tensors)) == held(trained.model)


@pytest.mark.parametrize("fused", [True, False])
def test_the_step_is_counted_where_the_optimizer_counts_it(tmp_path, fused):
    """As AdamW itself has it: beside the parameter where updates are fused, else on the host. The device called meta
    stands for one that is not the host."""
    states = Checkpoints(tmp_path, {})
    here, there = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4).to("meta")
    optimizer = torch.optim.AdamW(here.parameters())
    here(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    states.save(here, optimizer, Progress(1, 1, None, History()), Processes.start("fp32"))
    restored = torch.optim.AdamW(there.parameters())
    restored.param_groups[0]["fused"] = fused
    assert states.restore(there, restored) is not None
    for parameter in there.parameters():
        held = restored.state[parameter]
        assert held["step"].device.type == ("meta" if fused else "cpu")
        assert {held[key].device.type for key in ("exp_avg", "exp_avg_sq")} == {"meta"}
