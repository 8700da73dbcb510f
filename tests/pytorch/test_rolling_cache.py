"""Grouped attention over a cache of its sliding window's size, prompt and steps, as ONNX Runtime has it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from graphclone import graph
from graphclone.errors import UnsupportedGraph
from graphclone.pytorch.module import to_torch
from graphclone.verification.sessions import open_session
from tests.pytorch.cases.attention import COS, SIN
from tests.pytorch.cases.case import MICROSOFT
from tests.tolerances import difference

N, K, D = 4, 2, 16
INPUTS = ("q", "k", "v", "past_k", "past_v", "last", "total")
HEADS = {"q": N, "k": K, "v": K}
LIMIT = 1e-5


def attention(window, rotary=True, bias=False, **attributes):
    """The operator alone, with a cache that is as long as it is fed."""
    names = [*INPUTS, "cos", "sin"] if rotary else list(INPUTS)
    names += ["", "", "", "bias"][len(names) - 7 :] if bias else []
    node = onnx.helper.make_node(
        "GroupQueryAttention", names, ["y", "now_k", "now_v"], "attention", domain=MICROSOFT,
        num_heads=N, kv_num_heads=K, local_window_size=window, do_rotary=int(rotary), **attributes,
    )  # fmt: skip
    info, floats, ints = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    flat = [info(n, floats, ["b", "s", h * D]) for n, h in HEADS.items()]
    cache = [info(f"past_{n}", floats, ["b", K, "capacity", D]) for n in "kv"]
    numbers = [info("last", ints, ["b"]), info("total", ints, [])]
    biases = [info("bias", floats, [1, 1, "s", "t"])] if bias else []
    outputs = [info(n, floats, None) for n in ("y", "now_k", "now_v")]
    tables = [onnx.numpy_helper.from_array(t, n) for n, t in (("cos", COS), ("sin", SIN))] if rotary else []
    made = onnx.helper.make_graph([node], "attention", [*flat, *cache, *numbers, *biases], outputs, tables)
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid(MICROSOFT, 1)]
    return graph.from_proto(onnx.helper.make_model(made, opset_imports=opsets, ir_version=8))  # noqa: TID251


def fed(length, batch, cache, seen, rng):
    """Feeds of one step; ``seen`` counts the tokens of each row, these among them."""
    drawn = {n: rng.standard_normal((batch, length, h * D)).astype(np.float32) for n, h in HEADS.items()}
    return drawn | cache | {"last": seen.astype(np.int32) - 1, "total": np.array(seen.max(), np.int32)}


def noise(batch, capacity, rng):
    """A cache that holds whatever memory did."""
    return {f"past_{n}": rng.standard_normal((batch, K, capacity, D)).astype(np.float32) for n in "kv"}


def answer(module, given):
    with torch.no_grad():
        return {n: t.numpy() for n, t in module(**{n: torch.from_numpy(a) for n, a in given.items()}).items()}


def steps(model, capacity, lengths, before):
    """Prompt and steps of rows that have seen tokens ``before``, each over the cache that ONNX Runtime gave; both
    answers to each."""
    session, module, rng = open_session(model), to_torch(model).eval(), np.random.default_rng(capacity)
    cache, seen = noise(len(before), capacity, rng), np.array(before)
    for length in lengths:
        seen += length
        given = fed(length, len(before), cache, seen, rng)
        wanted = session.run(given)
        yield answer(module, given), wanted
        cache = {f"past_{n}": wanted[f"now_{n}"] for n in "kv"}


def assert_equal(found, wanted):
    assert set(found) == {"y", "now_k", "now_v"}
    for name, array in wanted.items():
        assert found[name].shape == array.shape
        assert difference(found[name], array) <= LIMIT, name


@pytest.mark.parametrize(("window", "capacity"), [(5, 5), (3, 7), (1, 4), (4, 16)])
@pytest.mark.parametrize("lengths", [(3, 1, 1, 1, 1, 1), (8, 1, 1, 2), (2, 3, 6, 1)], ids=str)
@pytest.mark.parametrize("attributes", [{}, {"softcap": 2.0}, {"scale": 0.3, "rotary_interleaved": 1}], ids=str)
def test_prompt_and_steps_are_onnx_runtimes(window, capacity, lengths, attributes):
    model = attention(window, sliding_window_cache=1, **attributes)
    for found, wanted in steps(model, capacity, lengths, [0]):
        assert_equal(found, wanted)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("capacity", [3, 4, 9])
def test_rows_of_a_batch_may_have_seen_different_numbers_of_tokens(capacity, softcap):
    model = attention(3, sliding_window_cache=1, softcap=softcap)
    for found, wanted in steps(model, capacity, (1,) * 5, [2, 7, 4, 0]):
        assert_equal(found, wanted)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_padding_on_the_right_neither_enters_the_cache_nor_gives_what_is_no_number(softcap):
    """ONNX Runtime's CPU refuses such a batch, so each row is held against the row alone."""
    model = attention(3, sliding_window_cache=1, softcap=softcap)
    session, module, rng = open_session(model), to_torch(model).eval(), np.random.default_rng(0)
    counts = np.array([9, 4, 1])
    given = fed(9, 3, noise(3, 4, rng), counts, rng)
    with pytest.raises(UnsupportedGraph, match="too small for sequence_length"):
        session.run(given)
    found = answer(module, given)
    assert all(np.isfinite(array).all() for array in found.values())
    for row, count in enumerate(counts):
        alone = {n: a[row : row + 1, :count] if n in "qkv" else a[row : row + 1] for n, a in given.items() if a.ndim}
        wanted = session.run(alone | {"total": np.array(count, np.int32)})
        cut = {n: a[row : row + 1, :count] if n == "y" else a[row : row + 1] for n, a in found.items()}
        assert_equal(cut, wanted)


def test_gradients_reach_queries_keys_and_values_of_the_step_and_the_cache():
    module = to_torch(attention(5, rotary=False, sliding_window_cache=1))
    given = {n: torch.randn(1, 2, h * D, requires_grad=True) for n, h in HEADS.items()}
    given |= {n: torch.randn(1, K, 6, D, requires_grad=True) for n in ("past_k", "past_v")}
    numbers = {"last": torch.tensor([5], dtype=torch.int32), "total": torch.tensor(6, dtype=torch.int32)}
    module(**given, **numbers)["y"].square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in given.values())
    assert given["past_k"].grad[:, :, 4:].abs().sum() == 0  # rows that hold nothing yet


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"window": 3, "bias": True}, "attention_bias"),
        ({"window": -1}, "without a local_window_size"),
        ({"window": 3, "smooth_softmax": 1}, "smooth_softmax"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(attributes, message):
    with pytest.raises(UnsupportedGraph, match=message):
        to_torch(attention(**attributes, sliding_window_cache=1))
