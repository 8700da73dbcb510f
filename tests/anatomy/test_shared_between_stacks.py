"""Two stacks that share matrices in their feed-forwards, each in another block: exporters merge equal weights."""

from __future__ import annotations

from graphclone import graph, pipeline
from graphclone.planner import Target
from tests.hand_made import CONTRIB, FFN, HIDDEN, LAYERS, VOCAB, Maker, attention, norm
from tests.tiny_models import assemble, info


def shared(made, x, stem, layer):
    inner = made.op("Relu", made.linear(x, f"{stem}.up", HIDDEN, FFN))
    inner = made.op("Relu", made.linear(inner, f"{layer}.inner", FFN, FFN))
    return made.linear(inner, f"{stem}.down", FFN, HIDDEN)


def two_stacks():
    made, outputs = Maker(), []
    for stack in "ab":
        x = made.op("Gather", made.weight(f"{stack}.words", VOCAB, HIDDEN, scale=1.0), "input_ids")
        for layer in range(LAYERS):
            stem = f"{stack}.{layer}"
            x = made.op("Add", x, attention(made, norm(made, x, f"{stem}.first"), f"{stem}.attention"))
            x = made.op(
                "Add", x, shared(made, norm(made, x, f"{stem}.second"), stem, (layer + (stack == "b")) % LAYERS)
            )
        made.op("MatMul", norm(made, x, f"{stack}.last"), made.weight(f"{stack}.head", HIDDEN, VOCAB), out=stack)
        outputs.append(info(stack, shape=("batch", "length", VOCAB)))
    inputs = [info("input_ids", 7, ("batch", "length"))]
    return graph.from_proto(assemble(made.nodes, made.held, inputs=inputs, outputs=outputs, opsets=[CONTRIB]))


def test_parts_name_their_groups_as_they_are_called():
    model = two_stacks()
    anatomy = pipeline.inspect(model)
    parts = [part for stack in anatomy.stacks for block in stack.blocks for part in block.feed_forward]
    assert len(anatomy.stacks) == 2
    assert {part.group for part in parts} <= anatomy.groups.keys()
    plan = pipeline.plan(anatomy, None, Target(ffn=FFN // 2), importance="first", method="none")
    clone = pipeline.clone(model, plan, anatomy=anatomy)
    pipeline.verify(model, clone, plan).raise_if_failed()
