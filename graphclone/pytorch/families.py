"""TABLE family -> what its Hugging Face checkpoint calls each weight and each size: one row a family.

Left are the names of the module that ``to_torch`` builds, right those of transformers 5. ``{i}`` counts blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Names = Mapping[str, str]


@dataclass(frozen=True)
class Stack:
    """Blocks under one name: ``ours`` and ``theirs`` hold ``{i}``; ``names`` are inside a block."""

    ours: str
    theirs: str
    names: Names


@dataclass(frozen=True)
class Family:
    """``sizes``: key of config.json -> the size it holds; ``coupled``: the config has no head_dim of its own.

    ``turned``: weights that the checkpoint keeps [in, out]. ``optional``: names that not every head has.
    """

    types: tuple[str, ...]
    sizes: Names
    outside: Names
    stacks: tuple[Stack, ...]
    coupled: bool = True
    turned: tuple[str, ...] = ()
    optional: tuple[str, ...] = field(default=("head",))
    rows: tuple[tuple[str, str], ...] = ()  # key of config.json -> the table with that many rows, however it is named
    heads: tuple[tuple[str, Names], ...] = ()  # end of an architecture name -> its own names


def _names(pairs: str) -> Names:
    """One pair a line: ours, theirs."""
    return dict(line.split() for line in pairs.strip().splitlines())


LLAMA = _names("""
norm.0 input_layernorm
attention.q self_attn.q_proj
attention.k self_attn.k_proj
attention.v self_attn.v_proj
attention.o self_attn.o_proj
attention.q_norm self_attn.q_norm
attention.k_norm self_attn.k_norm
norm.1 post_attention_layernorm
feed_forward.gate mlp.gate_proj
feed_forward.up mlp.up_proj
feed_forward.down mlp.down_proj
""")
BERT = _names("""
attention.q attention.self.query
attention.k attention.self.key
attention.v attention.self.value
attention.o attention.output.dense
norm.0 attention.output.LayerNorm
feed_forward.up intermediate.dense
feed_forward.down output.dense
norm.1 output.LayerNorm
""")
GPT2 = _names("""
norm.0 ln_1
attention.qkv attn.c_attn
attention.o attn.c_proj
norm.1 ln_2
feed_forward.up mlp.c_fc
feed_forward.down mlp.c_proj
""")
VISION = _names("""
attention.q attention.q_proj
attention.k attention.k_proj
attention.v attention.v_proj
attention.o attention.o_proj
feed_forward.up mlp.fc1
feed_forward.down mlp.fc2
""")
T5_ENCODER = _names("""
norm.0 layer.0.layer_norm
attention.q layer.0.SelfAttention.q
attention.k layer.0.SelfAttention.k
attention.v layer.0.SelfAttention.v
attention.o layer.0.SelfAttention.o
norm.1 layer.1.layer_norm
feed_forward.up layer.1.DenseReluDense.wi
feed_forward.down layer.1.DenseReluDense.wo
""")
T5_DECODER = _names("""
norm.0 layer.0.layer_norm
attention.q layer.0.SelfAttention.q
attention.k layer.0.SelfAttention.k
attention.v layer.0.SelfAttention.v
attention.o layer.0.SelfAttention.o
norm.1 layer.1.layer_norm
cross_attention.q layer.1.EncDecAttention.q
cross_attention.k layer.1.EncDecAttention.k
cross_attention.v layer.1.EncDecAttention.v
cross_attention.o layer.1.EncDecAttention.o
norm.2 layer.2.layer_norm
feed_forward.up layer.2.DenseReluDense.wi
feed_forward.down layer.2.DenseReluDense.wo
""")
WHISPER_ENCODER = _names("""
norm.0 self_attn_layer_norm
attention.q self_attn.q_proj
attention.k self_attn.k_proj
attention.v self_attn.v_proj
attention.o self_attn.out_proj
norm.1 final_layer_norm
feed_forward.up fc1
feed_forward.down fc2
""")
WHISPER_DECODER = {
    **WHISPER_ENCODER,
    "norm.1": "encoder_attn_layer_norm",
    "norm.2": "final_layer_norm",
    **{f"cross_attention.{n}": f"encoder_attn.{n}_proj" for n in "qkv"},
    "cross_attention.o": "encoder_attn.out_proj",
}
SIZES = {
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "ffn",
}
EMBEDDINGS = {
    "embedding": "embeddings.word_embeddings",
    "position_embedding": "embeddings.position_embeddings",
    "type_embedding": "embeddings.token_type_embeddings",
    "embedding_norm": "embeddings.LayerNorm",
    "position_embeddings": "embeddings.position_embeddings.weight",  # where the exporter picks rows its own way
    "token_type_embeddings": "embeddings.token_type_embeddings.weight",
}
MASKED_LM = {
    "dense": "cls.predictions.transform.dense",
    "linear": "cls.predictions.transform.dense",
    "norm": "cls.predictions.transform.LayerNorm",
    "head": "cls.predictions.decoder",
    "head.bias": "cls.predictions.bias",
}
PATCHES = {
    "cls_token": "embeddings.cls_token",
    "position_embeddings": "embeddings.position_embeddings",
    "patch": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}


def _under(prefix: str, names: Names) -> dict[str, str]:
    return {ours: f"{prefix}.{theirs}" for ours, theirs in names.items()}


TABLE: tuple[Family, ...] = (
    Family(
        ("llama", "mistral", "qwen2", "qwen3"),
        {**SIZES, "num_key_value_heads": "kv_heads", "head_dim": "head_dim", "vocab_size": "vocabulary"},
        {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"},
        (Stack("blocks.{i}", "model.layers.{i}", LLAMA),),
        coupled=False,
    ),
    Family(
        ("gpt2",),
        {
            "n_embd": "hidden",
            "n_layer": "layers",
            "n_head": "heads",
            "n_inner": "ffn",
            "vocab_size": "vocabulary",
            "n_positions": "positions",
        },
        _under("transformer", {"embedding": "wte", "position_embedding": "wpe", "norm": "ln_f"}) | {"head": "lm_head"},
        (Stack("blocks.{i}", "transformer.h.{i}", GPT2),),
        turned=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    ),
    Family(
        ("bert",),
        {**SIZES, "vocab_size": "vocabulary", "max_position_embeddings": "positions"},
        _under("bert", {**EMBEDDINGS, "dense": "pooler.dense"}) | {"head": "classifier"},
        (Stack("blocks.{i}", "bert.encoder.layer.{i}", BERT),),
        optional=("head", "dense"),
        heads=(("ForMaskedLM", MASKED_LM),),
    ),
    Family(
        ("roberta", "xlm-roberta"),
        {**SIZES, "vocab_size": "vocabulary", "max_position_embeddings": "positions"},
        _under("roberta", EMBEDDINGS)
        | {
            "linear": "lm_head.dense",
            "dense": "lm_head.dense",
            "norm": "lm_head.layer_norm",
            "head": "lm_head.decoder",
            "head.bias": "lm_head.bias",
        },
        (Stack("blocks.{i}", "roberta.encoder.layer.{i}", BERT),),
        optional=("head", "dense", "linear", "norm"),
    ),
    Family(
        ("vit",),
        SIZES,
        _under("vit", PATCHES) | {"head": "classifier"},
        (Stack("blocks.{i}", "vit.layers.{i}", {**VISION, "norm.0": "layernorm_before", "norm.1": "layernorm_after"}),),
    ),
    Family(
        ("dinov2",),
        {k: v for k, v in SIZES.items() if k != "intermediate_size"} | {"mlp_ratio": "ffn_ratio"},
        _under("dinov2", PATCHES) | {"head": "classifier"},
        (
            Stack(
                "blocks.{i}",
                "dinov2.encoder.layer.{i}",
                {
                    **VISION,
                    "norm.0": "norm1",
                    "norm.1": "norm2",
                    "lambda1": "layer_scale1.lambda1",
                    "lambda1_1": "layer_scale2.lambda1",
                },
            ),
        ),
    ),
    Family(
        ("t5",),
        {
            "d_model": "hidden",
            "num_layers": "layers",
            "num_decoder_layers": "decoder_layers",
            "num_heads": "heads",
            "d_kv": "head_dim",
            "d_ff": "ffn",
            "vocab_size": "vocabulary",
        },
        {
            "embedding": "shared",
            "relative_attention_bias": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "relative_attention_bias_1": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "norm": "encoder.final_layer_norm",
            "norm_1": "decoder.final_layer_norm",
            "head": "lm_head",
        },
        (
            Stack("stack0.blocks.{i}", "encoder.block.{i}", T5_ENCODER),
            Stack("stack1.blocks.{i}", "decoder.block.{i}", T5_DECODER),
        ),
        coupled=False,
    ),
    Family(
        ("whisper",),
        {
            "d_model": "hidden",
            "encoder_layers": "layers",
            "decoder_layers": "decoder_layers",
            "encoder_attention_heads": "heads",
            "decoder_attention_heads": "heads",
            "encoder_ffn_dim": "ffn",
            "decoder_ffn_dim": "ffn",
            "vocab_size": "vocabulary",
        },
        _under(
            "model",
            {
                "conv1": "encoder.conv1",
                "conv2": "encoder.conv2",
                "norm": "encoder.layer_norm",
                "embedding": "decoder.embed_tokens",
                "norm_1": "decoder.layer_norm",
            },
        )
        | {"head": "proj_out"},
        (
            Stack("stack0.blocks.{i}", "model.encoder.layers.{i}", WHISPER_ENCODER),
            Stack("stack1.blocks.{i}", "model.decoder.layers.{i}", WHISPER_DECODER),
        ),
        rows=(
            ("max_source_positions", "model.encoder.embed_positions.weight"),
            ("max_target_positions", "model.decoder.embed_positions.weight"),
        ),
    ),
)


def known() -> list[str]:
    """Every model type that has a row."""
    return sorted(name for family in TABLE for name in family.types)
