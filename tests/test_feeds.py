"""Inputs are understood by name, type and use; auxiliary ones are filled; what does not fit is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import feeds, graph
from graphclone.errors import BadData, InvalidTarget, UnsupportedGraph
from graphclone.graph import Model


def model_of(*inputs: tuple[str, type, list | None]) -> Model:
    return Model(gs.Graph(inputs=[gs.Variable(name, dtype, shape) for name, dtype, shape in inputs]))


INT, FLOAT = np.int64, np.float32
ROLES = {
    # name, dtype, shape -> role, value filled for batch 2 and length 3
    "attention_mask": (INT, ["b", "l"], "mask", np.ones((2, 3))),
    "additive_mask": (FLOAT, ["b", 1, "l", "l"], "mask", np.zeros((2, 1, 3, 3))),
    "position_ids": (INT, ["b", "l"], "positions", np.tile(np.arange(3), (2, 1))),
    "cache_position": (INT, ["l"], "positions", np.arange(3)),
    "token_type_ids": (INT, ["b", "l"], "token types", np.zeros((2, 3))),
    "past_key_values.0.key": (FLOAT, ["b", 4, "past", 8], "cache", np.zeros((2, 4, 0, 8))),
    "logits_to_keep": (INT, [], "kept logits", np.zeros(())),
    "use_cache_branch": (np.bool_, [1], "flag", np.zeros(1)),
    "seqlens_k": (np.int32, ["b"], "sequence length", np.full(2, 2)),
    "total_sequence_length": (np.int32, [], "total length", np.full((), 3)),
}


@pytest.mark.parametrize("name", ROLES)
def test_auxiliary_inputs_are_filled_by_rule(name):
    dtype, shape, role, value = ROLES[name]
    known = feeds.inputs(model_of(("input_ids", INT, ["b", "l"]), (name, dtype, shape)))
    assert known[name].role.name == role
    found = feeds.fill(known, {"input_ids": np.zeros((2, 3), INT)})
    np.testing.assert_array_equal(found[name], value)
    assert found[name].dtype == dtype
    assert found[name].shape == value.shape


def indexing_model(name: str = "x.1", rows: int = 17) -> Model:
    """Ids of a name that says nothing, cast and reshaped before they index a table; and a second, idle input."""
    ids, other = gs.Variable(name, np.int32, ["b", "l"]), gs.Variable("x.2", np.int32, ["b", "l"])
    wide, shaped, rows_out = gs.Variable("w", INT), gs.Variable("s", INT), gs.Variable("y", FLOAT, None)
    nodes = [
        gs.Node("Cast", "cast", {"to": 7}, [ids], [wide]),
        gs.Node("Unsqueeze", "shape", {}, [wide, gs.Constant("axes", np.array([0]))], [shaped]),
        gs.Node("Gather", "look_up", {}, [gs.Constant("table", np.ones((rows, 4), FLOAT)), shaped], [rows_out]),
    ]
    return Model(gs.Graph(nodes, [ids, other], [rows_out]))


def test_an_input_that_indexes_a_table_holds_ids_of_that_vocabulary():
    known = feeds.inputs(indexing_model())
    assert (known["x.1"].role.name, known["x.1"].rows) == ("tokens", 17)
    assert known["x.2"].role.name == "mask"
    drawn = feeds.tiny_feeds(indexing_model(), 50, 20)["x.1"]
    assert set(np.unique(drawn)) == set(range(17))


def test_tiny_feeds_have_the_sizes_asked_and_repeat_themselves():
    model = indexing_model()
    first, again = feeds.tiny_feeds(model, 3, 5), feeds.tiny_feeds(model, 3, 5)
    assert {name: array.shape for name, array in first.items()} == {"x.1": (3, 5), "x.2": (3, 5)}
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["x.1"], feeds.tiny_feeds(model, 3, 5, seed=1)["x.1"])


@pytest.mark.parametrize(("batch", "length"), [(10**11, 128), (2, 10**23)])
def test_a_batch_beyond_all_memory_is_said(batch, length):
    with pytest.raises(InvalidTarget, match=f"input_ids.*: a batch of {batch} x {length} has no room in any memory"):
        feeds.tiny_feeds(model_of(("input_ids", INT, ["b", "l"])), batch, length)


def test_fixed_axes_stay_as_declared_and_the_rest_follows():
    model = model_of(("input_ids", INT, [1, 8]), ("attention_mask", INT, ["b", "l"]))
    assert {a.shape for a in feeds.tiny_feeds(model, 2, 7).values()} == {(1, 8)}


def test_an_image_of_free_size_is_a_multiple_of_its_patch():
    image = gs.Variable("pixel_values", FLOAT, ["b", 3, "h", "w"])
    node = gs.Node("Conv", "patch", {"strides": [14, 14]}, [image, gs.Constant("k", np.ones((4, 3, 14, 14), FLOAT))])
    node.outputs = [gs.Variable("y", FLOAT, None)]
    assert feeds.tiny_feeds(Model(gs.Graph([node], [image], node.outputs)))["pixel_values"].shape == (2, 3, 224, 224)


REFUSED = {
    "unknown name": ({"ids": np.zeros((2, 3), np.int32)}, "no input 'ids'; it has x.1 int32[b, l], x.2 int32[b, l]"),
    "missing": ({"x.2": np.ones((2, 3), np.int32)}, "x.1 int32[b, l] is missing; the batch has x.2"),
    "dtype": ({"x.1": np.zeros((2, 3), INT)}, "the graph wants x.1 int32[b, l], the batch has int64[2, 3]"),
    "rank": ({"x.1": np.zeros(3, np.int32)}, "the graph wants x.1 int32[b, l], the batch has int32[3]"),
    "empty": ({"x.1": np.zeros((0, 3), np.int32)}, "it is empty"),
    "sizes that disagree": (
        {"x.1": np.zeros((2, 3), np.int32), "x.2": np.ones((2, 4), np.int32)},
        "the graph wants x.2 int32[b, l], the batch has int32[2, 4], and x.1 has l = 3",
    ),
    "id too large": ({"x.1": np.full((1, 2), 17, np.int32)}, "ids from 17 to 17, the graph's table has 17 rows"),
    "id below zero": ({"x.1": np.full((1, 2), -100, np.int32)}, "ids from -100 to -100"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_batch_that_does_not_fit_is_refused_with_both_sides(case):
    batch, said = REFUSED[case]
    with pytest.raises(BadData) as caught:
        feeds.fill(feeds.inputs(indexing_model()), batch, "data.npz: batch 3")
    assert said in str(caught.value)
    assert str(caught.value).startswith("data.npz: batch 3: ")


def test_a_fixed_size_is_checked():
    known = feeds.inputs(model_of(("pixel_values", FLOAT, ["b", 3, 32, 32])))
    with pytest.raises(
        BadData, match=r"wants pixel_values float32\[b, 3, 32, 32\], the batch has float32\[1, 3, 32, 31\]"
    ):
        feeds.fill(known, {"pixel_values": np.zeros((1, 3, 32, 31), FLOAT)})


def test_an_input_without_a_known_meaning_is_refused_by_name():
    with pytest.raises(UnsupportedGraph, match=r"input mystery int64\[\] has no known meaning"):
        feeds.inputs(model_of(("mystery", INT, [])))
    with pytest.raises(UnsupportedGraph, match="input 'shapeless' is no tensor of known type and rank"):
        feeds.inputs(model_of(("shapeless", FLOAT, None)))
    for one in (("mystery", INT, []), ("shapeless", FLOAT, None)):
        with pytest.raises(UnsupportedGraph, match=f"^a/b.onnx: input .?{one[0]}"):
            feeds.inputs(replace(model_of(one), path=Path("a/b.onnx")))


def test_every_seeded_export_is_fed_inside_its_vocabulary(seeded_parent):
    model = graph.load(seeded_parent)
    known = feeds.inputs(model)
    tiny = feeds.tiny_feeds(model)
    feeds.check(known, tiny)
    assert set(tiny) == {tensor.name for tensor in model.graph.inputs}
    tokens = [i for i in known.values() if i.role.name == "tokens"]
    assert [i.rows for i in tokens] == ([131] if "input_ids" in known else [])


def test_a_signal_is_as_long_as_its_convolutions_want():
    """Two steps of 5 and 4 samples, seen through 10 and 4: 65 samples make 3 steps."""
    sound, held = gs.Variable("input_values", np.float32, ["batch", "samples"]), gs.Variable("held", np.float32)
    first, second, out = (gs.Variable(n, np.float32) for n in ("first", "second", "out"))
    axis = gs.Constant("axis", np.array([1]))
    weights = [gs.Constant(n, np.ones(s, np.float32)) for n, s in (("a", (6, 1, 10)), ("b", (6, 6, 4)), ("c", (6, 5)))]
    nodes = [
        gs.Node("Unsqueeze", inputs=[sound, axis], outputs=[held]),
        gs.Node("Conv", attrs={"strides": [5]}, inputs=[held, weights[0]], outputs=[first]),
        gs.Node("Conv", attrs={"strides": [4]}, inputs=[first, weights[1]], outputs=[second]),
        gs.Node("MatMul", inputs=[second, weights[2]], outputs=[out]),
    ]
    fed = feeds.tiny_feeds(Model(gs.Graph(nodes=nodes, inputs=[sound], outputs=[out], opset=17)), 2, 3)
    assert fed["input_values"].shape == (2, 65)


def test_lists_of_numbers_are_a_batch_and_what_is_none_is_said():
    ids = gs.Variable("input_ids", np.int64, ["batch", "length"])
    known = feeds.inputs(Model(gs.Graph(inputs=[ids])))
    assert feeds.fill(known, {"input_ids": [[3, 4, 5]]})["input_ids"].shape == (1, 3)
    with pytest.raises(BadData, match="no array can be made of it"):
        feeds.fill(known, {"input_ids": [[3, 4, 5], [3]]})
    with pytest.raises(BadData, match=r"a str, where a mapping .* batches are a list of those"):
        feeds.fill(known, "input_ids")
