"""How long a sequence may be: tables of learned positions end, and what lies beyond fails deep inside the graph.

Which table is one is guessed by how it is read, and then tried: a sequence as long as the table runs, a longer one
does not. Nothing is run where no table is shorter than the sequences asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_graphsurgeon as gs

from graphclone import feeds
from graphclone.errors import BadData, GraphCloneError
from graphclone.graph import Model
from graphclone.statistics import runtime

BESIDE = 2  # rows at most that are no positions: RoBERTa and OPT count from 2
FEWEST = 4  # rows: smaller tables tell the sides of a pair apart
READ = {"Gather": 0, "Slice": 0, "EmbedLayerNormalization": 3}  # operator -> its input that may be such a table
CARRIERS = ("Cast", "Identity", "DequantizeLinear", "Unsqueeze")


def most(model: Model, length: int) -> int | None:
    """How many positions a model has, where they are fewer than ``length``; None where they are not, or none tell."""
    candidates = sorted(rows for rows in set(_tables(model)) if FEWEST < rows < length + BESIDE)
    if not candidates:
        return None
    try:
        runs = _trial(model)
        return (
            None
            if runs(length)
            else next(
                (n for rows in candidates for n in range(rows, rows - BESIDE - 1, -1) if runs(n) and not runs(n + 1)),
                None,
            )
        )
    except GraphCloneError:  # another reason, which whoever runs it says
        return None


def too_long(model: Model, length: int, option: str) -> str | None:
    """What to say of sequences that are longer than a model's positions; None where they are not."""
    count = most(model, length)
    return None if count is None else f"the model has {count} positions: {option}{count} at most"


def _trial(model: Model) -> Callable[[int], bool]:
    copy = model.copy()
    session = runtime.open_session(copy, runtime.PROVIDERS["cpu"], None, optimise=False)
    known: dict[int, bool] = {}

    def runs(length: int) -> bool:
        if length not in known:
            try:
                session.run(feeds.tiny_feeds(model, 1, length), "a trial")
                known[length] = True
            except BadData:
                known[length] = False
        return known[length]

    return runs


def _tables(model: Model) -> Iterator[int]:
    """Rows of the tables as wide as that of the tokens, which are added to it."""
    tokens = {i.rows for i in feeds.inputs(model).values() if i.role.name == "tokens"}
    shapes = []
    for node in model.graph.nodes:
        place = READ.get(node.op)
        table = _constant(node.inputs[place]) if place is not None and len(node.inputs) > place else None
        if table is not None and len(table.shape) > 1 and "int64" not in str(table.dtype):
            shapes.append((int(table.shape[-2]), int(table.shape[-1])))
    widths = {width for rows, width in shapes if rows in tokens}
    return (rows for rows, width in shapes if width in widths and rows not in tokens)


def _constant(tensor: gs.Tensor) -> gs.Constant | None:
    while not isinstance(tensor, gs.Constant):
        if not tensor.inputs or tensor.inputs[0].op not in CARRIERS:
            return None
        tensor = tensor.inputs[0].inputs[0]
    return tensor
