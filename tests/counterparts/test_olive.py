"""Olive: parent -> GraphClone -> ONNX Runtime's quantisation -> evaluated, by a real `olive run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import graphclone as gc
from graphclone.olive.options import OPTIONS

pytestmark = [pytest.mark.counterpart("olive"), pytest.mark.slow]


def cached(folder: Path, kind: str) -> list[Path]:
    """Where Olive keeps what a pass made."""
    held = {file.parent: json.loads(file.read_text()) for file in folder.glob("olive-cache/*/runs/*/run.json")}
    made = [where for where, run in held.items() if run["pass_name"].lower() == kind]
    return [path for where in made for path in where.glob("models/**/*.onnx")]


@pytest.mark.real
@pytest.mark.counterpart("sentence-transformers")
def test_a_workflow_cuts_quantises_and_judges(workplace):
    workplace.section("sentence-transformers")
    workplace.section("Olive")
    out = workplace.folder / "olive-out"
    before, after = (json.loads((out / name).read_text()) for name in ("input_model_metrics.json", "metrics.json"))
    value = {name: (before[name]["value"], after[name]["value"]) for name in before}
    assert value["nearest-accuracy_score"][0] == 1.0
    assert value["nearest-accuracy_score"][1] > 0.5  # of three; untrained, and in 8 bits
    assert value["size-bytes"][1] < value["size-bytes"][0] / 4
    (cut,) = cached(workplace.folder, "graphclone")
    parent, clone = gc.load(workplace.folder / "minilm-onnx"), gc.load(cut)
    gc.verify(parent, clone).raise_if_failed()
    (stack,) = gc.inspect(clone).stacks
    assert (stack.hidden, len(stack.blocks), stack.blocks[0].feed_forward[0].ffn) == (384, 4, 768)
    operators = {node.op for node in gc.load(out / "model.onnx").graph.nodes}
    assert "MatMulInteger" in operators or "DynamicQuantizeLinear" in operators
    config = json.loads((out / "config.json").read_text())
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (4, 768)
    assert json.loads((out / "1_Pooling" / "config.json").read_text())["embedding_dimension"] == 384


def test_every_option_is_typed_and_documented_and_checked():
    from olive.hardware import DEFAULT_CPU_ACCELERATOR
    from pydantic import ValidationError

    from graphclone.olive.passes import GraphClone

    held = GraphClone.default_config(DEFAULT_CPU_ACCELERATOR)
    assert set(held) == {*OPTIONS, "data_config"}
    assert all(param.description.endswith(".") and param.type_ is not None for param in held.values())
    made = GraphClone.generate_config(DEFAULT_CPU_ACCELERATOR, {"hidden": "50%", "layers": 4}, disable_search=True)
    assert (made.hidden, made.layers, made.method, made.limit) == ("50%", 4, "best", None)
    for wrong in ({"length": "long"}, {"layers": [1, 2]}, {"keep_blocks": 3.5}):
        with pytest.raises(ValidationError):
            GraphClone.generate_config(DEFAULT_CPU_ACCELERATOR, wrong, disable_search=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "asks for no size: give hidden"),
        ({"layers": 2, "params": "50%"}, "choose the sizes: give no sizes"),
        ({"layers": 2, "data": "python-docs", "stats": "s.safetensors"}, "data and stats both say what is measured"),
    ],
    ids=["nothing", "both", "twice"],
)
def test_what_makes_no_sense_is_left_out_and_said(options, said, caplog):
    from olive.hardware import DEFAULT_CPU_ACCELERATOR

    from graphclone.olive.passes import GraphClone

    made = GraphClone.generate_config(DEFAULT_CPU_ACCELERATOR, options, disable_search=True)
    assert not GraphClone.validate_config(made, DEFAULT_CPU_ACCELERATOR)
    assert said in caplog.text


@pytest.mark.counterpart("optimum")
def test_attributes_and_data_sets_of_olive_go_along(workplace, tmp_path):
    """The attributes that Olive carries from pass to pass are the clone's; data_config feeds what is measured."""
    import numpy as np
    from olive.data.registry import Registry
    from olive.hardware import DEFAULT_CPU_ACCELERATOR
    from olive.model import ONNXModelHandler

    from graphclone.olive.passes import GraphClone

    @Registry.register_dataset("seeded_ids")
    def seeded_ids(data_name, **options):
        ids = np.random.default_rng(0).integers(3, 100, (3, 2, 16))
        return [({"input_ids": one, "labels": one}, 0) for one in ids]

    @Registry.register_dataloader("just_these")
    def just_these(dataset, **options):
        return dataset

    data = {"name": "ids", "load_dataset_config": {"type": "seeded_ids", "params": {"data_name": "ids"}}}
    data |= {"dataloader_config": {"type": "just_these"}, "pre_process_data_config": {"type": "skip_pre_process"}}
    asked = {"layers": 2, "ffn": "50%", "data_config": data}
    made = GraphClone.generate_config(DEFAULT_CPU_ACCELERATOR, asked, disable_search=True)
    before = {"hidden_size": 64, "num_hidden_layers": 3, "intermediate_size": 160, "architecture": "as it was"}
    workplace.section("Optimum")
    model = ONNXModelHandler(str(workplace.folder / "llama-onnx" / "model.onnx"), model_attributes=before)
    clone = GraphClone(DEFAULT_CPU_ACCELERATOR, made).run(model, str(tmp_path / "clone"))
    attributes = dict(clone.model_attributes)
    files = attributes.pop("additional_files")  # which Olive copies beside what the next pass makes
    assert {Path(file).name for file in files} == {"config.json", "generation_config.json"}
    assert attributes == {**before, "num_hidden_layers": 2, "intermediate_size": 80}
    (stack,) = gc.inspect(gc.load(clone.model_path)).stacks
    assert (len(stack.blocks), stack.blocks[0].feed_forward[0].ffn) == (2, 80)


@pytest.mark.counterpart("optimum")
def test_a_shape_out_of_reach_is_said_and_nothing_is_written(workplace):
    workplace.section("Optimum")
    run = {
        "input_model": {"type": "ONNXModel", "model_path": "llama-onnx/model.onnx"},
        "passes": {"cut": {"type": "GraphClone", "layers": 99, "importance": "magnitude"}},
        "cache_dir": "failing-cache",
        "output_dir": "failing-out",
    }
    (workplace.folder / "failing.json").write_text(json.dumps(run))
    workplace.run("graphclone olive-config -o passes.json")
    # Olive logs a pass that fails and goes on with what is left: its own exit code says nothing
    said = workplace.run("olive run --config failing.json --package-config passes.json --disable_telemetry")
    assert "layers 99" in said
    assert not list(workplace.folder.glob("failing-out/*.onnx"))
