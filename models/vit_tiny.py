"""ViT classifier, seeded: patch convolution, class token, learned positions, pre-norm."""

from __future__ import annotations

from models import text
from models.recipe import Options, Parent, Recipe, Shape
from models.seeding import seeded

SHAPE = Shape(hidden=48, heads=4, ffn=160, layers=3)
IMAGE, PATCH, CHANNELS, LABELS = 32, 8, 3, 10


def load(options: Options) -> Parent:
    """A ViTForImageClassification; logits [batch, labels] of pixel_values [batch, channels, height, width]."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    shape = options.shape
    text.head_dim("vit-tiny", shape.hidden, shape.heads)
    module = seeded(
        ViTForImageClassification,
        ViTConfig,
        options,
        image_size=IMAGE,
        patch_size=PATCH,
        num_channels=CHANNELS,
        num_labels=LABELS,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
    )
    pixels = torch.randn(2, CHANNELS, IMAGE, IMAGE, generator=torch.Generator().manual_seed(0))
    axes = {"pixel_values": {0: "batch"}, "logits": {0: "batch"}}
    return Parent(module, {"pixel_values": pixels}, ("logits",), axes)


RECIPE = Recipe("vit-tiny", "seeded ViT classifier: patches, class token, learned positions", SHAPE, load)
