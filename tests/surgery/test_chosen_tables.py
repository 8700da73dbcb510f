"""LongRoPE as onnxruntime-genai writes it: an If on the length chooses tables of cosines, which differ in length."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from graphclone import graph, pipeline
from graphclone.errors import UnsupportedGraph
from tests.hand_made import HEADS, HIDDEN, transformer, verified
from tests.tiny_models import make

WIDE = 16  # ONNX Runtime rotates in GroupQueryAttention by 16 dimensions at least
TABLES = ("cosines", "sines")
SHORT, LONG = 8, 64
INT32 = onnx.TensorProto.INT32


def branch(kind: str, length: int, computed: bool) -> onnx.GraphProto:
    """Tables held as constants, or computed in the branch."""
    angles = np.arange(length)[:, None] * 0.3 ** np.arange(WIDE // 2)
    nodes = []
    for name, table in zip(TABLES, (np.cos(angles), np.sin(angles)), strict=True):
        held = onnx.numpy_helper.from_array(table.astype(np.float32))
        nodes.append(make("Constant", [], [f"{name}.{kind}" + ".held" * computed], value=held))
        if computed:
            nodes.append(make("Neg", [f"{name}.{kind}.held"], [f"{name}.{kind}"]))
    return onnx.helper.make_graph(nodes, kind, [], [onnx.ValueInfoProto(name=f"{name}.{kind}") for name in TABLES])


def rotating(computed):
    def attention(made, x, stem):
        q, k, v = (made.linear(x, f"{stem}.{part}", HIDDEN, HEADS * WIDE) for part in "qkv")
        if "total" not in {name for node in made.nodes for name in node.output}:
            batch, length = (made.op("Gather", made.op("Shape", "input_ids"), made.constant(k)) for k in ([0], 1))
            bodies = {f"{k}_branch": branch(k, n, computed) for k, n in (("then", LONG), ("else", SHORT))}
            far = made.op("Greater", length, made.constant(SHORT))
            made.nodes.append(make("If", [far], list(TABLES), name="tables", **bodies))
            total = made.op("Cast", length, out="total", to=INT32)
            made.op("Expand", made.op("Sub", total, made.constant(1, np.int32)), batch, out="lasts")
        given = [q, k, v, "", "", "lasts", "total", *TABLES]
        heads = {"num_heads": HEADS, "kv_num_heads": HEADS, "do_rotary": 1}
        context = made.op("GroupQueryAttention", *given, domain="com.microsoft", **heads)
        return made.linear(context, f"{stem}.o", HEADS * WIDE, HIDDEN)

    return transformer(attention)


@pytest.mark.parametrize("computed", [False, True], ids=["held", "computed"])
def test_tables_of_either_branch_are_rotated_by(computed):
    """Verification runs lengths of 3, 7 and 13: both branches."""
    verified(rotating(computed), ffn=12, heads=2)
    verified(rotating(computed), hidden=8)


def test_pairs_stay_whole():
    anatomy = pipeline.inspect(graph.from_proto(rotating(computed=False)))
    pinned = [g.pinned for g in anatomy.groups.values() if g.kind == "qk_dim"]
    assert pinned
    assert all("GroupQueryAttention" in reason for reason in pinned)


def test_a_branch_that_cannot_be_inferred_is_refused():
    proto = rotating(computed=False)
    body = next(n for n in proto.graph.node if n.op_type == "If").attribute[0].g
    body.node[0].op_type, body.node[0].domain = "Unheard", "of"
    with pytest.raises(UnsupportedGraph, match="the output shapes of the branch"):
        pipeline.inspect(graph.from_proto(proto))
