"""Rows: encoder and decoder with cross-attention."""

from __future__ import annotations

from tools.zoo.row import BATCH, LENGTH, VOCAB, Example, Expected, Row, Sizes, one_stack

SIZES = Sizes(hidden=48, heads=6, kv_heads=6, head_dim=8, ffn=100, layers=3)
FREE = Sizes(hidden=56, heads=6, kv_heads=6, head_dim=10, ffn=100, layers=3)
TARGET_LENGTH = 7
DECODER_LAYERS = 4  # unlike the encoder's
BART_NAMES = {
    "d_model": "hidden",
    "encoder_attention_heads": "heads",
    "decoder_attention_heads": "heads",
    "encoder_ffn_dim": "ffn",
    "decoder_ffn_dim": "ffn",
    "encoder_layers": "layers",
}
SPECIAL = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "decoder_start_token_id": 0}


def _text_to_text() -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCAB, (BATCH, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -3:] = 0
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "decoder_input_ids": torch.randint(3, VOCAB, (BATCH, TARGET_LENGTH), generator=generator),
    }
    both = {0: "batch", 1: "sequence"}
    axes = {"input_ids": both, "attention_mask": both, "decoder_input_ids": {0: "batch", 1: "target"}}
    return Example(inputs, axes, ("logits",))


def _speech_to_text() -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCAB, (BATCH, TARGET_LENGTH), generator=generator)
    inputs = {
        "input_features": torch.randn(BATCH, 10, 46, generator=generator),
        "decoder_input_ids": ids,
        "decoder_attention_mask": torch.ones_like(
            ids
        ),  # without it transformers asks for aten::diff, which has no ONNX
    }
    target = {0: "batch", 1: "target"}
    axes = {"input_features": {0: "batch"}, "decoder_input_ids": target, "decoder_attention_mask": target}
    return Example(inputs, axes, ("logits",))


def _stacks(sizes: Sizes) -> tuple[Expected, ...]:
    return (one_stack(sizes), one_stack(sizes, layers=DECODER_LAYERS, attentions=2))


ROWS = (
    Row(
        "t5",
        "T5ForConditionalGeneration",
        "T5Config",
        {"d_model": "hidden", "d_kv": "head_dim", "d_ff": "ffn", "num_heads": "heads", "num_layers": "layers"},
        _text_to_text,
        FREE,
        {**SPECIAL, "num_decoder_layers": DECODER_LAYERS, "use_cache": False},
        coupled=False,
        attention="eager",  # dynamo cannot decompose T5's sdpa
        stacks=_stacks,
        fused="t5",
    ),
    Row(
        "bart",
        "BartForConditionalGeneration",
        "BartConfig",
        BART_NAMES,
        _text_to_text,
        SIZES,
        {**SPECIAL, "decoder_layers": DECODER_LAYERS, "max_position_embeddings": 79, "use_cache": False},
        stacks=_stacks,
        fused="bart",
    ),
    Row(
        "whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        BART_NAMES,
        _speech_to_text,
        SIZES,
        {
            **SPECIAL,
            "decoder_layers": DECODER_LAYERS,
            "num_mel_bins": 10,
            "max_source_positions": 23,
            "max_target_positions": 41,
            "use_cache": False,
        },
        stacks=_stacks,
        fused="bart",
    ),
)
