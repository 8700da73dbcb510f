"""Compares segments by structure: by the expression that makes the exit from the entry, without names and sizes.

Optimisers rewrite one block and leave the next, so what they write counts as what it was: reshapes are nothing, a Gemm
is its product and its sum, and a sum is its terms, wherever a bias is added, in a norm that takes the sum in, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import onnx_graphsurgeon as gs

from graphclone.anatomy.segments import PRODUCTS

Terms = tuple[int, ...]  # hashes of what is summed; of anything else its one hash

RESHAPES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
SUMS = ("Add", "Sum")
COMMUTATIVE = ("Mul",)
NORMS_OF_SUMS = {"SkipLayerNormalization": 4, "SkipSimplifiedLayerNormalization": 3}  # where a bias is added before
NONE = "none"
TURNS = (  # what rotates a head, shifts a window, and masks
    "Add And Cast Concat ConstantOfShape Cos Div Equal Expand Flatten Gather Identity Mul Neg Range Reshape "
    "RotaryEmbedding ScatterND Shape Sin Slice Split Squeeze Sub Transpose Unsqueeze Where"
).split()


def expression(entry: str, exit_: str, nodes: Sequence[gs.Node], kind: Callable[[gs.Node, int], str]) -> int:
    """Hash of what makes ``exit_`` from ``entry``; ``kind`` says what an operand from outside is (NONE for nothing)."""
    known: dict[str, Terms] = {entry: (hash("entry"),)}
    for node in nodes:
        operands = [known[t.name] if t.name in known else (hash(kind(node, k)),) for k, t in enumerate(node.inputs)]
        for k, tensor in enumerate(node.outputs):
            known[tensor.name] = _result(node, k, operands)
    return _whole(known.get(exit_, ()))


def skeleton(nodes: Sequence[gs.Node], kind: Callable[[gs.Node, int], str]) -> int:
    """Hash of the operators of an attention, without those that rotate queries and keys or move tokens: one layer of a
    model does and the next does not. Products tell what they read from outside: self-attention is no cross-attention.
    """
    made = {t.name for n in nodes for t in n.outputs}
    kept = [n for n in nodes if n.op not in TURNS]
    outside = [tuple(kind(n, k) if t.name not in made else "" for k, t in enumerate(n.inputs)) for n in kept]
    operators = [
        ("MatMul" if n.op == "Gemm" else n.op, read[:2] if n.op in PRODUCTS else ())
        for n, read in zip(kept, outside, strict=True)
    ]
    return hash(tuple(sorted(operators)))


def _result(node: gs.Node, output: int, operands: list[Terms]) -> Terms:
    if node.op in RESHAPES:
        return operands[0]
    if node.op in SUMS:
        return _terms(operands)
    values = [_whole(terms) for terms in operands]
    if node.op == "Gemm":
        return (_hash("MatMul", values[:2]), *_terms(operands[2:]))
    if node.op in NORMS_OF_SUMS:
        bias = NORMS_OF_SUMS[node.op]
        summed = _terms([*operands[:2], *(o for o in operands[bias:] if o != (hash(NONE),))])
        values = [_whole(summed), *values[2:bias]]
    if node.op in COMMUTATIVE:
        values.sort()
    attributes = sorted((k, v) for k, v in node.attrs.items() if isinstance(v, str))
    return (_hash(node.op, values, node.domain or "", tuple(attributes), output),)


def _hash(
    op: str, values: Iterable[int], domain: str = "", attributes: tuple[object, ...] = (), output: int = 0
) -> int:
    return hash((domain, op, attributes, output, tuple(values)))


def _terms(operands: Iterable[Terms]) -> Terms:
    return tuple(term for terms in operands for term in terms)


def _whole(terms: Terms) -> int:
    return terms[0] if len(terms) == 1 else hash(tuple(sorted(terms)))
