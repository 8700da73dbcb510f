"""Optimum: ORTModelForCausalLM and ORTModelForFeatureExtraction load a clone's folder and run it."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest

import graphclone as gc
from graphclone.feeds import tiny_feeds
from tests.tolerances import assert_close

pytestmark = [pytest.mark.counterpart("optimum"), pytest.mark.slow]
PROMPT = [5, 11, 23]


def test_a_decoder_generates_what_its_graph_says(workplace):
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM

    workplace.section("Optimum")
    small = workplace.folder / "small-llama"
    config = json.loads((small / "config.json").read_text())
    sizes = {key: config[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim")}
    assert sizes == {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    made = ORTModelForCausalLM.from_pretrained(small)
    found = made.generate(torch.tensor([PROMPT]), max_new_tokens=6, min_new_tokens=6, do_sample=False)[0].tolist()
    clone = gc.load(small)
    session, ids = onnxruntime.InferenceSession(small / "model.onnx"), list(PROMPT)
    ends = config["eos_token_id"]
    for _ in range(6):  # the whole prompt each time, from empty caches
        fed = {**tiny_feeds(clone, batch=1, length=len(ids)), "input_ids": np.array([ids])}
        fed["attention_mask"] = np.ones((1, len(ids)), np.int64)
        if "position_ids" in fed:
            fed["position_ids"] = np.arange(len(ids))[None]
        logits = session.run(["logits"], fed)[0][0, -1]
        logits[ends] = -np.inf
        ids.append(int(logits.argmax()))
    assert found == ids


@pytest.mark.real
@pytest.mark.counterpart("sentence-transformers")
def test_an_encoder_gives_what_its_graph_gives(workplace):
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    workplace.section("sentence-transformers")
    small = workplace.folder / "small-minilm"
    made = ORTModelForFeatureExtraction.from_pretrained(small, file_name="model.onnx", subfolder="onnx")
    fed = {"input_ids": np.array([[101, 1037, 2158, 102]]), "attention_mask": np.ones((1, 4), np.int64)}
    fed["token_type_ids"] = np.zeros((1, 4), np.int64)
    session = onnxruntime.InferenceSession(small / "onnx" / "model.onnx")
    assert made.config.hidden_size == 192
    assert_close(np.asarray(made(**fed).last_hidden_state), session.run(["last_hidden_state"], fed)[0])
    told = json.loads(workplace.run("graphclone try small-minilm --with optimum --json"))
    assert (told["tool"], told["width"]) == ("optimum", 192)
