"""Protobufs of a product and its weight, inside and beside the file, for the tests of reading and writing."""

from __future__ import annotations

import numpy as np
import onnx

make = onnx.helper.make_node
WEIGHT = np.arange(512, dtype=np.float32).reshape(16, 32)


def info(name, kind=onnx.TensorProto.FLOAT, shape=("batch", 32)):
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def assemble(nodes, weights, **more):
    opsets = [onnx.helper.make_opsetid("", 17), *more.pop("opsets", ())]
    inputs = more.pop("inputs", [info("x", shape=("batch", 16))])
    outputs = more.pop("outputs", [info("y")])
    tensors = [onnx.numpy_helper.from_array(a, n) for n, a in weights.items()]
    made = onnx.helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    return onnx.helper.make_model(made, opset_imports=opsets, ir_version=9, **more)  # noqa: TID251  without graphclone


def tiny(weight=WEIGHT):
    return assemble([make("MatMul", ["x", "w"], ["y"])], {"w": weight})


def written(folder, proto, name="model.onnx"):
    (folder / name).write_bytes(proto.SerializeToString())
    return folder / name


def external(folder, location="weights.bin", offset=0, data=None, length=None):
    """The tiny model with its weight in a file."""
    proto = tiny()
    (tensor,) = proto.graph.initializer
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": len(raw) if length is None else length}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    if data is not False:
        (folder / "weights.bin").write_bytes(b"\0" * offset + raw if data is None else data)
    return written(folder, proto)
