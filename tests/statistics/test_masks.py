"""Which positions count: found by the graph's inputs and the layouts of its values, or by name."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from graphclone import feeds
from graphclone.anatomy.parts import Anatomy, Site
from graphclone.errors import InvalidTarget
from graphclone.graph import Model
from graphclone.statistics import masks, run
from graphclone.statistics.masks import Layout, Tiny

VOCAB, WIDTH = 50, 4


def two_sides(*, decoder_mask: bool = True, one_length: bool = False) -> tuple[Model, Anatomy, np.ndarray]:
    """An encoder that looks ids up; a decoder that looks its own up and adds what the encoder's average says."""
    table = np.random.default_rng(0).standard_normal((VOCAB, WIDTH)).astype(np.float32)
    source, target = "source", "source" if one_length else "target"
    ids = gs.Variable("input_ids", np.int64, ["batch", source])
    mask = gs.Variable("attention_mask", np.int64, ["batch", source])
    written = gs.Variable("decoder_input_ids", np.int64, ["batch", target])
    seen = gs.Variable("decoder_attention_mask", np.int64, ["batch", target])
    tensors = {n: gs.Variable(n, np.float32) for n in ("encoded", "average", "looked", "flat", "back")}
    decoded = gs.Variable("decoded", np.float32, ["batch", target, WIDTH])
    held = gs.Constant("table", table)
    nodes = [
        gs.Node("Gather", "encode", {}, [held, ids], [tensors["encoded"]]),
        gs.Node("ReduceMean", "mean", {"axes": [1], "keepdims": 1}, [tensors["encoded"]], [tensors["average"]]),
        gs.Node("Gather", "decode", {}, [held, written], [tensors["looked"]]),
        gs.Node("Add", "cross", {}, [tensors["looked"], tensors["average"]], [decoded]),
        gs.Node("Reshape", "fold", {}, [decoded, gs.Constant("s", np.array([-1, WIDTH]))], [tensors["flat"]]),
        gs.Node("Transpose", "turn", {"perm": [1, 0, 2]}, [decoded], [tensors["back"]]),
    ]
    outputs = [decoded, tensors["encoded"], tensors["flat"], tensors["back"]]
    for tensor in [mask, *([seen] if decoder_mask else [])]:
        cast = gs.Variable(f"{tensor.name}_cast", np.float32)
        nodes.append(gs.Node("Cast", cast.name, {"to": 1}, [tensor], [cast]))
        outputs.append(cast)
    inputs = [ids, mask, written, *([seen] if decoder_mask else [])]
    model = Model(gs.Graph(nodes, inputs, outputs, opset=13, ir_version=8))
    along = {"residual": np.arange(WIDTH)}
    sites = tuple(Site(n, "writer", n, -1, WIDTH, None, along) for n in ("encoded", "decoded", "flat", "back"))
    return model, Anatomy(model.sha256, (), {}, sites, (), {}), table


def batch_of(decoder_mask: bool = True, target: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    made = {
        "input_ids": rng.integers(0, VOCAB, (2, 7)),
        "attention_mask": np.array([[1] * 7, [1] * 3 + [0] * 4]),
        "decoder_input_ids": rng.integers(0, VOCAB, (2, target)),
    }
    if decoder_mask:
        made["decoder_attention_mask"] = np.array([[1] * 2 + [0] * (target - 2), [1] * target])
    return made


@pytest.mark.parametrize("one_length", [False, True])
@pytest.mark.parametrize("decoder_mask", [True, False])
def test_each_side_of_an_encoder_decoder_has_its_own_mask(decoder_mask, one_length):
    model, anatomy, table = two_sides(decoder_mask=decoder_mask, one_length=one_length)
    batch = batch_of(decoder_mask, 7 if one_length else 5)
    found = run.measure(model, anatomy, [batch], provider="cpu").sites
    encoded = table[batch["input_ids"]].astype(np.float64)
    decoded = table[batch["decoder_input_ids"]] + encoded.mean(1, keepdims=True)
    everywhere = np.ones(batch["decoder_input_ids"].shape, bool)
    kept = batch["decoder_attention_mask"].astype(bool) if decoder_mask else everywhere
    expected = {"encoded": encoded[batch["attention_mask"].astype(bool)], **dict.fromkeys(("decoded", "flat", "back"))}
    for site, rows in expected.items():
        rows = decoded[kept] if rows is None else rows
        assert found[site]["count"] == len(rows), site
        np.testing.assert_allclose(found[site]["abs"], np.abs(rows).sum(0), rtol=1e-5, err_msg=site)


def test_a_mask_by_name_counts_where_it_fits():
    model, anatomy, table = two_sides()
    batch = batch_of()
    found = run.measure(model, anatomy, [batch], provider="cpu", mask="decoder_attention_mask").sites
    assert found["decoded"]["count"] == batch["decoder_attention_mask"].sum()
    assert found["encoded"]["count"] == batch["input_ids"].size
    np.testing.assert_allclose(found["encoded"]["abs"], np.abs(table[batch["input_ids"]]).sum((0, 1)), rtol=1e-5)
    with pytest.raises(InvalidTarget, match=r"mask 'input_ids' is no mask input of two axes; the graph has input_ids"):
        run.measure(model, anatomy, [batch], provider="cpu", mask="input_ids")
    with pytest.raises(InvalidTarget, match="mask 'padding'"):
        run.measure(model, anatomy, [batch], provider="cpu", mask="padding")


def packed() -> tuple[Model, Anatomy]:
    """A graph that drops its padding before it does anything: what is left are rows, all of which count."""
    ids, mask = (gs.Variable(n, np.int64, ["batch", "length"]) for n in ("input_ids", "attention_mask"))
    table = gs.Constant("table", np.random.default_rng(0).standard_normal((VOCAB, WIDTH)).astype(np.float32))
    v = {n: gs.Variable(n, np.int64) for n in ("places", "turned", "left")}
    rows = gs.Variable("rows", np.float32, ["tokens", WIDTH])
    nodes = [
        gs.Node("NonZero", "where", {}, [mask], [v["places"]]),
        gs.Node("Transpose", "turn", {"perm": [1, 0]}, [v["places"]], [v["turned"]]),
        gs.Node("GatherND", "pick", {}, [ids, v["turned"]], [v["left"]]),
        gs.Node("Gather", "look", {}, [table, v["left"]], [rows]),
    ]
    model = Model(gs.Graph(nodes, [ids, mask], [rows], opset=13, ir_version=8))
    site = Site("rows", "writer", "rows", -1, WIDTH, None, {"residual": np.arange(WIDTH)})
    return model, Anatomy(model.sha256, (), {}, (site,), (), {})


def test_packed_sequences_count_row_by_row():
    model, anatomy = packed()
    batch = {k: v for k, v in batch_of().items() if not k.startswith("decoder")}
    found = run.measure(model, anatomy, [batch], provider="cpu").sites["rows"]
    assert found["count"] == batch["attention_mask"].sum()


def tiny_of(**shapes) -> Tiny:
    """A graph's inputs by name, with the sizes of a tiny run: symbols that are equal have equal sizes."""
    sizes = {"b": 3, "s": 13, "t": 17}
    variables = [
        gs.Variable(name, np.float32 if "values" in name else np.int64, list(shape)) for name, shape in shapes.items()
    ]
    known = feeds.inputs(Model(gs.Graph(inputs=variables)))
    fed = {name: np.zeros([sizes.get(d, d) for d in shape]) for name, shape in shapes.items()}
    return Tiny(known, fed)


PAIRS = {
    "one sequence": ({"input_ids": "bs", "attention_mask": "bs"}, {"input_ids": "attention_mask"}),
    "no mask": ({"pixel_values": ("b", 3, 32, 32)}, {}),
    "one mask of several is for attention": (
        {"input_ids": "bs", "attention_mask": "bs", "special_tokens_mask": "bs"},
        {"input_ids": "attention_mask"},
    ),
    "masks that nobody can tell apart": ({"input_ids": "bs", "mask_a": "bs", "mask_b": "bs"}, {}),
    "both sides": (
        {"input_ids": "bs", "attention_mask": "bs", "decoder_input_ids": "bt", "decoder_attention_mask": "bt"},
        {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"},
    ),
    "a decoder without": (
        {"input_ids": "bs", "attention_mask": "bs", "decoder_input_ids": "bs"},
        {"input_ids": "attention_mask"},
    ),
    "two towers": (
        {"input_ids": "bs", "attention_mask": "bs", "pixel_values": ("b", 3, 32, 32)},
        {"input_ids": "attention_mask"},
    ),
}


@pytest.mark.parametrize("case", PAIRS)
def test_masks_belong_to_inputs(case):
    shapes, expected = PAIRS[case]
    assert masks.pairs(tiny_of(**shapes)) == expected


LAYOUTS = {  # shape and axis of the neurons, under a mask of 3 x 13 -> layout
    ((3, 13, 8), -1): Layout(3, "m"),
    ((3, 13, 5, 8), -1): Layout(4, "m"),
    ((13, 3, 8), -1): Layout(3, "m", turned=True),
    ((39, 8), -1): Layout(3, "m", flat=True),
    ((39, 5, 8), -1): Layout(4, "m", flat=True),
    ((37, 8), -1): Layout(2),
    ((3, 14, 8), -1): Layout(3),
    ((3, 8, 13), -2): Layout(3),
    ((3, 8), -1): Layout(2),
}


@pytest.mark.parametrize(("shape", "axis"), LAYOUTS)
def test_layouts_are_told_by_sizes(shape, axis):
    assert masks.layout(shape, axis, (3, 13), "m") == LAYOUTS[shape, axis]
    assert masks.layout(shape, axis, None, None) == Layout(len(shape))
