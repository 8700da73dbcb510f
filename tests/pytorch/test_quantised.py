"""Weights of integers in PyTorch: bytes stay bytes, their scales learn, and gradients pass through the rounding."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static

import graphclone as gc
from graphclone import graph
from graphclone.feeds import tiny_feeds
from graphclone.pytorch.module import to_torch, weights
from graphclone.pytorch.write_back import from_torch
from graphclone.verification.products import unsigned
from tests.pytorch.test_weights import F32, X, floats, made, roles
from tests.tolerances import assert_close

COLUMNS = 32
INTEGERS = np.random.default_rng(1).integers(-127, 128, (4, COLUMNS)).astype(np.int8)
SCALES = np.linspace(0.01, 0.05, COLUMNS, dtype=np.float32)
TO_FLOAT = {"to": F32}


def weight_only(by_operator):
    """x @ (integers * scale) + bias, in either way that exporters write it."""
    read = (
        [("DequantizeLinear", ["w_q", "w_scale"], ["w"], "", {"axis": 1})]
        if by_operator
        else [("Cast", ["w_q"], ["c"], "", TO_FLOAT), ("Mul", ["c", "w_scale"], ["w"], "", {})]
    )
    nodes = [*read, ("MatMul", ["x", "w"], ["z"], "", {}), ("Add", ["z", "bias"], ["y"], "", {})]
    return made(nodes, X, {"w_q": INTEGERS, "w_scale": SCALES, "bias": floats(COLUMNS)})


def dynamic():
    """What dynamic quantisation writes: a product of bytes, then both scales."""
    nodes = [
        ("DynamicQuantizeLinear", ["x"], ["x_q", "x_scale", "x_zero"], "", {}),
        ("MatMulInteger", ["x_q", "w_q", "x_zero"], ["i"], "", {}),
        ("Cast", ["i"], ["f"], "", TO_FLOAT),
        ("Mul", ["x_scale", "w_scale"], ["s"], "", {}),
        ("Mul", ["f", "s"], ["z"], "", {}),
        ("Add", ["z", "bias"], ["y"], "", {}),
    ]
    return made(nodes, X, {"w_q": INTEGERS, "w_scale": SCALES, "bias": floats(COLUMNS)})


def both_ways():
    """QDQ: the values that are multiplied are quantised too, by a scale of the file."""
    nodes = [
        ("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"], "", {}),
        ("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["d"], "", {}),
        ("DequantizeLinear", ["w_q", "w_scale"], ["w"], "", {"axis": 1}),
        ("MatMul", ["d", "w"], ["y"], "", {}),
    ]
    constants = {"x_scale": np.float32(0.02), "x_zero": np.int8(5), "w_q": INTEGERS, "w_scale": SCALES}
    return made(nodes, X, constants)


def runtime(model, folder, x):
    gc.save(unsigned(model), folder / "model.onnx")
    options = onnxruntime.SessionOptions()  # optimised, it multiplies bytes where the graph multiplies numbers
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def test_the_bytes_are_a_buffer_and_the_scales_a_parameter(tmp_path):
    x = floats(3, 4)
    for by_operator in (True, False):
        model = weight_only(by_operator)
        assert roles(model) == {"w_scale": "gain", "bias": "bias"}
        module = to_torch(model)
        (held,) = (b for b in module.buffers() if b.dtype == torch.int8)
        assert held.shape == INTEGERS.shape
        assert not [b for b in module.buffers() if b.is_floating_point() and b.numel() > 1]
        assert_close(module(x=torch.from_numpy(x))["y"].detach().numpy(), runtime(model, tmp_path, x))


def test_rows_of_a_table_of_bytes_are_an_embedding():
    """What is computed from them is a signal, whose gains and biases learn."""
    nodes = [
        ("DequantizeLinear", ["table", "scale"], ["t"], "", {"axis": 1}),
        ("Gather", ["t", "ids"], ["e"], "", {}),
        ("Add", ["e", "bias"], ["y"], "", {}),
    ]
    constants = {"table": INTEGERS, "scale": SCALES, "bias": floats(COLUMNS)}
    model = made(nodes, [("ids", onnx.TensorProto.INT64, ["b", "s"])], constants)
    assert roles(model) == {"scale": "gain", "bias": "bias"}


def test_trained_scales_reach_onnx_runtime_and_the_bytes_stay(tmp_path):
    x = floats(3, 4)
    for model in (weight_only(True), weight_only(False), dynamic(), both_ways()):
        module = to_torch(model)
        before = {n: a.tobytes() for n, a in model.constants().items()}
        assert {n: a.tobytes() for n, a in from_torch(model, module).constants().items()} == before
        module(x=torch.from_numpy(x))["y"].square().mean().backward()
        assert all(p.grad.abs().sum() > 0 for p in module.parameters())
        torch.optim.SGD(module.parameters(), lr=1e-4).step()
        trained = from_torch(model, module)
        changed = {n for n, a in trained.constants().items() if a.tobytes() != before[n]}
        assert changed == {name for w in weights(module) for name, _ in w.initializers}
        found = module(x=torch.from_numpy(x))["y"].detach().numpy()
        assert_close(found, runtime(trained, tmp_path, x))


def test_gradients_pass_straight_through_what_is_rounded():
    x = torch.from_numpy(floats(3, 4)).clamp(-2, 2).requires_grad_()
    wanted = (torch.ones(3, COLUMNS) @ torch.from_numpy(INTEGERS * SCALES).T).numpy()
    for model in (dynamic(), both_ways()):
        x.grad = None
        to_torch(model)(x=x)["y"].sum().backward()
        assert_close(x.grad.numpy(), wanted)


def test_a_learned_step_has_the_gradient_of_its_paper():
    """Of the scale: rounded - exact where it is not clamped, the bound where it is (arXiv 1902.08153, equation 3)."""
    nodes = [
        ("QuantizeLinear", ["x", "scale", "zero"], ["q"], "", {}),
        ("DequantizeLinear", ["q", "scale", "zero"], ["y"], "", {}),
    ]
    module = to_torch(made(nodes, X, {"scale": np.float32(0.5), "zero": np.int8(0)}))
    x = torch.tensor([[0.6, -0.6, 1.3, 100.0]])
    module(x=x)["y"].sum().backward()
    (scale,) = module.parameters()
    exact = (x / 0.5)[0, :3]
    assert_close(scale.grad.numpy(), np.float32(float((exact.round() - exact).sum()) + 127))


def test_what_is_read_as_numbers_again_makes_no_integers():
    nodes = [("QuantizeLinear", ["x", "scale"], ["q"], "", {}), ("Cast", ["q"], ["y"], "", TO_FLOAT)]
    code = to_torch(made(nodes, X, {"scale": np.float32(0.5)})).code
    assert "uint8" not in code
    assert "torch.round(" in code


class TwoBatches(CalibrationDataReader):
    """What static quantisation is calibrated on."""

    def __init__(self, file):
        self.left = [tiny_feeds(graph.load(file), batch, length) for batch, length in ((2, 7), (3, 11))]

    def get_next(self):
        return self.left.pop() if self.left else None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # its masks are infinite
@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("how", ["dynamic", "static"])
def test_what_onnx_runtime_quantises_computes_the_same_and_learns(parent_file, tmp_path, name, how):
    file, made_of_it = parent_file(name, exporter="torchscript"), tmp_path / "quantised.onnx"
    if how == "dynamic":
        whole = {"reduce_range": True}  # 7 bits: sums of 8 saturate on CPUs without VNNI
        quantize_dynamic(str(file), str(made_of_it), per_channel=True, **whole)
    else:
        quantize_static(str(file), str(made_of_it), TwoBatches(file), per_channel=True)
    model = graph.load(made_of_it)
    module = to_torch(model).eval()
    given = tiny_feeds(model, 2, 9)
    arguments = module.meta["graphclone.inputs"]
    found = module(**{arguments[n]: torch.from_numpy(a) for n, a in given.items()})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made_of_it, options, providers=["CPUExecutionProvider"])
    for output, wanted in zip(session.get_outputs(), session.run(None, given), strict=True):
        away = np.abs(found[output.name].detach().numpy() - wanted) / np.abs(wanted).max()
        assert np.median(away) <= 1e-5
        assert away.max() <= 2e-2  # a number between two integers may fall to either, by its last bit
    assert {n.op for n in model.graph.nodes} & {"MatMulInteger", "QuantizeLinear"}
    sum(out.square().mean() for out in found.values()).backward()
    learns = [n for n, p in module.named_parameters() if p.dim() and p.grad is not None and p.grad.abs().sum() > 0]
    blocks = {n.split(".")[1] for n in learns if n.startswith("blocks.")}
    assert len(blocks) == len(module.blocks)  # through all that is rounded, down to the first
    back = from_torch(model, module).constants()
    assert [n for n, a in model.constants().items() if back[n].tobytes() != a.tobytes()] == []
