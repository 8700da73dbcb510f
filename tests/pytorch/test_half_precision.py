"""Weights kept in half precision behind casts: the names, the bytes and the answers of any other module."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import torch
import transformers

import graphclone as gc
import models
from graphclone import graph
from graphclone.pytorch.hugging_face import write_hugging_face
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.write_back import from_torch
from graphclone.verification.sessions import open_session
from tests.pytorch.test_hugging_face import rewrite
from tests.pytorch.test_module import differs, run
from tests.pytorch.test_tree import given_for
from tests.pytorch.test_weights import F32, I64, floats, made
from tests.tolerances import assert_close
from tools.zoo.transforms import TRANSFORMS, Job


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "vit-tiny"])
def test_weights_kept_in_bfloat16_have_the_names_of_any_other(parent_file, tmp_path, name):
    file, kept = parent_file(name, exporter="torchscript"), tmp_path / "kept.onnx"
    TRANSFORMS["bfloat16"](Job(file, kept))
    model = graph.load(kept)
    module = to_torch(model).eval()
    whole = {n: p.shape for n, p in to_torch(graph.load(file)).named_parameters()}
    held = dict(module.named_parameters())
    assert {n: p.shape for n, p in held.items()} == whole
    assert {p.dtype for p in held.values() if p.dim() > 1} == {torch.bfloat16}
    differs(module, kept)
    before, after = model.constants(), from_torch(model, module).constants()
    assert all(after[n].tobytes() == array.tobytes() for n, array in before.items())
    sum(out.float().square().mean() for out in run(module, given_for(kept)).values()).backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for n, p in held.items() if "pooler" not in n)


def test_half_precision_is_widened_whatever_reads_it():
    """Vectors and matrices, a tie that is written twice, and a weight that no module of torch.nn reads."""
    half = ml_dtypes.bfloat16
    table = floats(16, 4).astype(half)
    nodes = [
        *[("Cast", [n], [f"{n}_wide"], "", {"to": F32}) for n in ("head", "gain", "bias", "table", "slope")],
        ("Gather", ["table_wide", "p"], ["rows"], "", {}),
        ("LayerNormalization", ["rows", "gain_wide", "bias_wide"], ["normed"], "", {}),
        ("Mul", ["normed", "slope_wide"], ["scaled"], "", {}),
        ("MatMul", ["scaled", "head_wide"], ["y"], "", {}),
    ]
    vectors = {n: (floats(4) + i).astype(half) for i, n in enumerate(("gain", "bias", "slope"))}
    model = made(nodes, [("p", I64, ["b"])], {"table": table, "head": np.ascontiguousarray(table.T), **vectors})
    module = to_torch(model)
    assert {"NarrowEmbedding(", "NarrowLinear(", "NarrowLayerNorm("} <= set(re.findall(r"Narrow\w+\(", module.code))
    assert len(list(module.parameters())) == 4
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    places = np.array([3, 1, 9])
    (wanted,) = open_session(model).run({"p": places}).values()
    assert_close(module(p=torch.from_numpy(places))["y"].detach().numpy(), wanted)
    back = from_torch(model, module).constants()
    assert all(back[n].tobytes() == array.tobytes() for n, array in model.constants().items())


@pytest.mark.real
@pytest.mark.slow
def test_a_real_clone_in_bfloat16_answers_in_transformers_as_in_onnx_runtime(parent_file, tmp_path):
    """SmolLM2-135M at half its width, with 8 of its 30 blocks."""
    model = gc.load(parent_file("smollm2", exporter="torchscript"))
    target = gc.Target(hidden=288, layers=8)
    clone = gc.clone(model, gc.plan(gc.inspect(model), None, target, importance="first", method="none"))
    gc.save(clone, tmp_path / "whole.onnx")
    TRANSFORMS["bfloat16"](Job(tmp_path / "whole.onnx", tmp_path / "clone.onnx"))
    models.parent("smollm2").module.config.save_pretrained(tmp_path / "parent")
    rewrite(tmp_path / "parent", architectures=["LlamaForCausalLM"])
    write_hugging_face(gc.load(tmp_path / "clone.onnx"), tmp_path / "parent", tmp_path / "checkpoint")
    module = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint").eval()
    ids = torch.randint(0, module.config.vocab_size, (2, 17), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    session = onnxruntime.InferenceSession(tmp_path / "clone.onnx", providers=["CPUExecutionProvider"])
    (wanted,) = session.run(["logits"], {n: t.numpy() for n, t in given.items()})
    with torch.no_grad():
        assert_close(module(**given).logits.numpy(), wanted)
