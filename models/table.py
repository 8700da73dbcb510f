"""The recipes, one row each."""

from __future__ import annotations

from models import bert, gpt2, llama, minilm, minilm_int8, paraphrase, smollm2, vit, vit_tiny, whisper
from models.recipe import Recipe

ROWS: tuple[Recipe, ...] = (
    smollm2.RECIPE,
    minilm.RECIPE,
    vit.VIT,
    vit.VIT_FOCUS,
    paraphrase.RECIPE,
    minilm_int8.RECIPE,
    whisper.RECIPE,
    gpt2.RECIPE,
    llama.RECIPE,
    bert.RECIPE,
    vit_tiny.RECIPE,
)
TABLE: dict[str, Recipe] = {row.name: row for row in ROWS}

if len(TABLE) != len(ROWS):
    raise ValueError("two recipes have the same name")
