"""Every row of the table of flows against the operator itself: shapes, and which neurons reach which positions."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest

from graphclone import graph
from graphclone.anatomy.flows import TABLE
from graphclone.anatomy.ids import ALWAYS
from graphclone.anatomy.tracing import run
from tests.anatomy.flow_cases import attention, elementwise, linear, movement, norms, quantised

CASES = [*elementwise.CASES, *linear.CASES, *movement.CASES, *norms.CASES, *attention.CASES, *quantised.CASES]
OPSETS = [onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("com.microsoft", 1)]
ONLY_RUNTIME = ("SimplifiedLayerNormalization", "ConvTranspose", "Resize")  # no whole reference in onnx


def proto(case, constants=None):
    """The case as a model; constants may be replaced by others of the same shape."""
    held = dict(case.constants) | (constants or {})
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), [None] * a.ndim)
        for n, a in case.feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=n) for n in case.nodes[-1].output if n]
    weights = [onnx.numpy_helper.from_array(a, n) for n, a in held.items()]
    made = onnx.helper.make_graph(case.nodes, "case", inputs, outputs, weights)
    return onnx.helper.make_model(made, opset_imports=OPSETS, ir_version=10)  # noqa: TID251  made without graphclone


def computed(case, constants=None):
    """All outputs, by onnx's reference operators or by ONNX Runtime where the operator is its own."""
    model = proto(case, constants)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if case.nodes[-1].domain or case.nodes[-1].op_type in ONLY_RUNTIME:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
            return session.run(None, dict(case.feeds))
        return onnx.reference.ReferenceEvaluator(model).run(None, dict(case.feeds))


class Traced:
    """A case, traced: which neurons each position of the first output carries."""

    def __init__(self, case):
        self.trace = run(graph.from_proto(proto(case)), case.feeds, TABLE)
        self.values = [self.trace.values[name] for name in case.nodes[-1].output if name]
        self.pinned = {i for pin in self.trace.pins for i in self.leaves(pin.ids)}
        self.noted = [n for n in self.trace.notes if n.node.outputs[0].name in case.nodes[-1].output]

    def leaves(self, ids):
        return {int(i) for f in self.trace.ids.resolve([np.atleast_1d(ids)]) for i in f} - {ALWAYS}

    def source(self, tensor, axis):
        """For each position of a constant's axis its neurons; None where the axis was not labelled."""
        slot = next((s for s in self.trace.slots if (s.tensor, s.axis) == (tensor, axis)), None)
        return None if slot is None else [self.leaves(slot.start + k) for k in range(slot.size)]

    def carried(self):
        """An array of sets, in the shape of the first output."""
        value = self.values[0]
        held = np.asarray(np.frompyfunc(lambda _: set(), 1, 1)(np.zeros(value.shape)), object)
        for axis, factors in enumerate(value.factors):
            for factor in self.trace.ids.resolve(factors):
                for place in np.ndindex(*value.shape):
                    held[place] = held[place] | ({int(factor[place[axis]])} - {ALWAYS})
        return held


def changes(case, before, tensor, axis, position):
    """Which elements of the first output depend on one position of a constant's axis."""
    values = case.constants[tensor].copy()
    where = (slice(None),) * axis + (position,)
    if case.perturbed is not None:
        values[where] = case.perturbed
    else:
        values[where] = -3 * values[where] - 0.37 if values.dtype.kind == "f" else ~values[where]
    after = computed(case, {tensor: values})[0]
    return ~((after == before) | ((after != after) & (before != before)))


def test_every_row_of_the_table_has_a_case():
    assert TABLE.keys() - {c.row for c in CASES} == set()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_shapes_are_the_operators(case):
    traced = Traced(case)
    assert [v.shape for v in traced.values] == [np.shape(a) for a in computed(case)]
    for value in traced.values:
        for size, factors in zip(value.shape, value.factors, strict=True):
            assert all(f.shape == (size,) for f in factors)


def everywhere(carried, holds):
    return np.asarray(np.frompyfunc(holds, 1, 1)(carried)).astype(bool)


def special(case, tensor, axis):
    return case.special.get((tensor, axis), "flows")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.label)
def test_neurons_are_where_the_data_goes(case):
    traced, before = Traced(case), computed(case)[0]
    carried = traced.carried()
    for tensor, values in case.constants.items():
        for axis in range(values.ndim):
            neurons = traced.source(tensor, axis)
            if neurons is None:
                continue
            kind = special(case, tensor, axis)
            if kind == "setting":
                assert set().union(*neurons) <= traced.pinned
                continue
            touched = False
            for position, own in enumerate(neurons):
                changed = changes(case, before, tensor, axis, position)
                touched |= bool(changed.any())
                CHECKS[kind](traced, own, changed, carried, f"{tensor}[{axis}] at {position}")
            vain = not touched and case.row[1] not in ("Shape", "Size")
            assert not vain, f"{tensor}[{axis}] changes nothing: a vain case"


def _flows(traced, own, changed, carried, where):
    assert own, f"{where} is of no neuron"
    assert not own & traced.pinned, f"{where} is pinned"
    holds = everywhere(carried, own.issubset)
    assert np.array_equal(holds, changed), (
        f"{where}: carried at {np.argwhere(holds)}, changed at {np.argwhere(changed)}"
    )


def _some(traced, own, changed, carried, where):
    assert own, f"{where} is of no neuron"
    assert not own & traced.pinned, f"{where} is pinned"
    holds = everywhere(carried, own.issubset)
    assert not (changed & ~holds).any(), f"{where}: changes {np.argwhere(changed & ~holds)}, which do not carry it"


def _pinned(traced, own, changed, carried, where):
    assert not changed.any() or own <= traced.pinned, f"{where} may be cut, though {np.argwhere(changed)} depend on it"


def _noted(traced, own, changed, carried, where):
    """A product or an attention notes whole values, the rest an axis of its first input."""
    met = set()
    for note in traced.noted:
        whole = note.kind in ("product", "attention", "lookup")
        axes = [a for v in note.inputs for a in v.factors] if whole else [note.inputs[0].axis(note.axis)]
        met |= {leaf for factors in axes for f in factors for leaf in traced.leaves(f)}
    assert own & met, f"{where} ends in no product, reduction or norm that was noted"


def _shared(traced, own, changed, carried, where):
    assert not own & traced.pinned, f"{where} is pinned"
    holds = everywhere(carried, lambda s: not own.isdisjoint(s))
    assert not (changed & ~holds).any(), f"{where}: changes {np.argwhere(changed & ~holds)}, which share none of it"


CHECKS = {"flows": _flows, "some": _some, "pinned": _pinned, "noted": _noted, "shared": _shared}
BILINEAR = ("MatMul", "FusedMatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "MatMulInteger")
PRODUCTS = [c for c in CASES if c.row[1] in BILINEAR and "noted" in c.special.values()]


@pytest.mark.parametrize("case", PRODUCTS, ids=lambda c: c.label)
def test_what_is_multiplied_together_is_one_neuron(case):
    """Two positions meet in a product exactly if perturbing both is more than perturbing each."""
    (one, i), (other, j) = (place for place, kind in case.special.items() if kind == "noted")
    traced = Traced(case)
    first, second = traced.source(one, i), traced.source(other, j)

    def moved(tensor, axis, position):
        values = case.constants[tensor].copy()
        values[(slice(None),) * axis + (position,)] += 1
        return {tensor: values}

    base = computed(case)[0]
    for p, q in itertools.product(range(len(first)), range(len(second))):
        a, b = moved(one, i, p), moved(other, j, q)
        mixed = computed(case, a | b)[0] - computed(case, a)[0] - computed(case, b)[0] + base
        assert (np.abs(mixed).max() > 0.1) == (first[p] == second[q]), (p, q)
