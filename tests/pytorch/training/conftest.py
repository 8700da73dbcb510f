"""Tiny parents, a clone of one, and data that has something to learn."""

from __future__ import annotations

import numpy as np
import pytest

import graphclone as gc
from graphclone import graph
from graphclone.plan import Plan
from graphclone.pytorch.module import to_torch


def counting(count=4, batch=4, length=16, seed=0):
    """Each token is the one before plus one."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 40, (count, batch, 1))
    ids = (starts + np.arange(length)) % 60
    return [{"input_ids": i, "attention_mask": np.ones_like(i)} for i in ids]


@pytest.fixture(scope="session")
def llama(parent_file):
    return graph.load(parent_file("llama", exporter="dynamo"))


@pytest.fixture(scope="session")
def bert(parent_file):
    return graph.load(parent_file("bert", exporter="dynamo"))


@pytest.fixture
def module(llama):
    return to_torch(llama)


@pytest.fixture(scope="session")
def cut(llama):
    """Two of the llama's three blocks, with three quarters of its residual neurons in an order of their own."""
    anatomy = gc.inspect(llama)
    stack = anatomy.stacks[0]
    size = anatomy.groups[stack.residual].size
    kept = tuple(int(k) for k in np.random.default_rng(1).permutation(size)[: size * 3 // 4])
    plan = Plan(anatomy.fingerprint, {stack.residual: kept}, {stack.name: (1,)}, "none")
    return gc.clone(llama, plan, anatomy=anatomy)
