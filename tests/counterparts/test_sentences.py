"""sentence-transformers: a cloned folder loads with backend="onnx" and embeds as the clone's own graph does."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from tests.tolerances import assert_close

pytestmark = [pytest.mark.counterpart("sentence-transformers"), pytest.mark.real, pytest.mark.slow]
TEXTS = ["A man is eating food.", "A man eats something.", "Prices rose again in May."]


def by_hand(folder) -> np.ndarray:
    """Mean of the clone's last hidden states, computed without sentence-transformers. [text, hidden]."""
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words.enable_padding()
    held = words.encode_batch(TEXTS)
    fed = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    inputs = {name: np.array([getattr(one, part) for one in held]) for name, part in fed.items()}
    hidden_TLH = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx").run(["last_hidden_state"], inputs)[0]
    mask_TL1 = inputs["attention_mask"][..., None]
    return (hidden_TLH * mask_TL1).sum(1) / mask_TL1.sum(1)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_a_cloned_folder_embeds_as_its_graph_does(workplace):
    from sentence_transformers import SentenceTransformer

    workplace.section("sentence-transformers")
    small = workplace.folder / "small-minilm"
    assert json.loads((small / "1_Pooling" / "config.json").read_text())["embedding_dimension"] == 192
    config = json.loads((small / "config.json").read_text())
    assert (config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]) == (192, 6, 512)
    made = SentenceTransformer(str(small), backend="onnx").encode(TEXTS)
    assert_close(made, unit(by_hand(small)), "float32")
    assert made[0] @ made[1] > made[0] @ made[2]  # what says the same lies nearer, before any training


def test_modules_behind_the_model_take_the_features_that_are_left(workplace, rng):
    from sentence_transformers import SentenceTransformer

    workplace.section("sentence-transformers")
    parent, small = workplace.folder / "with-dense", workplace.folder / "small-dense"
    shutil.copytree(workplace.folder / "minilm-onnx", parent)
    modules = json.loads((parent / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (parent / "modules.json").write_text(json.dumps(modules))
    (parent / "3_Dense").mkdir()
    weight = rng.normal(size=(64, 384)).astype(np.float32)
    save_file(
        {"linear.weight": weight, "linear.bias": np.ones(64, np.float32)}, parent / "3_Dense" / "model.safetensors"
    )
    said = {
        "in_features": 384,
        "out_features": 64,
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    (parent / "3_Dense" / "config.json").write_text(json.dumps(said))
    workplace.run("graphclone clone with-dense small-dense --hidden 192 --heads 6 --data python-docs --limit 1")
    cut = load_file(small / "3_Dense" / "model.safetensors")["linear.weight"]
    columns = [int(np.flatnonzero((weight == column[:, None]).all(0))[0]) for column in cut.T]
    assert (len(columns), sorted(set(columns))) == (192, columns)  # the parent's own, in its order
    made = SentenceTransformer(str(small), backend="onnx").encode(TEXTS)
    assert_close(made, unit(by_hand(small)) @ cut.T + 1, "float32")
