"""Which constants are weights, what they are called in the module, and which are one.

A float constant is a **weight** (an nn.Parameter), unless it is one of these, which become buffers or literals:

1. a single number, except where it is the gain or bias of an operator by role;
2. a mask: it holds a value that is not finite or as large as 10,000;
3. handed over as numbers (scales of Resize) or as running statistics (BatchNormalization);
4. a table over positions: it only meets values computed from integer inputs, shapes and other tables (rotary
   frequencies times positions, ALiBi slopes times distances). Rows picked by Gather or one-hot are embeddings: weights;
5. one of a cosine and a sine table: two tables of one shape whose squares add up to one constant everywhere; or the two
   side by side;
6. a mean or deviation of image channels: at most four numbers applied to a graph input of rank 4.

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
from graphclone.pytorch.operators import Lookup
from graphclone.pytorch.usage import Usage, uses
from graphclone.recipes import PIECE

MASKED = 1e4
FLOATS = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64), np.dtype(ml_dtypes.bfloat16))
Array = np.ndarray[Any, np.dtype[Any]]
PRECISION = r"(_(b?float16|bf16|fp16))"  # what a tool that narrows weights puts behind their names
COPY = re.compile(rf"(?P<copy>(_again\d+)+){PRECISION}?$")  # what surgery puts behind the names of a block put in again


@dataclass(frozen=True)
class Weight:
    """One parameter. role: matrix, gain (a vector that multiplies) or bias (a vector that is added).

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
    """Parameters of the module <-> initializers of the graph, in the order of their first use."""

    weights: tuple[Weight, ...]

    def __iter__(self) -> Iterator[Weight]:
        return iter(self.weights)

    def parameter_of(self) -> dict[str, tuple[Weight, bool]]:
        """initializer -> its parameter, and whether it is the transposed one."""
        return {name: (weight, turned) for weight in self.weights for name, turned in weight.initializers}


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
    tables = {name for name, t in candidates.items() if _is_mask(t.values)}
    tables |= _angle_tables({name: t.values for name, t in candidates.items() if name not in tables})
    tables |= {name for name, t in candidates.items() if name not in tables and _is_circle(t.values)}
    usage = uses(model.graph, lookup, {name: t for name, t in candidates.items() if name not in tables})
    kept = [name for name in usage if usage[name].role is not None]
    return WeightMap(tuple(_named(_tied(kept, constants), constants, usage)))


def _is_mask(values: Array) -> bool:
    if values.dtype == ml_dtypes.bfloat16:
        values = values.astype(np.float32)
    small = values.min() > -MASKED and values.max() < MASKED  # a NaN makes both comparisons false
    release(values)
    return not small


def _angle_tables(arrays: dict[str, Array]) -> set[str]:
    """Pairs that are a cosine and a sine of the same angles."""
    by_shape: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for name in sorted(arrays):
        values = arrays[name]
        if values.ndim >= 2 and values.size > 4 and abs(float(values.flat[0])) <= 16:
            by_shape[(values.shape, values.dtype)].append(name)
    found: set[str] = set()
    for names in by_shape.values():
        heads = {name: arrays[name].reshape(-1)[:64].astype(np.float64) for name in names}
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                if _one_circle(heads[one], heads[other]) and _one_circle(
                    arrays[one].astype(np.float64), arrays[other].astype(np.float64)
                ):
                    found |= {one, other}
    return found


def _is_circle(values: Array) -> bool:
    """Sines in the one half of each row, cosines of the same angles in the other."""
    width = values.shape[-1] if values.ndim else 0
    if values.ndim < 2 or width < 2 or width % 2 or values.size != width * values.shape[-2]:
        return False
    rows = values.reshape(-1, width)
    return _one_circle(*_halves(rows[:4])) and _one_circle(*_halves(rows))


def _halves(values: Array) -> tuple[Array, Array]:
    wide = values.astype(np.float64)
    return wide[:, : wide.shape[1] // 2], wide[:, wide.shape[1] // 2 :]


def _one_circle(a: Array, b: Array) -> bool:
    """cos² + sin² is one constant, and neither is constant alone in the whole."""
    total = a * a + b * b
    return bool(np.ptp(total) <= 0.02 * max(float(total.mean()), 1e-12) and (np.ptp(a) > 0 or np.ptp(b) > 0))


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
        yield Weight(name, role, tuple(values.shape), dtype, tuple(group))


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
