"""Maps the module's weights and sizes to the names that a Hugging Face checkpoint has for them: one row a family.

Left are the names of the module that ``to_torch`` builds, right those of transformers 5. ``{i}`` counts blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphclone.pytorch.family_names import (
    BERT,
    EMBEDDINGS,
    GPT2,
    LLAMA,
    PATCHES,
    T5_DECODER,
    T5_ENCODER,
    VISION,
    WHISPER_DECODER,
    WHISPER_ENCODER,
    Names,
)

BODIES = ("Model", "EncoderModel")  # ends of the names of architectures without a head


@dataclass(frozen=True)
class Stack:
    """Blocks under one name: ``ours`` and ``theirs`` hold ``{i}``; ``names`` are inside a block."""

    ours: str
    theirs: str
    names: Names


@dataclass(frozen=True)
class Head:
    """What one architecture has beside the family's body. ``optional``: not computed where nobody asked for it."""

    names: Names = field(default_factory=dict)
    optional: bool = False


@dataclass(frozen=True)
class Family:
    """``types``: model_type -> how the names of its classes begin; ``heads``: how they end -> what is in them.

    ``sizes``: key of config.json -> the size it holds; ``coupled``: the config has no head_dim of its own. ``turned``:
    weights that the checkpoint keeps [in, out]. ``rows``: key of config.json -> the table with that many rows, however
    it is named. ``joined``: a table that exporters may cut in two -> the two. ``scaled_by_tie``: tie_word_embeddings
    says whether the head's input is scaled, not whether there is a tie. ``even``: types whose config
    asks for a hidden size that the heads divide, head_dim or not.
    """

    types: Names
    sizes: Names
    outside: Names
    stacks: tuple[Stack, ...]
    heads: Mapping[str, Head]
    coupled: bool = True
    turned: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()
    joined: tuple[tuple[str, tuple[str, str]], ...] = ()
    scaled_by_tie: bool = False
    even: tuple[str, ...] = ()

    def architectures(self, model_type: str) -> dict[str, Head]:
        """Class name -> what it has beside the body."""
        return {f"{self.types[model_type]}{end}": head for end, head in self.heads.items()}


SIZES = {
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "ffn",
}


def _under(prefix: str, names: Names) -> dict[str, str]:
    return {ours: f"{prefix}.{theirs}" for ours, theirs in names.items()}


def _same(ours: str, theirs: str) -> Head:
    """A head of one matrix, under each of the names that the module may give it."""
    return Head(dict.fromkeys(ours.split(), theirs))


def _masked(dense: str, norm: str, head: str, bias: str) -> Head:
    return Head({"dense": dense, "linear": dense, "norm": norm, "head": head, "head.bias": bias})


SCORE = {"ForSequenceClassification": _same("linear head", "score")}
TOKENS = {
    "ForTokenClassification": _same("linear head", "classifier"),
    "ForQuestionAnswering": _same("linear head", "qa_outputs"),
}
IMAGES = {"ForImageClassification": _same("linear head", "classifier")}
T5_BEHIND = {
    "relative_attention_bias_1": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "norm_1": "decoder.final_layer_norm",
}
BERT_SIZES = {**SIZES, "vocab_size": "vocabulary", "max_position_embeddings": "positions"}
TABLE: tuple[Family, ...] = (
    Family(
        {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"},
        {**SIZES, "num_key_value_heads": "kv_heads", "head_dim": "head_dim", "vocab_size": "vocabulary"},
        {"embedding": "model.embed_tokens", "norm": "model.norm"},
        (Stack("blocks.{i}", "model.layers.{i}", LLAMA),),
        {"ForCausalLM": _same("head", "lm_head"), "Model": Head(), **SCORE},
        coupled=False,
        even=("llama",),
    ),
    Family(
        {"gpt2": "GPT2"},
        {
            "n_embd": "hidden",
            "n_layer": "layers",
            "n_head": "heads",
            "n_inner": "ffn",
            "vocab_size": "vocabulary",
            "n_positions": "positions",
        },
        _under("transformer", {"embedding": "wte", "position_embedding": "wpe", "norm": "ln_f"}),
        (Stack("blocks.{i}", "transformer.h.{i}", GPT2),),
        {"LMHeadModel": _same("head", "lm_head"), "Model": Head(), **SCORE},
        turned=("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    ),
    Family(
        {"bert": "Bert"},
        BERT_SIZES,
        _under("bert", EMBEDDINGS),
        (Stack("blocks.{i}", "bert.encoder.layer.{i}", BERT),),
        {
            "ForMaskedLM": _masked(
                "cls.predictions.transform.dense",
                "cls.predictions.transform.LayerNorm",
                "cls.predictions.decoder",
                "cls.predictions.bias",
            ),
            "ForPreTraining": Head(
                {
                    "dense": "bert.pooler.dense",
                    "linear": "cls.predictions.transform.dense",
                    "norm": "cls.predictions.transform.LayerNorm",
                    "head": "cls.predictions.decoder",
                    "head.bias": "cls.predictions.bias",
                    "head_1": "cls.seq_relationship",
                }
            ),
            "ForSequenceClassification": Head({"dense": "bert.pooler.dense", "head": "classifier"}),
            **TOKENS,
            "Model": Head({"dense": "bert.pooler.dense"}, optional=True),
        },
    ),
    Family(
        {"roberta": "Roberta", "xlm-roberta": "XLMRoberta"},
        BERT_SIZES,
        _under("roberta", EMBEDDINGS),
        (Stack("blocks.{i}", "roberta.encoder.layer.{i}", BERT),),
        {
            "ForMaskedLM": _masked("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias"),
            "ForSequenceClassification": Head({"dense": "classifier.dense", "head": "classifier.out_proj"}),
            **TOKENS,
            "Model": Head({"dense": "roberta.pooler.dense"}, optional=True),
        },
    ),
    Family(
        {"vit": "ViT"},
        {**SIZES, "pooler_output_size": "hidden"},
        _under("vit", PATCHES),
        (Stack("blocks.{i}", "vit.layers.{i}", {**VISION, "norm.0": "layernorm_before", "norm.1": "layernorm_after"}),),
        {**IMAGES, "Model": Head({"dense": "vit.pooler.dense"}, optional=True)},
    ),
    Family(
        {"dinov2": "Dinov2"},
        {k: v for k, v in SIZES.items() if k != "intermediate_size"} | {"mlp_ratio": "ffn_ratio"},
        _under("dinov2", PATCHES),
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
        {**IMAGES, "Model": Head()},
        joined=(("position_embeddings", ("matrix_1", "matrix")),),  # TorchScript: the class token's row, the patches'
    ),
    Family(
        {"t5": "T5"},
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
            "norm": "encoder.final_layer_norm",
        },
        (
            Stack("stack0.blocks.{i}", "encoder.block.{i}", T5_ENCODER),
            Stack("stack1.blocks.{i}", "decoder.block.{i}", T5_DECODER),
            Stack("blocks.{i}", "encoder.block.{i}", T5_ENCODER),
        ),
        {
            "ForConditionalGeneration": Head({**T5_BEHIND, "head": "lm_head"}),
            "Model": Head(T5_BEHIND),
            "EncoderModel": Head(),
        },
        coupled=False,
        scaled_by_tie=True,
    ),
    Family(
        {"whisper": "Whisper"},
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
        ),
        (
            Stack("stack0.blocks.{i}", "model.encoder.layers.{i}", WHISPER_ENCODER),
            Stack("stack1.blocks.{i}", "model.decoder.layers.{i}", WHISPER_DECODER),
        ),
        {"ForConditionalGeneration": _same("head", "proj_out"), "Model": Head()},
        rows=(
            ("max_source_positions", "model.encoder.embed_positions.weight"),
            ("max_target_positions", "model.decoder.embed_positions.weight"),
        ),
    ),
)


def known() -> list[str]:
    """Every model type that has a row."""
    return sorted(name for family in TABLE for name in family.types)
