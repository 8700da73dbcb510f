"""Two processes, sharded by FSDP2, are one process with the same batches: really launched, on CPUs, over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import graphclone as gc
from graphclone.cli.app import run as command_line
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.training import TrainingOptions
from graphclone.pytorch.training.files import Asked, train_file
from graphclone.pytorch.training.processes import Processes, blocks_of
from graphclone.statistics.request import Calibration
from tests.pytorch.training.conftest import counting
from tests.tolerances import assert_close, difference

LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no"],
}


ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def arguments(clone: Path, output: Path, data: Path, *more: str) -> list[str]:
    options = "--steps 6 --learning-rate 1e-3 --batch-size 5 --held-out 1 --evaluations 2 --accumulate 2 --json".split()
    return ["train", str(clone), "--data", str(data), "-o", str(output), *options, *more]


@pytest.fixture
def data(tmp_path):
    """Five rows a batch, which two processes share unevenly; a padded one among them."""
    file = tmp_path / "data.npz"
    batches = counting(5, batch=5)
    batches[0]["attention_mask"] = batches[0]["attention_mask"].copy()
    batches[0]["attention_mask"][0, 6:] = 0
    np.savez(file, **{n: np.concatenate([b[n] for b in batches]) for n in ("input_ids", "attention_mask")})
    return file


def launch(launcher: str, *given: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "graphclone", *map(str, given)]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=ALONE, timeout=300)


def weights(file: Path):
    return {name: array for name, array in gc.load(file).constants().items() if array.dtype.kind == "f"}


def test_two_processes_train_as_one(llama, tmp_path, data, capsys):
    one, two = tmp_path / "one.onnx", tmp_path / "two.onnx"
    assert command_line(arguments(llama.path, one, data)) == 0
    alone = json.loads(capsys.readouterr().out)
    done = launch("torchrun", *arguments(llama.path, two, data))
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # one of them alone speaks
    together = json.loads(line)
    assert together["tokens"] == alone["tokens"]
    assert_close(np.array(together["losses"], np.float32), np.array(alone["losses"], np.float32))
    assert_close(np.array(together["held_out"], np.float32), np.array(alone["held_out"], np.float32))
    before, first, second = weights(llama.path), weights(one), weights(two)
    for name, array in first.items():
        assert_close(second[name], array)
    assert max(difference(first[name], before[name]) for name in first) > 1e-3  # it did train
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.npz", "one.onnx", "two.onnx"]


class Stopped(Exception):
    """What the test stops a run with."""


def test_two_processes_go_on_where_one_was_stopped(llama, cut, tmp_path, data):
    """Beside a teacher and its hidden states; a state belongs to the run, not to the number of processes."""
    clone, one, two = (tmp_path / name for name in ("cut.onnx", "one.onnx", "two.onnx"))
    gc.save(cut, clone)
    teacher = ("--teacher", str(llama.path), "--hidden-weight", "1", "--checkpoint-every", "1")
    assert command_line(arguments(clone, one, data, *teacher)) == 0

    def stop(done: int, total: int, loss: float) -> None:
        if done == 4:
            raise Stopped

    asked = Asked(
        clone,
        two,
        Calibration(str(data), batch_size=5),
        TrainingOptions(6, 1e-3, evaluate_every=3, accumulation=2, keep="best", hidden_weight=1.0, checkpoint_every=1),
        llama.path,
        held_out=1,
    )
    with pytest.raises(Stopped):
        train_file(asked, progress=stop)
    done = launch("accelerate", *arguments(clone, two, data, *teacher, "--resume"))
    assert done.returncode == 0, done.stderr[-2000:]
    second = weights(two)
    for name, array in weights(one).items():
        assert_close(second[name], array)


def test_two_processes_that_are_killed_end_as_two_that_were_not(llama, tmp_path, data):
    """The same file, byte for byte."""
    whole, output = tmp_path / "whole.onnx", tmp_path / "killed.onnx"
    every = ("--checkpoint-every", "1")
    assert launch("torchrun", *arguments(llama.path, whole, data, *every)).returncode == 0
    states = tmp_path / "killed.onnx.partial"
    command = [sys.executable, "-m", *LAUNCHERS["torchrun"], "-m", "graphclone"]
    with subprocess.Popen(
        [*command, *arguments(llama.path, output, data, *every)],
        env=ALONE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    ) as launcher:  # fmt: skip
        while not any(states.glob("state-*")) and launcher.poll() is None:
            time.sleep(0.002)
        os.killpg(launcher.pid, signal.SIGKILL)  # a launcher and its workers are a group
        assert launcher.wait(60) == -signal.SIGKILL
    assert not output.exists()
    done = launch("torchrun", *arguments(llama.path, output, data, *every, "--resume"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert output.read_bytes() == whole.read_bytes()
    assert not states.exists()


def test_two_processes_stop_together_where_the_loss_is_no_number(llama, tmp_path, data):
    output = tmp_path / "out.onnx"
    wild = ("--learning-rate", "1e18", "--clip", "1e18", "--warmup", "0", "--checkpoint-every", "1")
    done = launch("torchrun", *arguments(llama.path, output, data, *wild))
    assert done.returncode != 0
    assert "at step" in done.stderr
    assert not output.exists()
    assert len(list(tmp_path.glob("out.onnx.partial/state-*"))) == 1


def test_blocks_are_found_and_everything_is_placed(llama):
    module = to_torch(llama)
    assert len(blocks_of(module)) == 3
    processes = Processes.start()
    assert (processes.index, processes.count, processes.main) == (0, 1, True)
    processes.place(module, compiled=False, recompute=False)
    assert {p.device.type for p in module.parameters()} == {processes.device.type}
    assert processes.total(1.5, 2) == [1.5, 2]


def test_another_precision_may_follow_in_the_same_interpreter():
    for precision in ("bf16", "fp32", "bf16"):
        processes = Processes.start(precision)
        with processes.autocast():
            product = torch.ones(2, 2, device=processes.device) @ torch.ones(2, 2, device=processes.device)
        assert product.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
