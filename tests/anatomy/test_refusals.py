"""Graphs that anatomy refuses: what was met, where, with which shapes, and what would help."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch

import models
from graphclone import graph
from graphclone.anatomy import inspect
from graphclone.anatomy.flows.attention import _outputs
from graphclone.anatomy.trace import plain
from graphclone.errors import UnsupportedGraph
from models.export import quiet

make = onnx.helper.make_node


def edited(change):
    """The seeded GPT-2 with its protobuf changed."""
    proto = onnx.load(models.cached("gpt2", exporter="torchscript"))
    change(proto)
    return graph.from_proto(proto)


def between(proto, op_type, new):
    """Put nodes behind the first node of a kind; ``new(input, output)`` makes them."""
    place = next(k for k, n in enumerate(proto.graph.node) if n.op_type == op_type)
    output = proto.graph.node[place].output[0]
    for node in proto.graph.node:
        for k, name in enumerate(node.input):
            if name == output:
                node.input[k] = "changed"
    for shift, node in enumerate(new(output, "changed")):
        proto.graph.node.insert(place + 1 + shift, node)


def refused(model):
    with pytest.raises(UnsupportedGraph) as caught:
        inspect(model)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_operator_without_a_row_on_a_traced_value():
    def change(proto):
        between(proto, "LayerNormalization", lambda x, y: [make("Det", [x], [y], name="strange")])

    message = refused(edited(change))
    assert "Det node 'strange' (inputs [2, 7, 48])" in message
    assert "graphclone/anatomy/flows" in message
    assert "docs/extending.md" in message
    assert re.search(r"of \d+ nodes the \d+ before it were understood: 0 products with weights, 0 attentions", message)


def test_a_refusal_names_the_file_and_what_was_found_up_to_there(tmp_path):
    """The operator stands behind the last block."""
    proto = onnx.load(models.cached("gpt2", exporter="torchscript"))
    head = proto.graph.node[-1]
    proto.graph.node.insert(len(proto.graph.node) - 1, make("Det", [head.input[0]], ["odd"], name="strange"))
    head.input[0] = "odd"
    onnx.save(proto, tmp_path / "odd.onnx")
    message = refused(graph.load(tmp_path / "odd.onnx"))
    assert message.startswith(f"{tmp_path / 'odd.onnx'}: Det node 'strange'")
    assert "12 products with weights, 3 attentions" in message  # of 3 blocks: q, k and v packed, output, up, down


def test_a_product_of_things_that_do_not_fit():
    """A value that mixes groups: columns of another width meet the stream."""

    def change(proto):
        weight = onnx.numpy_helper.from_array(np.ones((50, 48), np.float32), "wrong")
        proto.graph.initializer.append(weight)
        between(proto, "LayerNormalization", lambda x, y: [make("MatMul", [x, "wrong"], [y], name="misfit")])

    message = refused(edited(change))
    assert "MatMul node 'misfit'" in message
    assert "[2, 7, 48]" in message


def test_neurons_that_compete_are_pinned_and_say_so():
    """A softmax over the stream mixes all its neurons: nothing is refused, and the stream cannot be cut."""

    def change(proto):
        between(proto, "LayerNormalization", lambda x, y: [make("Softmax", [x], [y], axis=-1, name="mixer")])

    anatomy = inspect(edited(change))
    residual = anatomy.groups[anatomy.stacks[0].residual]
    assert residual.pinned == "normalised by Softmax node 'mixer'"
    assert all(anatomy.groups[f.group].pinned is None for b in anatomy.stacks[0].blocks for f in b.feed_forward)


def test_an_operator_of_an_unknown_domain():
    def change(proto):
        proto.opset_import.append(onnx.helper.make_opsetid("acme", 1))
        between(proto, "LayerNormalization", lambda x, y: [make("Frob", [x], [y], name="strange", domain="acme")])

    assert "acme.Frob node 'strange' (inputs [2, 7, 48])" in refused(edited(change))


def test_an_operator_without_its_first_input():
    def change(proto):
        between(proto, "LayerNormalization", lambda x, y: [make("Softmax", ["", x], [y], name="empty")])

    assert "Softmax node 'empty': without its first input; of " in refused(edited(change))


def test_an_output_that_is_not_understood_is_named():
    node = gs.Node("MultiHeadAttention", "fused", outputs=[gs.Variable("context"), gs.Variable("scores")])
    with pytest.raises(UnsupportedGraph, match=r"node 'fused'.*: its output 1, 'scores', is not understood"):
        _outputs(node, plain(()), None)


def branches(kind, value):
    """If or Loop around a value of the outer graph, which only its body reads."""
    body_out = onnx.helper.make_tensor_value_info("inside", onnx.TensorProto.FLOAT, None)
    body = onnx.helper.make_graph([make("Neg", [value], ["inside"])], "body", [], [body_out])
    if kind == "If":
        return make("If", ["condition"], ["changed"], name="choice", then_branch=body, else_branch=body)
    names = [("i", onnx.TensorProto.INT64), ("go", onnx.TensorProto.BOOL)]
    inputs = [onnx.helper.make_tensor_value_info(n, t, []) for n, t in names]
    outs = [onnx.helper.make_tensor_value_info("go_on", onnx.TensorProto.BOOL, []), body_out]
    nodes = [make("Identity", ["go"], ["go_on"]), make("Neg", [value], ["inside"])]
    loop = onnx.helper.make_graph(nodes, "body", inputs, outs)
    return make("Loop", ["trips", "condition"], ["changed"], name="choice", body=loop)


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_a_traced_value_in_the_body_of_a_branch(kind):
    def change(proto):
        proto.graph.node.insert(0, make("Size", ["input_ids"], ["trips"]))  # of what is fed: no constant
        proto.graph.node.insert(1, make("Cast", ["trips"], ["condition"], to=onnx.TensorProto.BOOL))
        between(proto, "LayerNormalization", lambda x, y: [branches(kind, x)])

    message = refused(edited(change))
    assert f"{kind} node 'choice'" in message
    assert "its body reads traced neurons" in message
    assert "[2, 7, 48]" in message
    assert "export without control flow" in message


class MLP(torch.nn.Module):
    inputs = (torch.zeros(2, 16),)

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(*(m for _ in range(4) for m in (torch.nn.Linear(16, 16), torch.nn.ReLU())))

    def forward(self, features):
        return self.layers(features)


class ResNet(torch.nn.Module):
    inputs = (torch.zeros(2, 3, 16, 16),)

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = torch.nn.ModuleList(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.norms = torch.nn.ModuleList(torch.nn.BatchNorm2d(8) for _ in range(4))
        self.head = torch.nn.Linear(8, 5)

    def forward(self, features):
        x = self.stem(features)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = x + torch.relu(norm(block(x)))
        return self.head(x.mean((2, 3)))


class LSTM(torch.nn.Module):
    inputs = (torch.zeros(2, 5, 8),)

    def __init__(self):
        super().__init__()
        self.project = torch.nn.Linear(8, 8)
        self.lstm = torch.nn.LSTM(8, 8, batch_first=True)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, features):
        return self.head(self.lstm(self.project(features))[0])


@pytest.mark.parametrize("network", [MLP, ResNet, LSTM])
def test_a_network_without_transformer_blocks(network, tmp_path):
    torch.manual_seed(0)
    file = tmp_path / "network.onnx"
    with quiet():
        torch.onnx.export(
            network().eval(), network.inputs, str(file), input_names=["features"], opset_version=17, dynamo=False
        )
    message = refused(graph.load(file))
    if network is LSTM:
        assert "LSTM node" in message
        assert "graphclone/anatomy/flows" in message
    else:
        assert f"{file}: no repeated transformer block found in" in message
        products = {MLP: 4, ResNet: 6}[network]
        assert f"all were understood: {products} products with weights, 0 attentions" in message
        assert "docs/extending.md" in message
