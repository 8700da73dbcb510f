"""Convolutions of one channel each, on the stream and inside a feed-forward: the channels are cut like any neurons."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import graphclone as gc
from graphclone.plan import Plan
from graphclone.pytorch.module import to_torch
from graphclone.verification.sessions import open_session
from models.export import quiet
from tests.hand_made import FFN, HIDDEN, transformer, verified
from tests.hand_made import feed_forward as plain
from tests.tolerances import assert_close

WORDS, LAYERS, WIDE, INNER = 40, 3, 16, 24
IDS = np.random.default_rng(0).integers(0, WORDS, (2, 7))


class Layer(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.places = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, 16) for _ in range(3))
        self.o = nn.Linear(16, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.mixed = nn.Conv1d(inner, inner, 3, padding=1, groups=inner, bias=False)

    def heads(self, x):
        return x.view(*x.shape[:2], 4, 4).transpose(1, 2)

    def forward(self, x):
        x = x + self.places(x.transpose(1, 2)).transpose(1, 2)
        normed = self.first(x)
        q, k, v = self.heads(self.q(normed)), self.heads(self.k(normed)), self.heads(self.v(normed))
        x = x + self.o(((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))
        up = self.mixed(self.up(self.second(x)).transpose(1, 2)).transpose(1, 2)
        return x + self.down(nn.functional.gelu(up))


class Net(nn.Module):
    def __init__(self, width=WIDE, inner=INNER):
        super().__init__()
        self.words, self.last, self.head = nn.Embedding(WORDS, width), nn.LayerNorm(width), nn.Linear(width, WORDS - 3)
        self.layers = nn.ModuleList([Layer(width, inner) for _ in range(LAYERS)])

    def forward(self, ids):
        x = self.words(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.last(x))


def drawn(net):
    """All parameters different, so that the exporter merges none."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn_like(p) * 0.4 + (p.dim() == 1))
    return net.eval()


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    net, file = drawn(Net()), tmp_path_factory.mktemp("depthwise") / "model.onnx"
    with quiet():
        torch.onnx.export(
            net,
            (torch.from_numpy(IDS),),
            file,
            dynamo=False,
            opset_version=17,
            input_names=["input_ids"],
            output_names=["logits"],
            dynamic_axes={"input_ids": {0: "batch", 1: "length"}},
        )
    return net, gc.load(file)


def numbers(model):
    return open_session(model).run({"input_ids": IDS})["logits"]


def groups_of(model):
    return sorted({int(n.attrs["group"]) for n in model.graph.nodes if n.op == "Conv"})


def test_a_permutation_of_the_channels_changes_nothing(parent):
    _, model = parent
    anatomy, rng = gc.inspect(model), np.random.default_rng(1)
    free = {n: g for n, g in anatomy.groups.items() if g.kind in ("residual", "ffn")}
    assert not [g.pinned for g in free.values() if g.pinned]
    keep = {n: tuple(map(int, rng.permutation(g.size))) for n, g in free.items()}
    made = gc.clone(model, Plan(anatomy.fingerprint, keep, method="none"), anatomy=anatomy)
    assert_close(numbers(made), numbers(model))


def test_the_clone_is_the_network_sliced_by_hand(parent):
    net, model = parent
    anatomy, rng = gc.inspect(model), np.random.default_rng(2)
    plan = gc.plan(anatomy, None, gc.Target(hidden=10, ffn=14), importance="first", method="none")
    keep = {n: tuple(map(int, rng.permutation(anatomy.groups[n].size)[: len(k)])) for n, k in plan.keep.items()}
    plan = dataclasses.replace(plan, keep=keep)
    made = gc.clone(model, plan, anatomy=anatomy)
    assert groups_of(made) == [10, 14]
    gc.verify(model, made, plan).raise_if_failed()

    stream = list(plan.keep[anatomy.stacks[0].residual])
    inner = [list(plan.keep[block.feed_forward[0].group]) for block in anatomy.stacks[0].blocks]
    small = sliced(net, stream, inner)
    with torch.no_grad():
        wanted = small(torch.from_numpy(IDS)).numpy()
        imported = to_torch(made)(input_ids=torch.from_numpy(IDS))["logits"].numpy()
    assert_close(numbers(made), wanted)
    assert_close(imported, wanted)


def sliced(net, stream, inner):
    """Each axis as long as the stream or a feed-forward, at the neurons kept."""
    small = Net(len(stream), len(inner[0])).eval()
    kept = dict(net.named_parameters())
    for name, parameter in small.named_parameters():
        values, steps = kept[name].detach(), name.split(".")
        own = inner[int(steps[1])] if steps[0] == "layers" else []
        onto = {"places": (stream, None), "o": (stream, None), "down": (stream, own), "up": (own, stream)}
        onto |= {"mixed": (own, None), "words": (None, stream), "head": (None, stream), "last": (stream, None)}
        onto |= {"first": (stream, None), "second": (stream, None)} | dict.fromkeys("qkv", (None, stream))
        for axis, chosen in zip(range(values.dim()), onto[steps[-2]], strict=False):
            values = values if chosen is None else values.index_select(axis, torch.tensor(chosen))
        parameter.data.copy_(values)
    return small


def test_feed_forwards_with_a_convolution_inside_are_not_gated(parent):
    _, model = parent
    found = [part for block in gc.inspect(model).stacks[0].blocks for part in block.feed_forward]
    assert [(part.ffn, part.gated) for part in found] == [(INNER, False)] * LAYERS


@pytest.mark.parametrize("method", ["paper", "least-squares"])
def test_channels_are_chosen_and_repaired_by_what_is_measured(parent, method):
    _, model = parent
    anatomy, rng = gc.inspect(model), np.random.default_rng(3)
    batches = [{"input_ids": rng.integers(0, WORDS, (4, 9))} for _ in range(12)]
    stats = gc.measure(model, batches, anatomy=anatomy, moments=True)
    plan = gc.plan(anatomy, stats, gc.Target(hidden=10, ffn=14), method=method)
    gc.verify(model, gc.clone(model, plan, stats, anatomy=anatomy), plan).raise_if_failed()


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_written_by_hand(kind):
    def convolved(made, x, width, stem):
        turned = made.op("Transpose", x, perm=[0, 2, 1])
        weights = made.weight(f"{stem}.window", width, 1, 3), made.weight(f"{stem}.bias", width)
        out = made.op(kind, turned, *weights, group=width, pads=[1, 1], kernel_shape=[3])
        return made.op("Transpose", out, perm=[0, 2, 1])

    def with_windows(made, x, stem):
        up = convolved(made, made.linear(x, f"{stem}.up", HIDDEN, FFN), FFN, f"{stem}.inner")
        down = made.linear(made.op("Relu", up), f"{stem}.down", FFN, HIDDEN)
        return made.op("Add", down, convolved(made, x, HIDDEN, f"{stem}.outer"))

    made = verified(transformer(feed_forward=with_windows), hidden=8, ffn=12)
    assert {int(n.attrs["group"]) for n in made.graph.nodes if n.op == kind} == {8, 12}


def test_larger_groups_stay_whole():
    def grouped(made, x, stem):
        turned = made.op("Transpose", x, perm=[0, 2, 1])
        window = made.weight(f"{stem}.window", HIDDEN, HIDDEN // 4, 3)
        out = made.op("Conv", turned, window, group=4, pads=[1, 1], kernel_shape=[3])
        return plain(made, made.op("Transpose", out, perm=[0, 2, 1]), stem)

    with pytest.raises(gc.GraphCloneError, match="cut in 4 groups"):
        verified(transformer(feed_forward=grouped), hidden=8)
