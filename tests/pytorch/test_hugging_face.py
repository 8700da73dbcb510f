"""Every family of the table: a seeded parent is saved by transformers, exported, cut, and the clone's checkpoint loads
into transformers and answers as the clone does in ONNX Runtime."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file

import graphclone as gc
from graphclone.pytorch.families import TABLE
from graphclone.pytorch.hugging_face import write_hugging_face
from models.export import EXPORT, quiet
from models.recipe import Parent
from models.seeding import randomise
from tests.tolerances import assert_close
from tools.zoo.transforms import TRANSFORMS, Job

VOCAB = 67
TEXT = {"vocab_size": VOCAB, "max_position_embeddings": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
COMMON = {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 100, "num_hidden_layers": 3}
GROUPED = {**COMMON, **TEXT, "num_key_value_heads": 3, "head_dim": 8}
IMAGE = {"image_size": 24, "patch_size": 8, "num_labels": 5, "num_hidden_layers": 3}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}  # as T5 1.1 and Flan
T5 = {"d_model": 48, "d_kv": 10, "num_heads": 6, "d_ff": 100, "num_layers": 3, "num_decoder_layers": 3}
WHISPER = {"d_model": 48, "num_mel_bins": 10, "max_source_positions": 15, "max_target_positions": 40}
WHISPER |= {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 3), ("ffn_dim", 100))}
WHISPER |= {"encoder_attention_heads": 6, "decoder_attention_heads": 6, "decoder_start_token_id": 0}
NARROW = {"hidden": 32, "heads": 4, "layers": 2, "ffn": 60}


@dataclass(frozen=True)
class Case:
    """A family's architecture, its small configuration and what the clone is cut to."""

    model: str
    config: str
    settings: dict[str, Any]
    target: dict[str, Any]
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    output: str = "logits"
    exporter: str = "torchscript"
    untied: bool = False  # a head of its own, where the class would tie it

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.output.split())

    def __str__(self) -> str:
        return f"{self.model}-gated" if "feed_forward_proj" in self.settings else self.model


CASES = (
    Case("LlamaForCausalLM", "LlamaConfig", GROUPED, {"hidden": 40, "heads": 4, "kv_heads": 2, "ffn": 60, "layers": 2}),
    Case("LlamaForSequenceClassification", "LlamaConfig", {**GROUPED, "num_labels": 5}, {"hidden": 36, "layers": 2}),
    Case("MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": None}, {"hidden": 40, "layers": 2}),
    Case("Qwen2ForCausalLM", "Qwen2Config", {**GROUPED, "tie_word_embeddings": True}, {"heads": 4, "kv_heads": 2}),
    Case("Qwen3ForCausalLM", "Qwen3Config", GROUPED, {"hidden": 40, "ffn": 60, "layers": 2}),
    Case(
        "GPT2LMHeadModel",
        "GPT2Config",
        {"n_embd": 48, "n_head": 6, "n_layer": 3, "n_inner": 100, "n_positions": 40, "vocab_size": VOCAB},
        NARROW,
    ),
    Case("BertForMaskedLM", "BertConfig", {**COMMON, **TEXT}, NARROW),
    Case(
        "BertForPreTraining",
        "BertConfig",
        {**COMMON, **TEXT},
        NARROW,
        output="prediction_logits seq_relationship_logits",
    ),
    Case("BertForSequenceClassification", "BertConfig", {**COMMON, **TEXT, "num_labels": 5}, NARROW),
    Case("BertForQuestionAnswering", "BertConfig", {**COMMON, **TEXT}, NARROW, output="start_logits"),
    Case("BertModel", "BertConfig", {**COMMON, **TEXT}, NARROW, output="pooler_output"),
    Case("RobertaForMaskedLM", "RobertaConfig", {**COMMON, **TEXT}, NARROW),
    Case("RobertaForSequenceClassification", "RobertaConfig", {**COMMON, **TEXT, "num_labels": 5}, NARROW),
    Case("RobertaForTokenClassification", "RobertaConfig", {**COMMON, **TEXT, "num_labels": 5}, NARROW),
    Case("XLMRobertaModel", "XLMRobertaConfig", {**COMMON, **TEXT}, NARROW, output="last_hidden_state"),
    Case("ViTForImageClassification", "ViTConfig", {**COMMON, **IMAGE}, NARROW, ("pixel_values",)),
    Case("ViTModel", "ViTConfig", {**COMMON, **IMAGE}, NARROW, ("pixel_values",), output="pooler_output"),
    Case(
        "Dinov2ForImageClassification",
        "Dinov2Config",
        {"hidden_size": 48, "num_attention_heads": 6, "mlp_ratio": 2, **IMAGE},
        {"hidden": 32, "heads": 4, "layers": 2, "ffn": 64},
        ("pixel_values",),
        exporter="dynamo",
    ),
    Case(
        "Dinov2Model",
        "Dinov2Config",
        {"hidden_size": 48, "num_attention_heads": 6, "mlp_ratio": 2, **IMAGE},
        {"hidden": 32, "heads": 4, "layers": 2, "ffn": 64},
        ("pixel_values",),
        output="last_hidden_state",
    ),
    Case(
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, "vocab_size": VOCAB, "decoder_start_token_id": 0},
        {"hidden": 32, "heads": 4, "ffn": 60},
        ("input_ids", "attention_mask", "decoder_input_ids"),
    ),
    Case(
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, **GATED, "vocab_size": VOCAB, "decoder_start_token_id": 0},
        {"hidden": 32, "heads": 4, "ffn": 60},
        ("input_ids", "attention_mask", "decoder_input_ids"),
        untied=True,
    ),
    Case(
        "T5EncoderModel",
        "T5Config",
        {**T5, **GATED, "vocab_size": VOCAB},
        {"hidden": 32, "heads": 4, "layers": 2, "ffn": 60},
        output="last_hidden_state",
    ),
    Case(
        "T5Model",
        "T5Config",
        {**T5, "vocab_size": VOCAB, "decoder_start_token_id": 0},
        {"hidden": 32, "heads": 4, "ffn": 60},
        ("input_ids", "attention_mask", "decoder_input_ids"),
        output="last_hidden_state",
    ),
    Case(
        "WhisperModel",
        "WhisperConfig",
        {**WHISPER, "vocab_size": VOCAB, "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1},
        NARROW,
        ("input_features", "decoder_input_ids"),
        output="last_hidden_state",
        exporter="dynamo",
    ),
    Case(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {**WHISPER, "vocab_size": VOCAB, "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1},
        NARROW,
        ("input_features", "decoder_input_ids"),
        exporter="dynamo",
    ),
)
AXES = {"pixel_values": {0: "batch"}, "input_features": {0: "batch"}}


def example(name: str, batch: int = 2, length: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    if name == "pixel_values":
        return torch.randn(batch, 3, 24, 24, generator=generator)
    if name == "input_features":
        return torch.randn(batch, 10, 30, generator=generator)
    if name == "attention_mask":
        mask = torch.ones(batch, length, dtype=torch.int64)
        mask[0, length - 2 :] = 0
        return mask
    return torch.randint(3, VOCAB, (batch, length), generator=generator)


@pytest.fixture(scope="module", params=CASES, ids=str)
def parent(request, tmp_path_factory):
    """The case, the folder that transformers saved and the exported model."""
    case = request.param
    folder = tmp_path_factory.mktemp(case.model)
    config = getattr(transformers, case.config)(**case.settings, use_cache=False)
    module = randomise(getattr(transformers, case.model)(config), seed=0)
    axes = {n: AXES.get(n, {0: "batch", 1: "decoder" if "decoder" in n else "sequence"}) for n in case.inputs}
    if case.untied:
        module.lm_head.weight = torch.nn.Parameter(torch.randn_like(module.lm_head.weight))
    with quiet():
        module.save_pretrained(folder / "parent")
        if "tie_word_embeddings" in case.settings:  # which this class does not save as it was given
            rewrite(folder / "parent", tie_word_embeddings=case.settings["tie_word_embeddings"])
        inputs = {name: example(name, 3, 7) for name in case.inputs}
        EXPORT[case.exporter](Parent(module, inputs, case.outputs, axes), folder / "parent.onnx")
    (folder / "parent" / "tokenizer.json").write_text("{}")
    return case, folder / "parent", gc.load(folder / "parent.onnx")


def cut(case, model):
    anatomy = gc.inspect(model)
    sizes = case.target
    if len(anatomy.stacks) > 1:  # every stack is cut to the same sizes by a share
        first = anatomy.stacks[0]
        whole = {"hidden": first.hidden, "layers": len(first.blocks), "heads": first.blocks[0].attention[0].heads}
        whole["ffn"] = first.blocks[0].feed_forward[0].ffn
        sizes = {n: f"{-(-size * 10000 // whole[n]) / 100}%" for n, size in sizes.items()}
    made = gc.plan(anatomy, None, gc.Target(**sizes), importance="first", method="none")
    return gc.clone(model, made)


AUTO = {
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForPreTraining",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "ForImageClassification": "AutoModelForImageClassification",
    "T5ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "WhisperForConditionalGeneration": "AutoModelForSpeechSeq2Seq",
    "EncoderModel": "T5EncoderModel",  # no class of its own is chosen for it
    "Model": "AutoModel",
}
UNUSED = {"dinov2.embeddings.mask_token", "embeddings.mask_token", "pooler.dense.weight", "pooler.dense.bias"}


def rewrite(folder, **settings):
    """A config.json as it is on disk, with other entries."""
    file = folder / "config.json"
    held = json.loads(file.read_text())
    held.pop("scale_decoder_outputs", None)
    file.write_text(json.dumps(held | settings))


def loaded(case, folder):
    auto = next(name for end, name in AUTO.items() if case.model.endswith(end))
    with quiet():
        module, info = getattr(transformers, auto).from_pretrained(folder, output_loading_info=True)
    assert type(module).__name__ == case.model
    assert not info["missing_keys"] - (set() if case.output == "pooler_output" else UNUSED)
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return module.eval()


def test_the_checkpoint_loads_and_answers_as_the_clone_does(parent, tmp_path):
    case, like, model = parent
    clone = cut(case, model)
    gc.save(clone, tmp_path / "clone.onnx")
    said = write_hugging_face(clone, like, tmp_path / "checkpoint")
    assert "tokenizer.json" in said["files"]
    assert said["architecture"] == case.model
    module = loaded(case, tmp_path / "checkpoint")
    session = onnxruntime.InferenceSession(tmp_path / "clone.onnx", providers=["CPUExecutionProvider"])
    given = {name: example(name) for name in case.inputs}
    wanted = session.run(None, {n: t.numpy() for n, t in given.items()})
    with torch.no_grad():
        answer = module(**given)
        for output, array in zip(case.outputs, wanted, strict=True):
            assert_close(getattr(answer, output).numpy(), array)
        next(p for p in module.parameters() if p.dim() > 1).mul_(1.5)
        found = getattr(module(**given), case.outputs[0]).numpy()
    assert not np.allclose(found, wanted[0], atol=1e-3)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_a_clone_in_half_precision_is_one_too(parent, tmp_path, kind):
    """bfloat16 stands behind casts to float32, in which the clone computes; float16 computes in itself."""
    case, like, model = parent
    clone = cut(case, model)
    gc.save(clone, tmp_path / "whole.onnx")
    TRANSFORMS[kind](Job(tmp_path / "whole.onnx", tmp_path / "clone.onnx"))
    write_hugging_face(gc.load(tmp_path / "clone.onnx"), like, tmp_path / "checkpoint")
    module = loaded(case, tmp_path / "checkpoint")
    assert module.dtype == {"bfloat16": torch.float32, "float16": torch.float16}[kind]
    held = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert {t.dtype for t in held.values() if t.dim() > 1} == {getattr(torch, kind)}
    session = onnxruntime.InferenceSession(tmp_path / "clone.onnx", providers=["CPUExecutionProvider"])
    given = {name: example(name) for name in case.inputs}
    given = {n: t.to(module.dtype) if t.is_floating_point() else t for n, t in given.items()}
    wanted = session.run(None, {n: t.numpy() for n, t in given.items()})
    with torch.no_grad():
        answer = module(**given)
    for output, array in zip(case.outputs, wanted, strict=True):
        assert_close(getattr(answer, output).numpy(), array, "float32" if kind == "bfloat16" else kind)


def test_every_type_of_the_table_is_one_that_transformers_knows():
    for family in TABLE:
        for name in family.types:
            assert name in transformers.CONFIG_MAPPING
