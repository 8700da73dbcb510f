"""Configurations of the clone: transformers builds from them a model of the clone's very shapes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest
import transformers

import graphclone as gc
import models
from graphclone.anatomy import inspect
from graphclone.side_files.sizes import Change, changes, left_over
from graphclone.side_files.update import Update
from tests.surgery.parents import parent

TARGETS = {
    "gpt2": gc.Target(hidden=24, heads=2, ffn=50, layers=2),
    "llama": gc.Target(hidden=24, heads=4, kv_heads=2, ffn=50, layers=2),
    "bert": gc.Target(hidden=24, heads=2, ffn=50, layers=2),
    "vit-tiny": gc.Target(hidden=24, heads=2, ffn=50, layers=2),
}
KEPT = (0, 1, 2, *range(20, 90, 3), 130)


def shapes(weights) -> Counter:
    """Of matrices, whichever way they are stored; exporters merge equal vectors."""
    return Counter(tuple(sorted(w)) for w in weights if sum(d > 1 for d in w) > 1)


@pytest.mark.parametrize("name", TARGETS)
def test_the_model_of_the_new_configuration_has_the_shapes_of_the_clone(name):
    found = parent(name, "torchscript")
    module = models.parent(name).module
    config = json.loads(module.config.to_json_string(use_diff=False))
    tokens = None if name == "vit-tiny" else KEPT
    plan = gc.plan(found.anatomy, None, TARGETS[name], importance="first", method="none", tokens=tokens)
    made = gc.clone(found.model, plan, anatomy=found.anatomy)
    anatomy = inspect(made)
    update = Update(changes(found.anatomy, anatomy, plan), tokens, "small.onnx")
    new = update.scope(config, "")
    if name == "llama":  # heads of the width they were: the hidden size no longer divides into them
        assert new["head_dim"] == found.anatomy.stacks[0].blocks[0].attention[0].head_dim
    assert update.warnings == []
    assert left_over(found.anatomy, anatomy) == []
    twin = type(module)(type(module.config).from_dict(new))
    weights = {id(p): tuple(p.shape) for p in twin.parameters()}
    assert shapes(weights.values()) == shapes(a.shape for a in made.constants().values() if a.dtype.kind == "f")
    changed = {key for key in config if new[key] != config[key]}
    assert "vocab_size" in changed or name == "vit-tiny"
    assert changed <= {*config} - {"max_position_embeddings", "n_positions", "model_type", "image_size"}


SIZES = {"hidden": 64, "layers": 6, "heads": 8, "kv_heads": 8, "head_dim": 8, "ffn": 128, "vocab": 100}
HALF = {"hidden": 32, "layers": 4, "heads": 4, "kv_heads": 4, "head_dim": 8, "ffn": 48, "vocab": 100}
ONE = Change("blocks", SIZES, HALF, (0, 1, 3, 5), 6)


def updated(config, *stacks: Change, tokens=None) -> tuple[dict, list[str]]:
    update = Update(stacks or (ONE,), tokens, "small.onnx")
    return update.scope(config, ""), update.warnings


def test_what_counts_blocks_is_counted_among_those_kept():
    config = {
        "hidden_size": 64,
        "layer_types": list("abcdef"),
        "max_window_layers": 4,
        "mlp_only_layers": [1, 2, 5],
        "stage_names": ["stem", *(f"stage{k}" for k in range(1, 7))],
        "out_indices": [6],
        "out_features": ["stage4"],
    }
    assert updated(config) == (
        {
            "hidden_size": 32,
            "layer_types": list("abdf"),
            "max_window_layers": 3,
            "mlp_only_layers": [1, 3],
            "stage_names": ["stem", "stage1", "stage2", "stage3", "stage4"],
            "out_indices": [4],
            "out_features": ["stage3"],
        },
        [],
    )


def test_blocks_that_stand_twice_are_counted_twice():
    deeper = replace(ONE, after={**SIZES, "layers": 8}, kept=(0, 1, 2, 2, 3, 3, 4, 5))
    config = {"num_hidden_layers": 6, "layer_types": list("abcdef"), "mlp_only_layers": [2], "max_window_layers": 3}
    expected = {"num_hidden_layers": 8, "layer_types": list("abccddef"), "mlp_only_layers": [2, 3]}
    assert updated(config, deeper) == ({**expected, "max_window_layers": 4}, [])


def test_two_stacks_each_by_its_own_keys():
    encoder, decoder = ONE, replace(ONE, after={**HALF, "layers": 2, "ffn": 96}, kept=(0, 5))
    config = {"d_model": 64, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
    made, warnings = updated(config, encoder, decoder)
    assert list(made.values()) == [32, 4, 2, 48, 96]
    assert warnings == []
    made, warnings = updated({"d_model": 64, "d_ff": 128, "num_layers": 6, "num_decoder_layers": 6}, encoder, decoder)
    assert list(made.values()) == [32, 128, 4, 2]
    assert warnings == ["d_ff cannot say 48 and 96: still the parent's 128"]
    made, _ = updated(
        {"model": {"encoder": {"hidden_size": 64}, "decoder": {"num_hidden_layers": 6}}}, encoder, decoder
    )
    assert made == {"model": {"encoder": {"hidden_size": 32}, "decoder": {"num_hidden_layers": 2}}}


def test_two_towers_each_by_its_sizes():
    other = replace(ONE, before={**SIZES, "hidden": 48}, after={**HALF, "hidden": 24})
    made, warnings = updated(
        {"text_config": {"hidden_size": 64}, "vision_config": {"hidden_size": 48}, "audio_config": {"hidden_size": 7}},
        ONE,
        other,
    )
    assert [v["hidden_size"] for v in made.values()] == [32, 24, 7]
    assert warnings == ["audio_config is of no part of this graph: left as it is"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden_size": 65}, "hidden_size says 65, the parent has 64: left as it is"),
        ({"vocab_size": 99}, "vocab_size says 99, the parent has 100: left as it is"),
        (
            {"sliding_window_pattern": 3},
            "sliding_window_pattern counts every 3 blocks, and they are others: left as it is",
        ),
        ({"odd": list("abcdef")}, "odd has 6 entries, as many as the parent has blocks: left as it is"),
        ({"mlp_ratio": 3, "hidden_size": 64}, "mlp_ratio says 3, the parent has 128 for 64"),
        ({"forced_decoder_ids": [[1, 7]]}, "forced_decoder_ids names tokens by their numbers in the parent: now null"),
        ({"pad_token_id": 9}, "pad_token_id names the token 9, which was not kept: now null"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_known_to_be_right_is_left_and_said(config, said):
    made, warnings = updated(config, tokens=range(0, 100, 2))
    assert warnings == [said]
    (key,) = config.keys() - {"hidden_size"} or config.keys()
    assert made[key] == (None if "now null" in said else config[key])


def test_what_follows_from_the_rest_is_said_where_it_no_longer_does():
    wide = replace(ONE, after={**HALF, "hidden": 40})
    llama = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 8}
    assert updated(llama, wide) == ({**llama, "hidden_size": 40, "num_attention_heads": 4, "head_dim": 8}, [])
    made, warnings = updated({**llama, "model_type": "bert"}, wide)
    assert "head_dim" not in made
    assert warnings == ["head_dim cannot be said here, and would be 10; the clone has 8"]
    gpt2 = {"n_embd": 32, "n_inner": None}
    square = replace(ONE, before={**SIZES, "hidden": 32}, after={**HALF, "hidden": 16})
    assert updated(gpt2, square) == ({"n_embd": 16, "n_inner": 48}, [])


def test_blocks_that_differ_need_a_list():
    uneven = replace(ONE, after={**HALF, "ffn": (48, 48, 40, 40)})
    made, warnings = updated({"intermediate_size": 128}, uneven)
    assert made == {"intermediate_size": 128}
    assert warnings == ["intermediate_size cannot say 48, 48, 40, 40: still the parent's 128"]
    before = replace(uneven, before={**SIZES, "ffn": (128, 1, 2, 3, 4, 5)})
    assert updated({"intermediate_size": [128, 1, 2, 3, 4, 5]}, before) == ({"intermediate_size": [48, 48, 40, 40]}, [])


def test_a_ratio_says_the_feed_forward():
    made, warnings = updated({"hidden_size": 64, "mlp_ratio": 2})
    assert (int(32 * made["mlp_ratio"]), warnings) == (48, [])


def test_tokens_are_counted_among_those_kept():
    config = {"bos_token_id": 4, "eos_token_id": [6, 2], "pad_token_id": -1, "suppress_tokens": [1, 2, 3, 4]}
    expected = {"bos_token_id": 2, "eos_token_id": [3, 1], "pad_token_id": -1, "suppress_tokens": [1, 2]}
    assert updated(config, tokens=range(0, 100, 2)) == (expected, [])
    assert updated(config) == (config, [])


FAMILIES = "Llama Mistral Qwen2 Qwen3 Gemma Gemma2 Phi3 GPT2 OPT Bert Roberta DistilBert ViT".split()


def _ffn(config) -> int:
    names = ("intermediate_size", "ffn_dim", "hidden_dim", "n_inner")
    return next((v for name in names if (v := getattr(config, name, None))), 4 * config.hidden_size)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_configurations_of_families_are_known_key_by_key(family):
    """As transformers has them by default: all sizes halved but head_dim, and two blocks gone."""
    kind = getattr(transformers, f"{family}Config")
    config = kind()
    heads, hidden = config.num_attention_heads, config.hidden_size
    before = {
        "hidden": hidden,
        "layers": config.num_hidden_layers,
        "heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", None) or heads,
        "head_dim": getattr(config, "head_dim", None) or hidden // heads,
        "ffn": _ffn(config),
        "vocab": getattr(config, "vocab_size", None),
    }
    after = {k: v if k == "head_dim" or v is None else v - 2 if k == "layers" else v // 2 for k, v in before.items()}
    kept = tuple(range(after["layers"]))
    made, warnings = updated(
        json.loads(config.to_json_string(use_diff=False)), Change("blocks", before, after, kept, before["layers"])
    )
    assert [w for w in warnings if "counts every" not in w] == []
    new = kind.from_dict(made)
    assert new.num_hidden_layers == after["layers"]
    assert (new.hidden_size, new.num_attention_heads) == (after["hidden"], after["heads"])
    if hasattr(new, "num_key_value_heads"):
        assert new.num_key_value_heads == after["kv_heads"]
    assert _ffn(new) == after["ffn"]
    if getattr(new, "layer_types", None):
        assert len(new.layer_types) == after["layers"]
