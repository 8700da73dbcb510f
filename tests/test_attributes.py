"""Empty lists among attributes keep their kind on the way through onnx-graphsurgeon."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from graphclone.attributes import exported, put_back, without_empty


def loop(attributes: dict[str, object], op: str = "Optional", name: str = "y") -> gs.Graph:
    return gs.Graph(nodes=[gs.Node(op, attrs=dict(attributes), outputs=[gs.Variable(""), gs.Variable(name)])])


def test_an_empty_list_has_the_kind_that_the_operator_declares():
    made = exported(gs.Node("Constant", attrs={"value_floats": [], "other": [], "value_int": 3}))
    kinds = {attribute.name: attribute.type for attribute in made}
    proto = onnx.AttributeProto
    assert kinds == {"value_int": proto.INT, "value_floats": proto.FLOATS, "other": proto.INTS}


def test_empty_lists_of_an_operator_that_is_not_onnxs_are_of_whole_numbers():
    (attribute,) = exported(gs.Node("Own", domain="somebody", attrs={"values": []}))
    assert (attribute.type, list(attribute.ints)) == (onnx.AttributeProto.INTS, [])


def test_they_are_away_meanwhile_and_back_in_their_order():
    graph = loop({"axes": [], "keepdims": 1, "more": []})
    attributes = graph.nodes[0].attrs
    with without_empty([graph]) as found:
        assert attributes == {"keepdims": 1}
        assert {name: [a.name for a in held] for name, held in found.items()} == {"y": ["axes", "more"]}
    assert list(attributes) == ["axes", "keepdims", "more"]


def test_they_are_back_in_the_file_and_in_its_bodies():
    def proto(*nodes):
        return onnx.helper.make_graph(list(nodes), "g", [], [])

    inner = onnx.helper.make_node("Own", [], ["", "inner"])
    outer = onnx.helper.make_node("If", ["c"], ["outer"], then_branch=proto(inner))
    written = proto(outer)
    empty = {"inner": exported(gs.Node("Own", attrs={"values": []}))}
    put_back(written, empty)
    (attribute,) = written.node[0].attribute[0].g.node[0].attribute
    assert (attribute.name, attribute.type) == ("values", onnx.AttributeProto.INTS)
    assert [a.name for a in written.node[0].attribute] == ["then_branch"]
