"""Trained parents do what they were trained for, under ONNX Runtime alone."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer

import models
from tests.tolerances import assert_close

pytestmark = pytest.mark.real

CONTINUATIONS = {
    "The capital of France is": " Paris",
    "The opposite of hot is": " cold",
    "One, two, three, four,": " five",
}


@pytest.mark.slow
def test_smollm2_knows_how_sentences_go_on():
    file = models.cached("smollm2", exporter="dynamo")
    tokenizer = Tokenizer.from_file(str(models.tokenizer_beside(file)))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for prompt, expected in CONTINUATIONS.items():
        ids = np.array([tokenizer.encode(prompt).ids])
        (logits,) = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        assert tokenizer.decode([int(logits[0, -1].argmax())]) == expected, prompt


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_minilm_puts_paraphrases_together_and_strangers_apart(exporter):
    file = models.cached("minilm", exporter=exporter)
    tokenizer = Tokenizer.from_file(str(models.tokenizer_beside(file)))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(64)
    texts = [
        "A man is playing the guitar on stage.",
        "Someone performs with a guitar before an audience.",
        "The stock market fell sharply on Monday.",
    ]
    encoded = tokenizer.encode_batch(texts)
    fed = {
        "input_ids": np.array([e.ids for e in encoded]),
        "attention_mask": np.array([e.attention_mask for e in encoded]),
        "token_type_ids": np.array([e.type_ids for e in encoded]),
    }
    (hidden,) = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, fed)
    mask = fed["attention_mask"][:, :, None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    cosine = unit @ unit.T
    assert cosine[0, 1] > 0.5
    assert abs(cosine[0, 2]) < 0.2


def test_the_vit_backbone_is_the_one_inside_the_shipped_file(tmp_path, rng):
    shipped = onnx.load(models.cached("vit-focus"))
    norm = next(n for n in shipped.graph.node if n.op_type == "Add" and "backbone.layernorm.bias" in n.input)
    shipped.graph.output.append(onnx.helper.make_empty_tensor_value_info(norm.output[0]))
    shipped.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    onnx.save(shipped, tmp_path / "opened.onnx")
    pixels = rng.standard_normal((2, 3, 224, 224)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / "opened.onnx"), providers=["CPUExecutionProvider"])
    (expected,) = session.run([norm.output[0]], {"input_image": pixels})
    with torch.no_grad():
        found = models.parent("vit").module(pixel_values=torch.from_numpy(pixels)).last_hidden_state
    assert_close(found.numpy(), expected)


def test_vit_focus_is_the_file_as_it_ships(tmp_path):
    row = models.recipe("vit-focus")
    built = models.build("vit-focus", tmp_path / "copy.onnx")
    assert row.ready is not None
    assert built.read_bytes() == row.ready().read_bytes()
