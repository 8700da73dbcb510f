"""Which tokens stay: those that the data uses, those that they are made of, special ones, and what the graph names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphclone.anatomy import vocabulary
from graphclone.anatomy.parts import Anatomy
from graphclone.errors import BadData, InvalidTarget
from graphclone.graph import Model
from graphclone.plan import Plan
from graphclone.statistics.kinds import KINDS, kinds_of
from graphclone.statistics.packing import CONFIGURATIONS, load_tokenizer, tokenizer_file
from graphclone.statistics.rows import MOST_DIGITS
from graphclone.vocabulary.models import kind_of, read
from graphclone.vocabulary.trimming import trim

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

BATCH = 256  # pieces of text encoded at once
_BETWEEN = re.compile(r"[\s,;\[\]]+")  # ids of a list, as people and programs write one


@dataclass(frozen=True)
class Tokens:
    """kept: the parent's ids, ascending; token k of the clone is kept[k].

    size: how many the parent has. used: how many of them the data. tokenizer: the clone's, None where there was none.
    """

    kept: tuple[int, ...]
    size: int
    used: int
    source: str
    tokenizer: dict[str, Any] | None = field(default=None, repr=False)


def choose_tokens(
    model: Model,
    anatomy: Anatomy,
    spec: str,
    *,
    tokenizer: Path | None = None,
    column: str | None = None,
    folder: Path | None = None,
) -> Tokens:
    """The tokens that a text, or a file of ids, needs; ``plan`` takes ``tokens=`` their ids (``Tokens.kept``).

    spec: text as for calibration (files, a folder, python-docs, datasets:NAME), or a .txt file of ids. tokenizer: its
    tokenizer.json, by default the one beside the model. column: the field of records that holds text. folder: of
    configurations that name ids, beside those beside the model. What the tokenizer needs to encode every text as
    before stays too, as do special tokens and ids that the graph names.

    Raises UnsupportedGraph where the graph or the tokenizer cannot be trimmed, BadData for text without a tokenizer.
    """
    found = vocabulary.find(model, anatomy)
    listed = _listed(spec)
    pieces = iter(()) if listed is not None else _texts(spec, column)
    try:
        file: Path | None = tokenizer_file(tokenizer, model)
    except BadData:
        if listed is None or tokenizer is not None:
            raise
        file = None
    declared = set(found.needed) | {i for i in _configured(model, folder) if i < found.size}
    if file is None:
        assert listed is not None
        kept = _inside(listed, found.size, spec, declared)
        return Tokens(kept, found.size, len(listed), spec)
    loaded = load_tokenizer(file)
    loaded.no_truncation()
    loaded.no_padding()
    held = read(file.read_text(encoding="utf-8"))
    kind = kind_of(held["model"], str(file))
    names = loaded.get_vocab(with_added_tokens=True)
    if 2 * len(names) < found.size:  # tables are rounded up, never to the double
        raise BadData(f"{file}: {len(names)} tokens, the graph's embedding has {found.size} rows: another model's?")
    used, lost = (listed, set[str]()) if listed is not None else _used(loaded, pieces, held)
    tokens = {token for token, number in names.items() if number in used}
    added = {entry["content"] for entry in held.get("added_tokens") or ()}
    stay = {names[token] for token in kind.needs(held["model"], tokens, lost) | added if token in names}
    kept = _inside(used, found.size, spec, declared | {number for number in stay if number < found.size})
    trimmed = trim(held, {old: new for new, old in enumerate(kept)}, names, str(file))
    return Tokens(kept, found.size, len(used), spec, trimmed)


def planned_tokens(model: Model, anatomy: Anatomy, plan: Plan, *, tokenizer: Path | None = None) -> Tokens | None:
    """The tokens that a plan keeps, with their tokenizer where the parent's is found; None where it keeps all."""
    groups = (g for g in anatomy.groups.values() if g.kind == vocabulary.KIND and g.name in plan.keep)
    group = next((g for g in groups if len(plan.keep[g.name]) < g.size), None)
    if group is None:
        return None
    kept = plan.keep[group.name]
    try:
        file = tokenizer_file(tokenizer, model)
    except BadData:
        if tokenizer is not None:
            raise
        return Tokens(kept, group.size, len(kept), "the plan")
    names = load_tokenizer(file).get_vocab(with_added_tokens=True)
    held = read(file.read_text(encoding="utf-8"))
    trimmed = trim(held, {old: new for new, old in enumerate(kept)}, names, str(file))
    return Tokens(kept, group.size, len(kept), "the plan", trimmed)


def _inside(used: set[int], size: int, spec: str, beside: set[int]) -> tuple[int, ...]:
    if outside := sorted(number for number in used if not 0 <= number < size):
        raise BadData(f"{spec}: the token {outside[0]}, where the graph's embedding has {size} rows")
    if not used:
        raise BadData(f"{spec}: not one token")
    return tuple(sorted(used.union(beside)))


def _listed(spec: str) -> set[int] | None:
    """The ids of a .txt file that holds nothing but whole numbers; None for anything else."""
    path = Path(spec)
    if path.suffix != ".txt" or not path.is_file():
        return None
    try:
        words = [word for word in _BETWEEN.split(path.read_text(encoding="utf-8-sig")) if word]
    except (OSError, UnicodeDecodeError):
        return None  # the reader of texts says what is wrong
    ids = bool(words) and all(word.isdecimal() and len(word) <= MOST_DIGITS for word in words)
    return {int(word) for word in words} if ids else None


def _texts(spec: str, column: str | None) -> Iterator[str]:
    texts = next((kind.texts for kind in kinds_of(spec) if kind.texts is not None), None)
    if texts is None:
        shown = "; ".join(row.looks_like for row in KINDS if row.texts is not None)
        raise BadData(f"{spec}: no text to take a vocabulary from: give {shown}; or a .txt file of token ids")
    return texts(spec, column).pieces()


def _used(tokenizer: Tokenizer, pieces: Iterator[str], held: dict[str, Any]) -> tuple[set[int], set[str]]:
    """Ids of all pieces, whole and line by line (a word may begin otherwise there); words that came out as unknown."""
    used: set[int] = set()
    lost: set[str] = set()
    unknown = tokenizer.token_to_id(held["model"].get("unk_token") or "")
    for piece in pieces:
        lines = piece.splitlines()
        for start in range(0, len(lines), BATCH):
            for encoding in tokenizer.encode_batch(lines[start : start + BATCH]):
                used.update(encoding.ids)
        whole = tokenizer.encode(piece)
        used.update(whole.ids)
        if unknown is not None and unknown in whole.ids:
            lost |= set(_lost(tokenizer, whole, piece, unknown))
    return used, lost


def _lost(tokenizer: Tokenizer, encoding: Encoding, piece: str, unknown: int) -> Iterator[str]:
    for number, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        if number == unknown:
            word = piece[start:end]
            yield tokenizer.normalizer.normalize_str(word) if tokenizer.normalizer else word


def _configured(model: Model, folder: Path | None) -> set[int]:
    """Ids that the configuration beside the model names: what begins, ends and fills up."""
    found: set[int] = set()
    places = [] if model.path is None else [model.path.resolve().parent, *([folder] if folder else [])]
    places += [place.parent for place in places if place.name == "onnx"]
    for file in (place / name for place in places for name in (*CONFIGURATIONS, "genai_config.json")):
        try:
            found |= set(_ids(json.loads(file.read_bytes())))
        except (OSError, ValueError):
            continue
    return found


def _ids(held: Any) -> Iterator[int]:
    for key, value in held.items() if isinstance(held, dict) else ():
        if isinstance(value, dict):
            yield from _ids(value)
        elif key.endswith("_token_id"):
            listed = value if isinstance(value, list) else [value]
            yield from (i for i in listed if isinstance(i, int) and not isinstance(i, bool) and i >= 0)


def keep(plan: Plan, anatomy: Anatomy, kept: Sequence[int]) -> Plan:
    """The plan that keeps these tokens alone, too; ``kept`` ascending. Raises InvalidTarget where there are none."""
    groups = [group.name for group in anatomy.groups.values() if group.kind == vocabulary.KIND]
    if not groups:
        raise InvalidTarget("tokens: nothing in this model is looked up by token ids")
    sizes = {**plan.target, "vocab": len(kept)}
    return replace(plan, keep={**plan.keep, **dict.fromkeys(groups, tuple(kept))}, target=sizes)
