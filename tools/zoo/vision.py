"""Rows: image encoders, and CLIP with its two towers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.zoo.row import BATCH, BOTH, LENGTH, VOCAB, Example, Expected, Row, Sizes, one_stack, pixels

SIZES = Sizes(hidden=48, heads=6, kv_heads=6, head_dim=8, ffn=100, layers=3)
IMAGE = {"image_size": 32, "patch_size": 8, "num_channels": 3}
NAMES = {
    "hidden_size": "hidden",
    "num_attention_heads": "heads",
    "intermediate_size": "ffn",
    "num_hidden_layers": "layers",
}
CLIP_VISION = {"hidden_size": 40, "num_attention_heads": 4, "intermediate_size": 92, "num_hidden_layers": 4}


def _both_towers() -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCAB, (BATCH, LENGTH), generator=generator)
    ids[:, -1] = VOCAB - 1  # CLIP reads its text at the end-of-text token
    inputs = {
        "input_ids": ids,
        "pixel_values": torch.randn(BATCH, 3, 32, 32, generator=generator),
        "attention_mask": torch.ones_like(ids),
    }
    axes = {"input_ids": BOTH, "pixel_values": {0: "images"}, "attention_mask": BOTH}
    return Example(inputs, axes, ("text_embeds", "image_embeds"))


def _clip(sizes: Sizes) -> Mapping[str, Any]:
    text = {name: getattr(sizes, ours) for name, ours in NAMES.items()}
    tokens = {"vocab_size": VOCAB, "max_position_embeddings": 32, "bos_token_id": 0, "eos_token_id": VOCAB - 1}
    scaled = {
        "hidden_size": CLIP_VISION["hidden_size"] * sizes.hidden // SIZES.hidden,
        "num_attention_heads": CLIP_VISION["num_attention_heads"] * sizes.heads // SIZES.heads,
        "intermediate_size": CLIP_VISION["intermediate_size"] * sizes.ffn // SIZES.ffn,
        "num_hidden_layers": CLIP_VISION["num_hidden_layers"],
    }
    return {"text_config": {**text, **tokens}, "vision_config": {**IMAGE, **scaled}, "projection_dim": 28}


def _clip_stacks(sizes: Sizes) -> tuple[Expected, ...]:
    vision = Expected(hidden=40, layers=4, heads=4, kv_heads=4, head_dim=10, ffn=92)
    return (one_stack(sizes), vision)


ROWS = (
    Row(
        "vit",
        "ViTForImageClassification",
        "ViTConfig",
        NAMES,
        pixels(("logits",)),
        SIZES,
        {**IMAGE, "num_labels": 10},
        fused="vit",
    ),
    Row(
        "deit",
        "DeiTForImageClassificationWithTeacher",
        "DeiTConfig",
        NAMES,
        pixels(("logits",)),
        SIZES,
        {**IMAGE, "num_labels": 10},
        fused="vit",
    ),
    Row(
        "beit",
        "BeitForImageClassification",
        "BeitConfig",
        NAMES,
        pixels(("logits",)),
        SIZES,
        {**IMAGE, "num_labels": 10, "use_relative_position_bias": True},
        fused="vit",
        attention="eager",  # dynamo cannot decompose BEiT's sdpa
    ),
    Row(
        "dinov2",
        "Dinov2ForImageClassification",
        "Dinov2Config",
        {"hidden_size": "hidden", "num_attention_heads": "heads", "num_hidden_layers": "layers"},
        pixels(("logits",)),
        Sizes(hidden=48, heads=6, kv_heads=6, head_dim=8, ffn=96, layers=3),
        {**IMAGE, "num_labels": 10, "mlp_ratio": 2},
        ffn_ratio=2,
        fused="vit",
    ),
    Row(
        "siglip",
        "SiglipVisionModel",
        "SiglipVisionConfig",
        NAMES,
        pixels(("last_hidden_state", "pooler_output")),
        SIZES,
        IMAGE,
        fused="vit",
    ),
    Row(
        "clip",
        "CLIPModel",
        "CLIPConfig",
        {},
        _both_towers,
        SIZES,
        _clip,
        stacks=_clip_stacks,
        fused="clip",
    ),
)
