"""GPT-2, seeded: packed QKV in Conv1D layout, learned positions, tied head, pre-norm."""

from __future__ import annotations

from models import text
from models.recipe import Options, Parent, Recipe, Shape
from models.seeding import seeded

SHAPE = Shape(hidden=48, heads=4, ffn=160, layers=3)
VOCAB, POSITIONS = 131, 64


def load(options: Options) -> Parent:
    """A GPT2LMHeadModel; logits [batch, sequence, vocab]."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = options.shape
    text.head_dim("gpt2", shape.hidden, shape.heads)
    module = seeded(
        GPT2LMHeadModel,
        GPT2Config,
        options,
        vocab_size=VOCAB,
        n_positions=POSITIONS,
        n_embd=shape.hidden,
        n_head=shape.heads,
        n_inner=shape.ffn,
        n_layer=shape.layers,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    inputs = text.example(VOCAB)
    axes = dict.fromkeys([*inputs, "logits"], text.DYNAMIC)
    return Parent(module, inputs, ("logits",), axes)


RECIPE = Recipe("gpt2", "seeded GPT-2: packed QKV, learned positions, tied head", SHAPE, load)
