"""What a checkpoint of a family cannot say is refused, and nothing is written."""

from __future__ import annotations

import json

import pytest

import graphclone as gc
from graphclone.errors import BadData, InvalidTarget, UnsupportedGraph
from graphclone.pytorch.hugging_face import write_hugging_face


@pytest.fixture
def llama(parent_file):
    return gc.load(parent_file("llama", exporter="torchscript"))


def config(folder, **settings):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model_type": "falcon"}, UnsupportedGraph, "the family 'falcon' has no row"),
        ({"model_type": "llama"}, BadData, "names no architecture"),
        ({"model_type": "llama", "architectures": ["LlamaForChess"]}, UnsupportedGraph, "of llama there are LlamaForC"),
        ({"model_type": "gpt2", "architectures": ["GPT2Model"]}, UnsupportedGraph, "has no place"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, UnsupportedGraph, "has no place"),
        ({"hidden_size": 4}, BadData, "no model_type"),
    ],
)
def test_what_cannot_be_said_is_refused(llama, tmp_path, settings, error, message):
    like = config(tmp_path / "like", **settings)
    with pytest.raises(error, match=message):
        write_hugging_face(llama, like, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_config_is_refused(llama, tmp_path):
    with pytest.raises(BadData, match=r"config\.json"):
        write_hugging_face(llama, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("recipe", "architecture", "message"),
    [
        ("llama", "LlamaForCausalLM", "hidden size of 36 is no multiple of 8 heads, as the config of llama asks"),
        ("gpt2", "GPT2LMHeadModel", r"the config of gpt2 has no head_dim of its own, .*: --heads 3 would fit"),
    ],
)
def test_sizes_that_a_config_cannot_say_are_refused(parent_file, tmp_path, recipe, architecture, message):
    parent = gc.load(parent_file(recipe, exporter="torchscript"))
    anatomy = gc.inspect(parent)
    clone = gc.clone(parent, gc.plan(anatomy, None, gc.Target(hidden=36), importance="first", method="none"))
    like = config(tmp_path / "like", model_type=recipe, architectures=[architecture])
    with pytest.raises(InvalidTarget, match=message):
        write_hugging_face(clone, like, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_body_is_written_as_a_body_though_the_parents_config_names_a_head(parent_file, tmp_path):
    """bert-base's config is of a masked language model, and what people export of it is its hidden states."""
    model = gc.load(parent_file("bert", exporter="torchscript"))
    like = config(tmp_path / "like", model_type="bert", architectures=["BertForMaskedLM"])
    assert write_hugging_face(model, like, tmp_path / "out")["architecture"] == "BertModel"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["BertModel"]
