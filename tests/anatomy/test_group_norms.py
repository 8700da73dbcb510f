"""GroupNorms over the stream, as TorchScript writes them: the stream is found, and what holds its width is named."""

from __future__ import annotations

import numpy as np
import pytest

import graphclone as gc
from graphclone import graph
from tests import hand_made
from tests.hand_made import HIDDEN, LAYERS, transformer, verified


def in_groups(groups):
    def norm(made, x, stem):
        turned = made.op("Transpose", x, perm=[0, 2, 1])
        ones, zeros = made.constant(np.ones(groups), np.float32), made.constant(np.zeros(groups), np.float32)
        flat = made.op("Reshape", turned, made.constant([0, groups, -1]))
        flat = made.op("InstanceNormalization", flat, ones, zeros)
        back = made.op("Transpose", made.op("Reshape", flat, made.op("Shape", turned)), perm=[0, 2, 1])
        return made.op("Mul", back, made.weight(f"{stem}.gain", HIDDEN))

    return norm


def test_of_one_group_leave_all_but_the_width_to_be_cut(monkeypatch):
    monkeypatch.setattr(hand_made, "norm", in_groups(1))
    proto = transformer()
    anatomy = gc.inspect(graph.from_proto(proto))
    (stack,) = anatomy.stacks
    assert (stack.hidden, len(stack.blocks)) == (HIDDEN, LAYERS)
    verified(proto, ffn=12, heads=2)
    with pytest.raises(gc.GraphCloneError, match="normalised in groups by InstanceNormalization node"):
        gc.plan(anatomy, None, gc.Target(hidden=8), importance="first", method="none")


def test_of_several_groups_are_cut_by_the_group(monkeypatch):
    monkeypatch.setattr(hand_made, "norm", in_groups(4))
    anatomy = gc.inspect(graph.from_proto(transformer()))
    said = r"of 4 channels each: normalised in groups by InstanceNormalization node"
    with pytest.raises(gc.GraphCloneError, match=said):
        gc.plan(anatomy, None, gc.Target(hidden=8), importance="first", method="none")
