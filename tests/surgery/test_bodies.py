"""Weights that the body of a branch reads by name: whole there, whatever becomes of them around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from graphclone import pipeline
from graphclone.anatomy import inspect
from graphclone.errors import InvalidTarget
from graphclone.planner import Target
from graphclone.surgery.cut import Cut
from graphclone.surgery.slice_weights import Correction, slice_weights
from tests.surgery.parents import session
from tests.surgery.tied import VOCAB, Decoder, assembled
from tests.tolerances import assert_close

LONG = 64  # tokens beyond which the body reads the weight; examiners ask for fewer
MAKE = onnx.helper.make_node


@dataclass
class Branching(Decoder):
    """The last norm's output times the sum of a weight, for inputs longer than ``long``; ``read``: which weight."""

    read: str = "final.gain"
    long: int = LONG

    def norm(self, x, name):
        made = super().norm(x, name)
        return self.branch(made) if name == "final" else made

    def branch(self, x):
        self.weights |= {"second": np.array(1), "long": np.array(self.long)}
        shape = self.add("Shape", ["input_ids"], "shape")
        self.add("Gather", [shape, "second"], "length")
        given = onnx.helper.make_tensor_value_info
        summed = MAKE("ReduceSum", [self.read], ["summed"], keepdims=0)
        one = MAKE("Constant", [], ["one_"], value=onnx.numpy_helper.from_array(np.float32(1)))
        bodies = {
            branch: onnx.helper.make_graph([made], branch, [], [given(made.output[0], onnx.TensorProto.FLOAT, [])])
            for branch, made in (("then_branch", summed), ("else_branch", one))
        }
        factor = self.add("If", [self.add("Greater", ["length", "long"], "is_long")], "factor", **bodies)
        return self.add("Mul", [x, factor], "final_times")


def answered(model):
    ids = np.random.default_rng(0).integers(0, VOCAB, (1, LONG + 1))
    return session(model).run(None, {"input_ids": ids})[0]


def heads_cut(read, long=LONG):
    model = assembled(Branching(read=read, long=long))
    anatomy = inspect(model)
    return model, Cut(anatomy.found, pipeline.plan(anatomy, None, Target(heads=1), importance="first", method="none"))


@pytest.mark.parametrize(("read", "target", "group"), [("final.gain", "hidden", "residual"), ("up1", "ffn", "ffn")])
def test_what_a_body_reads_is_not_cut_and_says_why(read, target, group):
    model = assembled(Branching(read=read))
    anatomy = inspect(model)
    pinned = [g.pinned for g in anatomy.groups.values() if group in g.name and g.pinned is not None]
    assert any("read inside the body of If node 'factor.node'" in reason for reason in pinned)
    with pytest.raises(InvalidTarget, match=f"read inside the body of If.*{read}"):
        pipeline.plan(anatomy, None, Target(**{target: "50%"}), importance="first", method="none")


def test_other_weights_are_cut_and_the_body_reads_what_it_did():
    (model, cut), (never, same) = heads_cut("final.gain"), heads_cut("final.gain", 2 * LONG)
    made = pipeline.clone(model, cut.plan)
    pipeline.verify(model, made, cut.plan).raise_if_failed()
    factor = model.constants()["final.gain"].sum()
    assert_close(answered(made), factor * answered(pipeline.clone(never, same.plan)))


def test_a_weight_that_is_corrected_is_another_than_the_one_in_the_body():
    made = []
    for model, cut in (heads_cut("down1"), heads_cut("down1", 2 * LONG)):
        made.append(model.detached())
        slices = slice_weights(made[-1], cut, {("narrow1", 1): Correction(2.0)})
        assert slices.claims["down1_"] == {"parent": "down1", "take": [None, None], "scale": 2.0}
    factor = model.constants()["down1"].sum()
    assert_close(*(a * b for a, b in zip(map(answered, made), (1, factor), strict=True)))
