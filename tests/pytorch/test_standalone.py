"""`graphclone torch`: a folder of source and weights that runs without graphclone, and goes back into the graph."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from graphclone import graph
from graphclone.errors import BadData
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.standalone import write_standalone
from graphclone.pytorch.write_back import pack
from tests.pytorch.test_tree import given_for, outputs
from tests.tolerances import assert_close
from tools.zoo.transforms import TRANSFORMS, Job


@pytest.mark.parametrize(("name", "kept"), [("llama", "float32"), ("vit-tiny", "float32"), ("gpt2", "bfloat16")])
def test_a_folder_runs_without_graphclone(parent_file, tmp_path, name, kept):
    file = parent_file(name, exporter="dynamo")
    if kept in TRANSFORMS:
        TRANSFORMS[kept](Job(file, tmp_path / "kept.onnx"))
        file = tmp_path / "kept.onnx"
    model, given = graph.load(file), given_for(file)
    said = write_standalone(model, tmp_path / "alone")
    assert sorted(p.name for p in (tmp_path / "alone").iterdir()) == ["model.py", "model.safetensors"]
    np.savez(tmp_path / "given.npz", **given)
    script = (
        "import sys, numpy, torch\n"
        "sys.modules['graphclone'] = None\n"  # an import of it fails
        "import model\n"
        "given = {n: torch.from_numpy(a) for n, a in numpy.load('given.npz').items()}\n"
        "found = model.load('alone')(**given)\n"
        "numpy.savez('found.npz', **{n: t.detach().numpy() for n, t in found.items()})\n"
    )
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, 'alone')\n" + script]
    subprocess.run(command, cwd=tmp_path, check=True, env={"PATH": "", "HOME": str(tmp_path)})
    found = np.load(tmp_path / "found.npz")
    for n, out in outputs(to_torch(model).eval(), given).items():
        assert_close(found[n], out.numpy())
    assert said["parameters"] == sum(p.numel() for p in to_torch(model).parameters())


def test_the_files_weights_go_back_and_its_tables_may_not_change(parent_file, tmp_path):
    model = graph.load(parent_file("llama", exporter="torchscript"))
    write_standalone(model, tmp_path / "alone")
    tensors = load_file(tmp_path / "alone" / "model.safetensors")
    back = pack(model, tensors)
    assert all(a.tobytes() == back.constants()[n].tobytes() for n, a in model.constants().items())
    with pytest.raises(BadData, match="frequencies: is a table"):
        pack(model, {**tensors, "frequencies": tensors["frequencies"] + 1})
