"""A router that writes the shares of the chosen experts into zeros: all experts stay, everything else can be cut."""

from __future__ import annotations

import numpy as np

from graphclone import graph, pipeline
from tests.hand_made import FFN, HIDDEN, Maker, transformer, verified

EXPERTS = 3


def experts(made: Maker, x: str, stem: str) -> str:
    shares = made.op("Softmax", made.linear(x, f"{stem}.router", HIDDEN, EXPERTS), axis=-1)
    chosen = made.op("ArgMax", shares, axis=-1, keepdims=1)
    best = made.op("ReduceMax", shares, axes=[-1], keepdims=1)
    zeros = made.op("Mul", shares, made.constant(0, np.float32))
    routed = made.op("ScatterElements", zeros, chosen, best, axis=-1)
    up = made.op("Einsum", x, made.weight(f"{stem}.up", EXPERTS, HIDDEN, FFN), equation="btd,edf->btef")
    down = made.weight(f"{stem}.down", EXPERTS, FFN, HIDDEN)
    each = made.op("Einsum", made.op("Relu", up), down, equation="btef,efd->bted")
    return made.op("Einsum", each, routed, equation="bted,bte->btd")


def test_experts_whose_shares_are_scattered_stay_and_their_neurons_are_cut():
    proto = transformer(feed_forward=experts)
    found = pipeline.inspect(graph.from_proto(proto)).groups.values()
    assert all(g.pinned for g in found if g.size == EXPERTS)
    constants = verified(proto, hidden=8, heads=2, ffn=12).constants()
    assert constants["1.ffn.up"].shape == (EXPERTS, 8, 12)
