"""`graphclone pack`: weights trained elsewhere, in the precision and the layout that the graph has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

import graphclone as gc
from graphclone.cli.app import run
from graphclone.verification import verify_trained
from graphclone.verification.sessions import open_session
from tests.tolerances import assert_close
from tools.zoo.transforms import TRANSFORMS, Job

FILE = 5
PRECISIONS = {
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
}


@pytest.fixture(scope="module", params=[*PRECISIONS, "fused"])
def packable(
    request: pytest.FixtureRequest, parent_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    """What was done to a GPT-2's graph, its file as graphclone writes it, and the folder of `graphclone torch`."""
    folder = tmp_path_factory.mktemp(request.param)
    file = parent_file("gpt2", exporter="torchscript")
    if request.param in TRANSFORMS:
        TRANSFORMS[request.param](Job(file, folder / "made.onnx", 4, 48, "gpt2"))
        file = folder / "made.onnx"
    gc.save(gc.load(file), folder / "model.onnx")
    assert run(["torch", str(folder / "model.onnx"), "-o", str(folder / "torch")]) == 0
    return request.param, folder / "model.onnx", folder / "torch" / "model.safetensors"


def types(file: Path) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in onnx.load(file).graph.initializer}


def test_what_was_not_trained_gives_the_same_file(packable: tuple[str, Path, Path], tmp_path: Path) -> None:
    kind, model, weights = packable
    assert PRECISIONS.get(kind, 1) in types(model).values()
    out = tmp_path / "out.onnx"
    assert run(["pack", str(model), str(weights), "-o", str(out)]) == 0
    assert out.read_bytes() == model.read_bytes()


def test_what_was_trained_in_float32_goes_back_in_the_graphs_own_type(
    packable: tuple[str, Path, Path], tmp_path: Path
) -> None:
    kind, model, weights = packable
    generator = torch.Generator().manual_seed(0)
    learnt = dict(gc.to_torch(gc.load(model)).named_parameters())
    assert kind == "fused" or PRECISIONS[kind] in {PRECISIONS[str(p.dtype)[6:]] for p in learnt.values()}
    trained = {
        name: held.float() + 0.02 * torch.randn(held.shape, generator=generator) if name in learnt else held
        for name, held in load_file(weights).items()
    }
    save_file(trained, tmp_path / "trained.safetensors")
    out = tmp_path / "out.onnx"
    assert run(["pack", str(model), str(tmp_path / "trained.safetensors"), "-o", str(out)]) == 0
    assert types(out) == types(model)
    report = verify_trained(gc.load(model), gc.load(out))
    assert report.passed, report.summary
    module = gc.to_torch(gc.load(out)).eval()
    for name, held in module.named_parameters():
        assert torch.equal(held, trained[name].to(learnt[name].dtype))
    batch = {"input_ids": np.arange(10).reshape(2, 5), "attention_mask": np.ones((2, 5), np.int64)}
    found = open_session(gc.load(out)).run({n: batch[n] for n in module.meta["graphclone.inputs"]})["logits"]
    with torch.no_grad():
        expected = module(**{n: torch.from_numpy(batch[n]) for n in module.meta["graphclone.inputs"]})["logits"]
    assert_close(found, expected.numpy(), kind if kind == "float16" else "float32")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda held, name: held.pop(name), "no values for {}"),
        (lambda held, name: held.update({name: held[name][:-1].contiguous()}), "{}: shape"),
        (lambda held, name: held.update({name: held[name] * float("nan")}), "{}: holds values that are not finite"),
        (lambda held, name: held.update(stranger=torch.zeros(3)), "no weight called stranger"),
    ],
    ids=["missing", "shape", "nan", "extra"],
)
def test_what_does_not_fit_is_one_line_and_writes_nothing(
    packable: tuple[str, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[dict[str, torch.Tensor], str], object],
    message: str,
) -> None:
    _, model, weights = packable
    tensors = load_file(weights)
    name = min(n for n, t in tensors.items() if n.startswith("blocks.1.") and t.dim() == 2)
    spoil(tensors, name)
    save_file(tensors, tmp_path / "spoilt.safetensors")
    assert run(["pack", str(model), str(tmp_path / "spoilt.safetensors"), "-o", str(tmp_path / "out.onnx")]) == FILE
    said = capsys.readouterr().err
    assert message.format(name) in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["spoilt.safetensors"]


def test_a_packed_clone_is_examined_as_a_trained_one(
    parent_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parent, clone, packed = parent_file("gpt2", exporter="torchscript"), tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert run(["clone", str(parent), str(clone), "--layers", "2", "--importance", "first"]) == 0
    assert run(["torch", str(clone), "-o", str(tmp_path / "torch")]) == 0
    tensors = {n: t * 1.01 for n, t in load_file(tmp_path / "torch" / "model.safetensors").items()}
    save_file(tensors, tmp_path / "trained.safetensors")
    assert run(["pack", str(clone), str(tmp_path / "trained.safetensors"), "-o", str(packed)]) == 0
    capsys.readouterr()
    assert run(["verify", str(parent), str(packed)]) == 0
    assert "the clone was trained after the cut" in capsys.readouterr().out
