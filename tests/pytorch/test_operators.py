"""Every row of the operator table against ONNX Runtime, one node at a time."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnx.defs
import onnx.reference
import onnxruntime
import pytest
import torch

from graphclone import graph
from graphclone.errors import UnsupportedGraph
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.operators import TABLE, rows
from tests.pytorch.cases import attention, elementwise, movement, products, quantised
from tests.pytorch.cases.case import MICROSOFT
from tests.tolerances import assert_close

CASES = [*elementwise.CASES, *movement.CASES, *products.CASES, *attention.CASES, *quantised.CASES]
NO_KERNEL = ("NOT_IMPLEMENTED", "NotImplemented", "no kernel", "Could not find an implementation")


def made_of(nodes, inputs, outputs, constants=None, opset=17, dtype=onnx.TensorProto.FLOAT):
    """A graph of nodes; ``inputs`` name -> shape, of one type."""
    made = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info(n, dtype, shape) for n, shape in inputs.items()],
        [onnx.ValueInfoProto(name=n) for n in outputs],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()],
    )
    opsets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(MICROSOFT, 1)]
    return onnx.helper.make_model(made, opset_imports=opsets, ir_version=10)  # noqa: TID251  made without graphclone


def expected(case):
    """By ONNX Runtime; by onnx's reference operators where it has no kernel for the version or type."""
    proto = case.model()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        return session.run(None, case.feeds())
    except Exception as reason:  # the runtime's own exceptions share no base
        if not any(text in str(reason) + type(reason).__name__ for text in NO_KERNEL):
            raise
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return onnx.reference.ReferenceEvaluator(proto).run(None, case.feeds())


def actual(case, types):
    module = to_torch(graph.from_proto(case.model(types)))
    with torch.no_grad():
        outputs = module(**{name: torch.from_numpy(np.array(a)) for name, a in case.feeds().items()})
    return [outputs[f"y{i}"].numpy() for i in range(case.outputs)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_row_computes_what_onnx_runtime_computes(case):
    wanted_outputs = expected(case)
    found_outputs = actual(case, tuple(w.dtype for w in wanted_outputs))
    for found, wanted in zip(found_outputs, wanted_outputs, strict=True):
        assert found.dtype == wanted.dtype
        if wanted.dtype.kind == "f":
            assert_close(found, wanted)
        else:
            assert found.shape == wanted.shape
            np.testing.assert_array_equal(found, wanted)


NAMED = [
    ("LayerNormalization", "", ["x", "g"], ["y", "mean", "inverse"], {}),
    ("SkipLayerNormalization", MICROSOFT, ["x", "x", "g"], ["y", "mean", "inverse", "total"], {}),
    ("MaxPool", "", ["x"], ["y", "indices"], {"kernel_shape": [2]}),
    ("BatchNormalization", "", ["x", "one", "one", "one", "one"], ["y"], {}),
]  # operators with outputs that a row does not compute


@pytest.mark.parametrize(("op", "domain", "inputs", "outputs", "attributes"), NAMED, ids=lambda v: str(v)[:30])
def test_outputs_that_nothing_reads_may_have_names(op, domain, inputs, outputs, attributes):
    def proto(read):
        return made_of(
            [onnx.helper.make_node(op, inputs, outputs, "the_node", domain=domain, **attributes)],
            {"x": ["b", 3, 4]},
            read,
            {"g": np.array([0.5, 1.0, -1.0, 2.0], np.float32), "one": np.ones(3, np.float32)},
        )

    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    read = [n for n in outputs if n in ("y", "total")]
    session = onnxruntime.InferenceSession(proto(read).SerializeToString(), providers=["CPUExecutionProvider"])
    found = to_torch(graph.from_proto(proto(read)))(x=torch.from_numpy(x))
    for name, wanted in zip(read, session.run(None, {"x": x}), strict=True):
        assert_close(found[name].detach().numpy(), wanted)
    for name in set(outputs) - set(read):
        with pytest.raises(UnsupportedGraph, match=rf"{op} \(node 'the_node'.*which is read"):
            to_torch(graph.from_proto(proto([name])))


def test_a_constant_of_bfloat16_has_its_type():
    one = onnx.helper.make_tensor("one", onnx.TensorProto.BFLOAT16, [1], [1.5])
    nodes = [
        onnx.helper.make_node("Shape", ["x"], ["s"]),
        onnx.helper.make_node("ConstantOfShape", ["s"], ["c"], value=one),
        onnx.helper.make_node("Cast", ["c"], ["w"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("Add", ["x", "w"], ["y"]),
    ]
    module = to_torch(graph.from_proto(made_of(nodes, {"x": ["b", 3]}, ["y"])))
    assert module(x=torch.zeros(2, 3))["y"].tolist() == [[1.5] * 3] * 2


SCATTERED = {
    "ScatterND": [[[0, 1]], (1, 4), {}],
    "ScatterElements": [[[[0, 1, 2, 0]]], (1, 1, 4), {"axis": 1}],
}


@pytest.mark.parametrize("op", SCATTERED)
def test_what_autocast_made_narrow_is_put_among_what_it_did_not(op):
    indices, shape, attributes = SCATTERED[op]
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", ["u", "w"], ["v"]),
        onnx.helper.make_node(op, ["x", "i", "v"], ["y"], **attributes),
    ]
    constants = {"w": weight, "i": np.array(indices)}
    module = to_torch(graph.from_proto(made_of(nodes, {"x": ["b", 3, 4], "u": list(shape)}, ["y"], constants)))
    x, u = torch.zeros(2, 3, 4), torch.ones(shape)
    wanted = module(x=x, u=u)["y"]
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x=x, u=u)["y"]
    assert found.dtype == torch.float32
    assert_close(found.detach().numpy(), wanted.detach().numpy(), "bfloat16")


def test_the_length_of_a_row_of_zeros_has_a_gradient():
    """That of torch.norm; one padded row would make a whole run diverge."""
    nodes = [
        onnx.helper.make_node("ReduceL2", ["x"], ["n"], axes=[-1], keepdims=1),
        onnx.helper.make_node("Add", ["n", "e"], ["m"]),
        onnx.helper.make_node("Div", ["x", "m"], ["y"]),
    ]
    module = to_torch(graph.from_proto(made_of(nodes, {"x": ["b", 4]}, ["y"], {"e": np.float32(1e-3)})))
    x = torch.tensor([[0.0] * 4, [1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    module(x=x)["y"].sum().backward()
    wanted = x.detach().clone().requires_grad_()
    (wanted / (wanted.norm(dim=-1, keepdim=True) + 1e-3)).sum().backward()
    assert_close(x.grad.numpy(), wanted.grad.numpy())


REFUSED = [
    ("Resize", {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}, "asymmetric"),
    ("Resize", {"nearest_mode": "round_prefer_ceil"}, "round_prefer_ceil"),
    ("Resize", {"mode": "cubic", "cubic_coeff_a": -0.5}, "cubic_coeff_a"),
]


@pytest.mark.parametrize(("op", "attributes", "message"), REFUSED, ids=str)
def test_what_torch_has_no_exact_counterpart_of_is_refused(op, attributes, message):
    node = onnx.helper.make_node(op, ["x", "", "scales"], ["y"], "the_node", **attributes)
    proto = made_of([node], {"x": ["b", 3, "h", "w"]}, ["y"], {"scales": np.array([1, 1, 1.5, 0.5], np.float32)})
    with pytest.raises(UnsupportedGraph, match=rf"{op} \(node 'the_node'.*{message}"):
        to_torch(graph.from_proto(proto))


def test_sizes_that_stay_are_not_moved_about():
    """Batch and channels of what a convolution gives, as exporters write them."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"]),
        onnx.helper.make_node("Shape", ["c"], ["s"]),
        onnx.helper.make_node("Slice", ["s", "zero", "two"], ["kept"]),
        onnx.helper.make_node("Concat", ["kept", "new"], ["sizes"], axis=0),
        onnx.helper.make_node("Resize", ["c", "", "", "sizes"], ["y"], mode="linear"),
    ]
    constants = {"w": np.ones((5, 3, 2, 2), np.float32), "zero": [0], "two": [2], "new": [9, 11]}
    proto = made_of(nodes, {"x": ["b", 3, "h", "w"]}, ["y"], {n: np.asarray(a) for n, a in constants.items()})
    assert "interpolate_along" not in to_torch(graph.from_proto(proto)).code


def test_every_row_has_a_case():
    assert sorted(set(TABLE) - {case.key for case in CASES}) == []


def test_every_row_is_a_version_that_onnx_defines():
    """Contributed ones are not in onnx's list; SimplifiedLayerNormalization is ONNX Runtime's, in the main domain."""
    own = {"SimplifiedLayerNormalization"}
    for domain, op, since in TABLE:
        if not domain and op not in own:
            assert onnx.defs.get_schema(op, since, domain).since_version == since, op


def test_a_second_row_for_a_version_is_refused():
    with pytest.raises(ValueError, match=r"two rows for .*Relu"):
        rows.row("Relu", 14)(lambda call, x: x)


def test_an_operator_without_a_row_is_refused_by_name_before_anything_is_built():
    node = onnx.helper.make_node("Det", ["x"], ["y"], "the_node")
    info = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_graph([node], "g", [info("x", 1, [2, 2])], [info("y", 1, [])])
    opsets = [onnx.helper.make_opsetid("", 17)]
    proto = onnx.helper.make_model(made, opset_imports=opsets, ir_version=8)  # noqa: TID251  made without graphclone
    with pytest.raises(
        UnsupportedGraph, match=r"ai.onnx.Det version 11 \(node 'the_node', opset 17\).*@row\('Det', 11\)"
    ):
        to_torch(graph.from_proto(proto))
