"""Decides which constants are weights, what the module calls them, and which are tied.

A float constant is a **weight** (an nn.Parameter), unless it is one of these, which become buffers or literals:

1. a single number, except where it is the gain or bias of an operator by role, or where it has a parameter's name and
   the graph takes its exponential, sigmoid or tanh (CLIP's logit_scale, gates);
2. a mask: it holds infinities, or numbers as large as 10,000 beside one or two others, and is no operand of a product;
3. handed over as numbers (scales of Resize) or as running statistics (BatchNormalization);
4. a table over positions: it only meets values computed from integer inputs, shapes and other tables (rotary
   frequencies times positions), or multiplies distances that are added to scores (ALiBi). Rows picked by Gather or
   one-hot are embeddings, and what is multiplied and summed over is a matrix, whatever the other side is: weights;
5. one of a cosine and a sine table (tables.py): two matrices whose squares add up to one constant everywhere, and whose
   angles turn; or the two side by side;
6. a mean or deviation of image channels: at most four numbers applied to a graph input of rank 4.

What meets rule 4 without being angles or slopes, and what rule 1 leaves out under a parameter's name where it scales or
shifts a signal, is named in ``WeightMap.left``: a run says so.

A weight of integers (operators/quantised.py) is a buffer; the scales that multiply it are weights.

Exporters write a tied weight twice when one use is transposed: matrices with the same bytes, or the same bytes
transposed, are one parameter, and both initializers are written back from it. A block that was put in again holds its
twin's bytes at first and is none of its ties: copies are told by their names.
"""

from __future__ import annotations

import keyword
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_graphsurgeon as gs
import torch

from graphclone.errors import UnsupportedGraph
from graphclone.graph import Model
from graphclone.pages import release
from graphclone.pytorch.contractions import multiplied
from graphclone.pytorch.operators import Lookup
from graphclone.pytorch.tables import by_value
from graphclone.pytorch.usage import LEARNT, Usage, uses
from graphclone.recipes import PIECE

FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64), np.dtype(ml_dtypes.bfloat16))
Array = np.ndarray[Any, np.dtype[Any]]
SHOWN = 5
MOVED = "onnx::"
LEARNT_OF = frozenset(op.lower() for op in LEARNT)
PRECISION = r"(_(b?float16|bf16|fp16))"  # what a tool that narrows weights puts behind their names
COPY = re.compile(rf"(?P<copy>(_again\d+)+){PRECISION}?$")  # what surgery puts behind the names of a block put in again


@dataclass(frozen=True)
class Weight:
    """One parameter. role: matrix, gain (a vector that multiplies) or bias (a vector that is added).

    ``shape``: a number without axes that is learnt gets one, for without any it cannot be shared among processes.

    ``initializers``: (name in the graph, whether the graph holds it transposed); the first gives the parameter's shape.
    ``computed``: the type that the graph casts it to before anything else, where it keeps it in half precision.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    initializers: tuple[tuple[str, bool], ...]
    computed: torch.dtype | None = None


@dataclass(frozen=True)
class WeightMap:
    """Parameters of the module <-> initializers of the graph, in the order of their first use.

    ``left``: initializers that may have been trained once and that nothing in the graph shows to be weights.
    """

    weights: tuple[Weight, ...]
    left: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Weight]:
        return iter(self.weights)

    def parameter_of(self) -> dict[str, tuple[Weight, bool]]:
        """initializer -> its parameter, and whether it is the transposed one."""
        return {name: (weight, turned) for weight in self.weights for name, turned in weight.initializers}

    def notes(self) -> list[str]:
        """What a user has to know of the weights, in lines."""
        if not self.left:
            return []
        more = f" and {len(self.left) - SHOWN} more" if len(self.left) > SHOWN else ""
        why = "nothing in the graph tells them from fixed numbers, so they stay as they are"
        return [f"not trained: {', '.join(self.left[:SHOWN])}{more} ({why})"]


def to_tensor(array: Array, where: str, turned: bool = False) -> torch.Tensor:
    """A tensor with its own memory, transposed where asked; bfloat16 stays bfloat16.

    Read in pieces, after each of which no page of a mapped file is held: the tensor is all that stays in memory.
    """
    shape = array.shape[::-1] if turned else array.shape
    copied = np.empty(shape, array.dtype)
    into = copied.T if turned else copied
    step = max(1, PIECE * len(array) // max(array.nbytes, 1)) if array.ndim else 1
    for start in range(0, len(array) if array.ndim else 0, step):
        into[start : start + step] = array[start : start + step]
        release(array[start : start + step])
    if not array.ndim:
        into[...] = array
    if copied.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(copied.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(copied)
    except TypeError:
        raise UnsupportedGraph(f"{where}: element type {copied.dtype} is not one PyTorch computes with") from None


def to_array(tensor: torch.Tensor) -> Array:
    """The inverse of to_tensor."""
    held = tensor.detach().cpu().contiguous()
    return held.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if held.dtype == torch.bfloat16 else held.numpy()


def weight_map(model: Model) -> WeightMap:
    """Decide what is a weight and name it; the same model always gives the same map."""
    lookup = Lookup.of(model)
    constants = {t.name: t for t in model.graph.tensors().values() if isinstance(t, gs.Constant)}
    candidates = {name: t for name, t in constants.items() if t.values.dtype in FLOATS and t.values.size}
    tables = by_value({name: t.values for name, t in candidates.items()}, multiplied(model.graph))
    candidates = {name: t for name, t in candidates.items() if name not in tables}
    singles = {name for name, t in candidates.items() if t.values.size == 1 and _may_be_learnt(name)}
    found = uses(model.graph, lookup, candidates, singles)
    kept = [name for name, usage in found.weights.items() if usage.role is not None]
    left = found.unclear + tuple(name for name in found.numbers if not _is_computed(name))
    return WeightMap(tuple(_named(_tied(kept, constants), constants, found.weights)), left)


def _may_be_learnt(name: str) -> bool:
    """Whether a name can be a parameter's: a dotted path, or an exporter's placeholder for a parameter that it moved.

    Constants written in model code are named after their node.
    """
    return name.startswith(MOVED) or (PARAMETER.match(name) is not None and ANONYMOUS.match(name) is None)


def _is_computed(name: str) -> bool:
    """The name is that of the PyTorch operator whose result an exporter wrote down, as ``sqrt_1``; or it is none."""
    operator = re.sub(r"(_default)?(_\d+)?$", "", name)
    return name.startswith((MOVED, "graphclone_")) or (
        operator.lower() not in LEARNT_OF and hasattr(torch.ops.aten, operator)
    )


def _tied(names: list[str], constants: dict[str, gs.Constant]) -> list[list[tuple[str, bool]]]:
    """Groups of initializers that hold one matrix."""
    return [own for group in _equal(names, constants) for own in _by_copy(group)]


def _by_copy(group: list[tuple[str, bool]]) -> list[list[tuple[str, bool]]]:
    """A copy of a block is trained apart from the block, so its weights are tied among themselves alone."""
    found: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for name, turned in group:
        copy = COPY.search(name)
        found[copy["copy"] if copy else ""].append((name, turned))
    return [[(name, turned != own[0][1]) for name, turned in own] for own in found.values()]


def _equal(names: list[str], constants: dict[str, gs.Constant]) -> list[list[tuple[str, bool]]]:
    """Initializers of the same bytes, the ones transposed to the first of them said to be."""
    groups: list[list[tuple[str, bool]]] = []
    by_content: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for name in names:
        values = constants[name].values
        if values.ndim != 2 or values.size < 64 or values.flat[0] == values.flat[-1] == values.flat[values.size // 2]:
            groups.append([(name, False)])
            continue
        corner = np.ascontiguousarray(values[:4, :4]), np.ascontiguousarray(values[:4, :4].T)
        key = (values.dtype, tuple(sorted(values.shape)), *sorted(c.tobytes() for c in corner))
        for group in by_content[key]:
            first = constants[groups[group][0][0]].values
            turned = next((t for t in (False, True) if _same_bytes(first, values.T if t else values)), None)
            if turned is not None:
                groups[group].append((name, turned))
                break
        else:
            by_content[key].append(len(groups))
            groups.append([(name, False)])
    return groups


def _same_bytes(a: Array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    width = np.dtype(f"u{a.dtype.itemsize}")
    same = bool(np.array_equal(np.asarray(a).view(width), np.ascontiguousarray(b).view(width)))
    release(a)
    release(b)
    return same


ANONYMOUS = re.compile(
    rf"^(onnx::.*|_?val_?\d*(_scale)?|_?\d+|initializer_\d+|constant_\d+|.*_output_\d+){PRECISION}?$"
)


PARAMETER = re.compile(r"^[A-Za-z_]\w*(\.\w+)*$")


def _named(
    groups: list[list[tuple[str, bool]]], constants: dict[str, gs.Constant], usage: dict[str, Usage]
) -> Iterator[Weight]:
    leaves: set[str] = set()
    modules: set[str] = set()
    for group in groups:
        spoken = next((name for name, _ in group if not ANONYMOUS.match(name)), None)
        group = _led_by(spoken, group)
        first = group[0][0]
        path = _path(spoken if spoken is not None else _from_node(first, usage[first]))
        prefixes = {".".join(path[:i]) for i in range(1, len(path))}
        if prefixes & leaves or ".".join(path) in modules:
            path, prefixes = ["_".join(path)], set()
        name = ".".join(path)
        while name in leaves or name in modules:
            name += "_"
        leaves.add(name)
        modules |= prefixes
        values = constants[first].values
        role, dtype = usage[first].role or "matrix", to_tensor(values.reshape(-1)[:1], first).dtype
        yield Weight(name, role, tuple(values.shape) or ((1,) if usage[first].learnt else ()), dtype, tuple(group))


def _led_by(name: str | None, group: list[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """The initializer that gives the parameter its name gives it its shape too."""
    if name is None:
        return group
    turned = dict(group)[name]
    return sorted(((n, t != turned) for n, t in group), key=lambda held: held[0] != name)


def _from_node(initializer: str, usage: Usage) -> str:
    """TorchScript folds a transposed weight into a nameless one, but the node's name still tells the module."""
    parts = [p for p in usage.node.split("/") if p]
    return ".".join([*parts[:-1], "weight"]) if usage.node.startswith("/") and len(parts) > 1 else initializer


_PLAIN = torch.nn.Module()


def _path(name: str) -> list[str]:
    """Attribute names: what nn.Module has already, and Python's keywords, get an underscore."""
    parts = [re.sub(r"\W", "_", part) for part in re.split(r"[./]+|::", name) if part]
    return [p + "_" if hasattr(_PLAIN, p) or keyword.iskeyword(p) else p for p in parts] or ["weight"]
