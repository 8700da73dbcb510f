"""BERT, seeded: post-norm encoder, separate Q, K and V, token types, pooler."""

from __future__ import annotations

from models import text
from models.recipe import Options, Parent, Recipe, Shape
from models.seeding import seeded

SHAPE = Shape(hidden=48, heads=4, ffn=160, layers=3)
VOCAB, POSITIONS, TOKEN_TYPES = 131, 64, 2


def load(options: Options) -> Parent:
    """A BertModel; last_hidden_state [batch, sequence, hidden] and pooler_output [batch, hidden]."""
    from transformers import BertConfig, BertModel

    shape = options.shape
    text.head_dim("bert", shape.hidden, shape.heads)
    module = seeded(
        BertModel,
        BertConfig,
        options,
        vocab_size=VOCAB,
        max_position_embeddings=POSITIONS,
        type_vocab_size=TOKEN_TYPES,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        use_cache=False,
    )
    inputs = text.example(VOCAB, token_types=TOKEN_TYPES)
    axes = dict.fromkeys([*inputs, "last_hidden_state"], text.DYNAMIC) | {"pooler_output": {0: "batch"}}
    return Parent(module, inputs, ("last_hidden_state", "pooler_output"), axes)


RECIPE = Recipe("bert", "seeded BERT: post-norm encoder with token types and pooler", SHAPE, load)
