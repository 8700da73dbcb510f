"""Which key of a configuration states which size: a row a key, as the classes of transformers and onnxruntime-genai do.

``of`` says whose size: the stack that the configuration is of (""), or the encoder's or decoder's of two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Scope = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """``size``: hidden, layers, heads, kv_heads, head_dim, ffn or vocab."""

    size: str
    of: str = ""


ROWS: Mapping[str, Row] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim"), Row("hidden")),
    # hidden_dim is DistilBERT's feed-forward
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim", "ffn_hidden_size"), Row("ffn")),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), Row("heads")),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), Row("kv_heads")),
    **dict.fromkeys(("head_dim", "head_size", "d_kv"), Row("head_dim")),
    **dict.fromkeys(("n_layer", "n_layers"), Row("layers")),
    **dict.fromkeys(("num_hidden_layers", "num_layers"), Row("layers", "encoder")),
    "vocab_size": Row("vocab"),
    "encoder_layers": Row("layers", "encoder"),
    "encoder_attention_heads": Row("heads", "encoder"),
    "encoder_ffn_dim": Row("ffn", "encoder"),
    "decoder_layers": Row("layers", "decoder"),
    "num_decoder_layers": Row("layers", "decoder"),
    "decoder_attention_heads": Row("heads", "decoder"),
    "decoder_ffn_dim": Row("ffn", "decoder"),
}

BY_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types", "attention_layers")  # one entry a block
LAYERS = ("mlp_only_layers", "layers", "cross_attention_layers", "full_attn_idxs")  # indices of blocks
FROM_LAYER = ("max_window_layers", "first_k_dense_replace")  # the first block, or the number of those before it
# periods counted in blocks, which a list of layer_types says again in newer files
PERIODS = ("sliding_window_pattern", "no_rope_layer_interval", "full_attention_interval", "decoder_sparse_step")
STAGES = ("stage_names", "out_features", "out_indices")  # of a backbone: 0 or stem, then what follows each block
FILE_NAMES = ("filename",)  # genai_config.json: of the model itself

TOKEN_LISTS = ("suppress_tokens", "begin_suppress_tokens")
FORCED_TOKENS = ("forced_decoder_ids", "bad_words_ids", "sequence_bias")
TOKEN_ENDINGS = ("_token_id", "_token_ids", "_token_index")

# families whose attention takes head_dim from the configuration where it is there, and hidden / heads where it is not
HEAD_DIM = frozenset(
    "llama mistral mixtral qwen2 qwen3 qwen3_moe gemma gemma2 gemma3_text granite cohere cohere2 olmo olmo2 smollm3 "
    "starcoder2 phi phi3 nemotron helium glm stablelm ministral".split()
)


@dataclass(frozen=True)
class Implied:
    """A key that may be left out or null: what it then is, and whether this kind of configuration can state it."""

    size: str
    default: Callable[[Scope], Any]
    stated: Callable[[Scope], bool]


def _first(scope: Scope, size: str) -> Any:
    return next((scope[key] for key, row in ROWS.items() if row.size == size and scope.get(key) is not None), None)


def _head_dim(scope: Scope) -> Any:
    hidden, heads = _first(scope, "hidden"), _first(scope, "heads") or scope.get("encoder_attention_heads")
    return hidden / heads if hidden and heads else None


IMPLIED: Mapping[str, Implied] = {
    "n_inner": Implied("ffn", lambda s: 4 * s["n_embd"] if "n_embd" in s else None, lambda s: "n_embd" in s),
    "num_key_value_heads": Implied(
        "kv_heads",
        lambda s: None if "num_kv_heads" in s else _first(s, "heads"),
        lambda s: s.get("model_type") in HEAD_DIM,
    ),
    "head_dim": Implied(
        "head_dim",
        lambda s: None if {"d_kv", "head_size"} & s.keys() else _head_dim(s),
        lambda s: s.get("model_type") in HEAD_DIM,
    ),
}
