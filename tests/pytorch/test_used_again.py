"""What a later layer reads of an earlier one, and layers that are used twice, import into PyTorch all the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphclone as gc
from graphclone import saving
from graphclone.errors import UnsupportedGraph
from graphclone.pytorch import module as module_
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.source import placement
from graphclone.pytorch.write_back import from_torch
from models.export import quiet
from tests.pytorch.test_module import differs

HIDDEN, HEADS, WORDS = 16, 2, 64


class Layer(nn.Module):
    def __init__(self, kind, owns):
        super().__init__()
        self.kind = kind
        self.norms = nn.ModuleList([nn.LayerNorm(HIDDEN) for _ in range(2)])
        self.q, self.o = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        if owns:
            self.k, self.v = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, 24), nn.Linear(24, HIDDEN)

    def heads(self, x):
        return x.view(*x.shape[:2], HEADS, -1).transpose(1, 2)

    def fed(self, x):
        return self.down(nn.functional.gelu(self.up(x)))

    def forward(self, x, held):
        x = x + self.fed(x) / 2 if self.kind == "feed-forward" else x
        normed = self.norms[0](x)
        if held is None or self.kind == "feed-forward":
            held = self.heads(self.k(normed)), self.heads(self.v(normed))
        scores = self.heads(self.q(normed)) @ held[0].transpose(-1, -2) * (HIDDEN // HEADS) ** -0.5
        x = x + self.o((scores.softmax(-1) @ held[1]).transpose(1, 2).flatten(2))
        return x + self.fed(self.norms[1](x)), held


class Net(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.embedding, self.head = nn.Embedding(WORDS, HIDDEN), nn.Linear(HIDDEN, WORDS - 3)
        self.layers = nn.ModuleList([Layer(kind, i % 2 == 0 or kind == "feed-forward") for i in range(4)])

    def forward(self, ids):
        x, held = self.embedding(ids), None
        for i, layer in enumerate(self.layers):
            x, held = layer(x, held if i % 2 else None)
        return self.head(x)


@pytest.fixture(scope="module", params=["keys and values", "feed-forward"])
def used_again(request, tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("used") / "model.onnx"
    net = Net(request.param).eval()
    with torch.no_grad():
        for p in net.parameters():  # all different: exporters merge equal ones
            p.copy_(torch.randn_like(p) * 0.2 + (p.dim() == 1))
    with quiet():
        torch.onnx.export(
            net,
            (torch.arange(7)[None] % WORDS,),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["input_ids"],
            dynamic_axes={"input_ids": {0: "batch", 1: "length"}},
        )
    return file


def trains_and_comes_back(model, folder):
    module = to_torch(model)
    saving.save(model, folder / "before.onnx")
    differs(module, folder / "before.onnx")
    assert all(p.requires_grad for p in module.parameters())
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1.1).add_(0.01)
    saving.save(from_torch(model, module), folder / "after.onnx")
    differs(module, folder / "after.onnx")
    return module


def test_parts_used_again_are_one_call_and_plain_calls_behind_it(used_again, tmp_path):
    module = trains_and_comes_back(gc.load(used_again), tmp_path)
    names = dict(module.named_parameters())
    assert {"blocks.0.attention.q.weight", "blocks.1.attention.o.bias", "blocks.1.feed_forward.up.weight"} <= set(names)
    held = [a for a in gc.load(used_again).constants().values() if a.dtype.kind == "f" and a.ndim]
    assert sum(p.numel() for p in names.values()) == sum(a.size for a in held)


def test_a_clone_of_it_trains_too(used_again, tmp_path):
    model = gc.load(used_again)
    anatomy = gc.inspect(model)
    plan = gc.plan(
        anatomy, None, gc.Target(layers=len(anatomy.stacks[0].blocks) // 2), importance="first", method="none"
    )
    trains_and_comes_back(gc.clone(model, plan, anatomy=anatomy), tmp_path)


def test_parts_that_wait_for_each_other_go_to_the_block(used_again, tmp_path, monkeypatch):
    monkeypatch.setattr(placement, "_is_convex", lambda nodes, inside: True)
    names = {n for n, _ in trains_and_comes_back(gc.load(used_again), tmp_path).named_parameters()}
    assert not {"blocks.1.attention.q.weight", "blocks.1.feed_forward.up.weight"} <= names
    assert {"blocks.1.q.weight", "blocks.1.up.weight"} & names


def test_blocks_that_wait_for_each_other_go_to_the_model(used_again, tmp_path, monkeypatch):
    def entangled(recording, anatomy):
        found = placement.place(recording, anatomy)
        first = next(n for n, p in found.paths.items() if p == ("blocks.0",))
        found.paths[first] = ("blocks.1",)
        return found

    monkeypatch.setattr(module_, "place", entangled)
    names = {n for n, _ in trains_and_comes_back(gc.load(used_again), tmp_path).named_parameters()}
    assert not any(n.startswith("blocks") for n in names)


def test_what_cannot_be_taken_apart_is_refused_by_name(used_again, monkeypatch):
    monkeypatch.setattr(placement, "_is_convex", lambda nodes, inside: True)
    monkeypatch.setattr(placement.Placement, "flatten", lambda self, held, parts: False)
    with pytest.raises(UnsupportedGraph, match=r"wait for each other: blocks\.\d\.\w+"):
        to_torch(gc.load(used_again))
