"""Turns a batch into what a task needs: the inputs of the graph, and the targets.

Names of inputs are told as graphclone.feeds tells them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphclone.errors import BadData
from graphclone.feeds import ROLES
from graphclone.pytorch.training.batches import Array, Batch, holds_rows, rowed, rows_of, share
from graphclone.pytorch.training.losses import IGNORED

LABELS = "labels"
ENCODER, DECODER = "encoder", "decoder"
MASKED_SHARE = 0.15  # of the tokens
AS_MASK, AS_RANDOM = 0.8, 0.1  # of those: hidden, replaced (BERT, arXiv 1810.04805)


@dataclass(frozen=True)
class Setting:
    """What a task has to know of the model and its tokenizer.

    outputs: those of the graph. output: the one to read, None to find it. mask_token, special: ids of the tokenizer.
    vocabulary: ids are below it. kept: the teacher's neurons that an embedding of the clone consists of. classes: how
    many the output tells apart.
    """

    outputs: tuple[str, ...] = ()
    output: str | None = None
    mask_token: int | None = None
    special: frozenset[int] = frozenset()
    vocabulary: int | None = None
    kept: tuple[int, ...] | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Example:
    """feeds: the graph's inputs. targets: what is expected, IGNORED where nothing is. seen: places that are no padding.

    ``share`` gives the rows of one process; ``weight`` is 0 for rows that another process counts.
    """

    feeds: Mapping[str, Array]
    batch: Mapping[str, Any]
    targets: Array | None = None
    seen: Array | None = None
    weight: int = 1

    @property
    def count(self) -> int:
        """Targets that count; rows where there are none to tell."""
        return rows_of(self.feeds) if self.targets is None else int((self.targets != IGNORED).sum())

    @property
    def places(self) -> int:
        """Places that a teacher speaks of."""
        return rows_of(self.feeds) if self.seen is None else int(self.seen.sum())

    def share(self, process: int, processes: int) -> Example:
        """The part of one process."""
        if processes == 1:
            return self
        rows = rows_of(self.feeds)
        return self._part(share(rows, process, processes), int(holds_rows(rows, process, processes)))

    def first_row(self) -> Example:
        """As little as can be run."""
        return self._part(slice(0, 1), 1)

    def _part(self, piece: slice, weight: int) -> Example:
        along = rowed(self.feeds)
        return Example(
            {name: array[piece] if name in along else array for name, array in self.feeds.items()},
            {name: held[piece] if name in rowed(self.batch) else held for name, held in self.batch.items()},
            None if self.targets is None else self.targets[piece],
            None if self.seen is None else self.seen[piece],
            weight,
        )


def _inputs(batch: Batch) -> dict[str, Array]:
    return {name: np.asarray(held) for name, held in batch.items() if name != LABELS}


def _named(inputs: Mapping[str, Array], role: str) -> str | None:
    """The input with a role; of several, the decoder's."""
    found = [
        name
        for name, array in inputs.items()
        if next((r.name for r in ROLES if array.dtype.kind in r.kinds and r.pattern.search(name)), None) == role
    ]
    return max(found, key=lambda name: name.startswith("decoder"), default=None)


def _side(name: str) -> str:
    """Whose input it is, where a model has two sides."""
    return next((side for side in (ENCODER, DECODER) if name.startswith(side)), "")


def _tokens(inputs: Mapping[str, Array], task: str) -> tuple[str, Array, Array | None]:
    """Name and array of the ids [batch, length], and where they are not padding by the mask of the same side."""
    name = _named(inputs, "tokens")
    if name is None or inputs[name].ndim != 2:
        raise BadData(f"a batch for {task} needs token ids (input_ids); it has {', '.join(sorted(inputs))}")
    ids_BT = inputs[name]
    mask = _named({n: array for n, array in inputs.items() if _side(n) == _side(name)}, "mask")
    fits = mask is not None and inputs[mask].shape == ids_BT.shape
    return name, ids_BT, inputs[mask] != 0 if mask is not None and fits else None


def _labels(batch: Batch, ids_BT: Array, task: str) -> Array | None:
    """Targets that a batch brings itself, one a token and IGNORED where none counts. Raises BadData."""
    if LABELS not in batch:
        return None
    labels_BT = np.asarray(batch[LABELS])
    if labels_BT.dtype.kind not in "iu" or labels_BT.shape != ids_BT.shape:
        raise BadData(
            f"{LABELS} of a batch for {task} are token ids of the shape {list(ids_BT.shape)}, {IGNORED} where nothing "
            f"counts; they are {labels_BT.dtype}{list(labels_BT.shape)} (leave them out to have them made from the ids)"
        )
    labels_BT = labels_BT.astype(np.int64)
    if ((labels_BT < 0) & (labels_BT != IGNORED)).any():
        raise BadData(
            f"{LABELS} of a batch for {task} go down to {labels_BT.min()}: only {IGNORED} says that none counts"
        )
    return labels_BT


def causal(batch: Batch, setting: Setting, generator: np.random.Generator) -> Example:
    """Each next token, padding left out; or the batch's own labels.

    Labels stand as Hugging Face's models take them: beside the token they are of, where a decoder's ids are given
    apart beside the token that they are to be predicted at.
    """
    inputs = _inputs(batch)
    name, ids_BT, seen_BT = _tokens(inputs, "causal-lm")
    labels_BT = _labels(batch, ids_BT, "causal-lm")
    targets_BT = np.full(ids_BT.shape, IGNORED, np.int64)  # the last token predicts nothing
    if labels_BT is not None and _side(name) == DECODER:
        targets_BT = labels_BT
    else:
        targets_BT[:, :-1] = (ids_BT if labels_BT is None else labels_BT)[:, 1:]
        if seen_BT is not None:
            targets_BT[:, :-1][~seen_BT[:, 1:]] = IGNORED
    if seen_BT is not None:
        targets_BT[~seen_BT] = IGNORED  # where padding stands nothing is predicted
    if not (targets_BT != IGNORED).any():
        why = "windows need two tokens or more" if labels_BT is None else f"all its {LABELS} are {IGNORED} or padding"
        raise BadData(f"a batch of shape {list(ids_BT.shape)} has no token to predict: {why}")
    _refuse_unknown(targets_BT, setting)
    return Example(inputs, inputs, targets_BT, np.ones(ids_BT.shape, bool) if seen_BT is None else seen_BT)


def _refuse_unknown(targets_BT: Array, setting: Setting) -> None:
    """Every token that is to be predicted needs a number of its own in the output. Raises BadData."""
    if setting.classes is not None and targets_BT.max() >= setting.classes:
        raise BadData(f"token {targets_BT.max():,} is to be predicted, and the output knows {setting.classes:,} tokens")


def masked(batch: Batch, setting: Setting, generator: np.random.Generator) -> Example:
    """15 % of the tokens are to be found again: 80 % of them hidden by the mask token, 10 % replaced at random.

    A batch with labels has been masked already, and is taken as it is.
    """
    inputs = _inputs(batch)
    name, ids_BT, seen_BT = _tokens(inputs, "masked-lm")
    labels_BT = _labels(batch, ids_BT, "masked-lm")
    if labels_BT is not None:
        return _masked_already(inputs, labels_BT, seen_BT, setting)
    if setting.mask_token is None:
        raise BadData("masked-lm needs the id of the mask token: give the tokenizer.json of a model trained with one")
    open_BT = ~np.isin(ids_BT, sorted(setting.special)) & (True if seen_BT is None else seen_BT)
    chosen_BT = open_BT & (generator.random(ids_BT.shape) < MASKED_SHARE)
    if not chosen_BT.any() and open_BT.any():  # a short batch: one token at least
        chosen_BT.flat[generator.choice(np.flatnonzero(open_BT))] = True
    if not chosen_BT.any():
        raise BadData(f"a batch of shape {list(ids_BT.shape)} has no token to mask: all of them are special or padding")
    how_BT = generator.random(ids_BT.shape)
    drawn_BT = generator.integers(0, setting.vocabulary or int(ids_BT.max()) + 1, ids_BT.shape)
    fed_BT = np.where(chosen_BT & (how_BT < AS_MASK), setting.mask_token, ids_BT)
    fed_BT = np.where(chosen_BT & (how_BT >= AS_MASK) & (how_BT < AS_MASK + AS_RANDOM), drawn_BT, fed_BT)
    targets_BT = np.where(chosen_BT, ids_BT, IGNORED).astype(np.int64)
    _refuse_unknown(targets_BT, setting)
    fed = inputs | {name: fed_BT.astype(ids_BT.dtype)}
    return Example(fed, fed, targets_BT, np.ones(ids_BT.shape, bool) if seen_BT is None else seen_BT)


def _masked_already(inputs: dict[str, Array], labels_BT: Array, seen_BT: Array | None, setting: Setting) -> Example:
    if not (labels_BT != IGNORED).any():
        raise BadData(f"a batch of shape {list(labels_BT.shape)} has no token to find: all its {LABELS} are {IGNORED}")
    _refuse_unknown(labels_BT, setting)
    return Example(inputs, inputs, labels_BT, np.ones(labels_BT.shape, bool) if seen_BT is None else seen_BT)


def classified(batch: Batch, setting: Setting, generator: np.random.Generator) -> Example:
    """The class of each row."""
    inputs = _inputs(batch)
    if LABELS not in batch:
        raise BadData(
            f"a batch for image-classification needs {LABELS} (class numbers, one a row), from folders' names or an "
            f"array of that name; it has {', '.join(sorted(batch))}"
        )
    targets_B = np.asarray(batch[LABELS]).astype(np.int64)
    if targets_B.shape != (rows_of(inputs),):
        raise BadData(f"{LABELS} are {list(targets_B.shape)}, the batch has {rows_of(inputs)} rows: one number a row")
    if setting.vocabulary is not None and not 0 <= targets_B.min() <= targets_B.max() < setting.vocabulary:
        raise BadData(
            f"{LABELS} run from {targets_B.min()} to {targets_B.max()}, the model has {setting.vocabulary} classes"
        )
    return Example(inputs, inputs | {LABELS: targets_B}, targets_B)


def embedded(batch: Batch, setting: Setting, generator: np.random.Generator) -> Example:
    """What the teacher makes of each row."""
    inputs = _inputs(batch)
    mask = _named(inputs, "mask")
    seen = inputs[mask] != 0 if mask is not None and inputs[mask].ndim == 2 else None
    return Example(inputs, inputs, None, seen)


def whole(batch: Batch, setting: Setting, generator: np.random.Generator) -> Example:
    """The batch as it is, for a function of the user's own."""
    return Example(_inputs(batch), {name: np.asarray(held) for name, held in batch.items()})
