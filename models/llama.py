"""Llama, seeded: grouped-query attention, rotary positions, gated feed-forward, RMSNorm, untied head."""

from __future__ import annotations

from graphclone.errors import InvalidTarget
from models import text
from models.recipe import Options, Parent, Recipe, Shape
from models.seeding import seeded

# Half of head_dim equals kv_heads on purpose: the same integer constant then serves unrelated uses in the graph.
SHAPE = Shape(hidden=64, heads=8, kv_heads=4, head_dim=8, ffn=160, layers=3)
VOCAB, POSITIONS = 131, 128


def load(options: Options) -> Parent:
    """A LlamaForCausalLM; logits [batch, sequence, vocab]."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = options.shape
    if not shape.heads or not shape.kv_heads or shape.heads % shape.kv_heads:
        raise InvalidTarget(f"recipe llama: heads={shape.heads} is not a multiple of kv_heads={shape.kv_heads}")
    module = seeded(
        LlamaForCausalLM,
        LlamaConfig,
        options,
        vocab_size=VOCAB,
        max_position_embeddings=POSITIONS,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        use_cache=False,
    )
    inputs = text.example(VOCAB)
    axes = dict.fromkeys([*inputs, "logits"], text.DYNAMIC)
    return Parent(module, inputs, ("logits",), axes)


RECIPE = Recipe("llama", "seeded Llama: grouped-query attention, rotary positions, gated feed-forward", SHAPE, load)
