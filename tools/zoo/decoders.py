"""Rows: text decoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tools.zoo.row import POSITIONS, VOCAB, Row, Sizes, tokens

COUPLED = Sizes(hidden=48, heads=6, kv_heads=6, head_dim=8, ffn=100, layers=3)
WIDE = Sizes(hidden=192, heads=6, kv_heads=6, head_dim=32, ffn=100, layers=3)
# ONNX Runtime's GroupQueryAttention rotates heads of a multiple of 16
GROUPED = Sizes(hidden=56, heads=8, kv_heads=4, head_dim=32, ffn=108, layers=3)
GROUPED_COUPLED = Sizes(hidden=128, heads=8, kv_heads=4, head_dim=16, ffn=108, layers=3)
LOGITS = tokens(("logits",))
TOKENS = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
TEXT = {**TOKENS, "max_position_embeddings": POSITIONS}
HIDDEN = {
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "intermediate_size": "ffn",
    "num_hidden_layers": "layers",
}
GQA = {**HIDDEN, "num_key_value_heads": "kv_heads"}
GQA_DIM = {**GQA, "head_dim": "head_dim"}
GPT2_NAMES = {"n_embd": "hidden", "n_head": "heads", "n_inner": "ffn", "n_layer": "layers"}
FALCON = {
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "ffn_hidden_size": "ffn",
    "num_hidden_layers": "layers",
}


def _opt(sizes: Sizes) -> Mapping[str, Any]:
    return {**TEXT, "word_embed_proj_dim": sizes.hidden}


def _gemma(sizes: Sizes) -> Mapping[str, Any]:
    return {**TEXT, "query_pre_attn_scalar": 17, "sliding_window": 5}


def _causal(name: str, prefix: str, names: Mapping[str, str], sizes: Sizes, settings: Any, **more: Any) -> Row:
    return Row(name, f"{prefix}ForCausalLM", f"{prefix}Config", names, LOGITS, sizes, settings, decoder="cache", **more)


ROWS = (
    Row(
        "gpt2",
        "GPT2LMHeadModel",
        "GPT2Config",
        GPT2_NAMES,
        LOGITS,
        COUPLED,
        {**TOKENS, "n_positions": POSITIONS},
        decoder="cache",
        fused="gpt2",
    ),
    _causal(
        "opt",
        "OPT",
        {"hidden_size": "hidden", "num_attention_heads": "heads", "ffn_dim": "ffn", "num_hidden_layers": "layers"},
        COUPLED,
        _opt,
        fused="gpt2",
    ),
    _causal(
        "gpt-neox",
        "GPTNeoX",
        HIDDEN,
        COUPLED,
        {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        fused="gpt_neox",
    ),
    _causal(
        "gpt-j",
        "GPTJ",
        GPT2_NAMES,
        COUPLED,
        {**TOKENS, "n_positions": POSITIONS, "rotary_dim": 4},
        attention="eager",
        fused="gpt2",
    ),
    _causal(
        "bloom",
        "Bloom",
        {"hidden_size": "hidden", "n_head": "heads", "n_layer": "layers"},
        Sizes(hidden=48, heads=6, kv_heads=6, head_dim=8, ffn=192, layers=3),
        TOKENS,
        ffn_ratio=4,
        attention="eager",
        fused="gpt2",
    ),
    _causal("llama", "Llama", GQA_DIM, GROUPED, TEXT, coupled=False, fused="gpt2", genai=True),
    _causal(
        "mistral", "Mistral", GQA_DIM, GROUPED, {**TEXT, "sliding_window": 5}, coupled=False, fused="gpt2", genai=True
    ),
    _causal("qwen2", "Qwen2", GQA, GROUPED_COUPLED, TEXT, fused="gpt2", genai=True),
    _causal("qwen3", "Qwen3", GQA_DIM, GROUPED, TEXT, coupled=False, fused="gpt2", genai=True),
    _causal(
        "gemma2",
        "Gemma2",
        GQA_DIM,
        GROUPED,
        _gemma,
        period=2,
        coupled=False,
        attention="eager",
        fused="gpt2",
        genai=True,
    ),
    _causal(
        "phi",
        "Phi",
        HIDDEN,
        WIDE,
        {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
        fused="phi",
        genai=True,
    ),
    _causal("starcoder2", "Starcoder2", GQA, GROUPED_COUPLED, {**TEXT, "sliding_window": 5}, fused="gpt2"),
    _causal(
        "falcon",
        "Falcon",
        FALCON,
        replace(COUPLED, kv_heads=1),
        {**TOKENS, "multi_query": True, "new_decoder_architecture": False, "alibi": False, "bias": False},
        fused="gpt2",
    ),
    _causal(
        "codegen",
        "CodeGen",
        GPT2_NAMES,
        Sizes(hidden=64, heads=8, kv_heads=8, head_dim=8, ffn=100, layers=3),
        {**TOKENS, "n_positions": POSITIONS, "rotary_dim": 4},
        attention="eager",
        fused="gpt2",
    ),
    _causal("phi3", "Phi3", GQA, GROUPED_COUPLED, TEXT, fused="phi"),
    _causal("olmo2", "Olmo2", GQA, GROUPED_COUPLED, TEXT, fused="gpt2"),
    _causal("cohere", "Cohere", GQA, GROUPED_COUPLED, {**TEXT, "logit_scale": 0.25}, fused="gpt2"),
)
