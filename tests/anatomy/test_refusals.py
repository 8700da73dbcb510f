"""Graphs that anatomy refuses: what was met, where, with which shapes, and what would help."""

from __future__ import annotations

import onnx
import pytest
import torch

import models
from graphclone import graph
from graphclone.anatomy import inspect
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


def test_an_operator_of_an_unknown_domain():
    def change(proto):
        proto.opset_import.append(onnx.helper.make_opsetid("acme", 1))
        between(proto, "LayerNormalization", lambda x, y: [make("Frob", [x], [y], name="strange", domain="acme")])

    assert "acme.Frob node 'strange' (inputs [2, 7, 48])" in refused(edited(change))


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
    assert "body" in message


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
        assert "attention" in message
