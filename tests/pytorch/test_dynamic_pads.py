"""Pads that are computed at run time: how many there are is told by the rank of what is padded."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from graphclone import graph
from graphclone.pytorch.module import to_torch
from models.export import quiet
from tests.tolerances import assert_close

F32, I64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def agrees(proto, *feeds):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    module = to_torch(graph.from_proto(proto))
    for given in feeds:
        found = module(**{name: torch.from_numpy(a) for name, a in given.items()})["y"]
        assert_close(found.numpy(), session.run(None, given)[0])
    return module.code


class Windowed(nn.Module):
    """To whole windows of four, as Swin pads: by what is missing; then one step, as relative positions are shifted."""

    def forward(self, x):
        missing = (4 - x.shape[2] % 4) % 4
        return nn.functional.pad(nn.functional.pad(x, (0, 0, 0, missing)), (1, 0))


def test_pads_as_torchscript_computes_them(tmp_path):
    file = tmp_path / "model.onnx"
    with quiet():
        torch.onnx.export(
            Windowed(),
            (torch.zeros(1, 2, 6, 3),),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={"x": {0: "batch", 2: "height"}},
        )
    shapes = ((1, 2, 6, 3), (3, 2, 8, 3), (2, 2, 1, 3))
    code = agrees(onnx.load(file), *({"x": np.ones(s, np.float32)} for s in shapes))
    assert "tolist" not in code  # numbers all the way
    assert "index_select" not in code


@pytest.mark.parametrize("axes", [None, [2, 1]])
def test_pads_of_which_no_shape_is_known(axes):
    info = onnx.helper.make_tensor_value_info
    held = [] if axes is None else [onnx.numpy_helper.from_array(np.array(axes, np.int64), "axes")]
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("Pad", ["x", "pads", *(["", "axes"] if held else [])], ["y"])],
        "padded",
        [info("x", F32, ["a", "b", "c"]), info("pads", I64, ["n"])],
        [info("y", F32, None)],
        held,
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    proto = onnx.helper.make_model(made, opset_imports=opsets, ir_version=8)  # noqa: TID251  made without graphclone
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    pads = ([0, 1, 2, 0, 0, 3], [1, 0, 0, 2, 0, 0]) if axes is None else ([1, 2, 0, 3], [0, 0, 1, 0])
    agrees(proto, *({"x": x, "pads": np.array(p, np.int64)} for p in pads))
