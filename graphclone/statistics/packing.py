"""Turns text into token ids by a tokenizer.json, packed without gaps into windows of one length."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphclone import folders
from graphclone.errors import BadData, one_line
from graphclone.feeds import Input
from graphclone.graph import Model
from graphclone.statistics.reading import Array, Asked, Reading, sha256_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAMPLE = 1 << 16  # characters from which the number of tokens is guessed
PADS = ("<pad>", "[PAD]", "<|pad|>")
CONFIGURATIONS = ("generation_config.json", "config.json")


@dataclass(frozen=True)
class Texts:
    """Text in pieces, anew at each call. read: what its fingerprint is made of. size: bytes of it, about."""

    spec: str
    pieces: Callable[[], Iterator[str]]
    read: Sequence[Path | str]
    size: int


@dataclass(frozen=True)
class Frame:
    """What stands before and after the text in each window of an input's ids."""

    given: Input
    before: tuple[int, ...]
    after: tuple[int, ...]
    length: int

    @property
    def room(self) -> int:
        """Tokens of text in a window."""
        return self.length - len(self.before) - len(self.after)


def pack(texts: Texts, asked: Asked) -> Reading:
    """Batches of windows for the graph's token inputs; what is left over at the end of the text is dropped.

    An encoder-decoder reads a window with its encoder and what follows it in the text with its decoder, shifted right
    (the prefix language modelling of Raffel et al., arXiv 1910.10683, section 3.2.1).

    Raises BadData for graphs that want something else beside ids, and for a tokenizer of another model.
    """
    takes = _token_inputs(texts.spec, asked)
    file = tokenizer_file(asked.tokenizer, asked.model)
    tokenizer = load_tokenizer(file)
    frames, notes = _frames(tokenizer, takes, asked, file)
    fixed = any(isinstance(given.shape[0], int) for given in takes)

    def batches() -> Iterator[dict[str, Array]]:
        rows = _rows(tokenizer, frames, texts.pieces())
        found = False
        while held := list(islice(rows, asked.batch_size)):
            if fixed and found and len(held) < asked.batch_size:
                return
            found = True
            ids = [np.asarray(windows, np.int64) for windows in zip(*held, strict=True)]
            yield {f.given.name: _checked(f.given, a, tokenizer, file) for f, a in zip(frames, ids, strict=True)}
        if not found:
            raise BadData(f"{texts.spec}: too little text to fill one window of {asked.length} tokens: lower --length")

    def guess() -> int:
        held = "".join(_up_to(texts.pieces(), SAMPLE))
        tokens = len(tokenizer.encode(held, add_special_tokens=False).ids)
        rows = texts.size * tokens / max(len(held.encode()), 1) / sum(_rooms(frames))
        return max(1, round(rows / asked.batch_size))

    settings = " ".join(f"{f.given.name} {f.before} {f.after} {f.length}" for f in frames) + f" {asked.batch_size}"
    return Reading(texts.spec, batches, lambda: sha256_of(*texts.read, file, settings), guess=guess, notes=notes)


def _token_inputs(spec: str, asked: Asked) -> list[Input]:
    takes = [given for given in asked.known.values() if given.role.name == "tokens"]
    others = [given for given in asked.known.values() if given.primary and given not in takes]
    if not takes:
        raise BadData(
            f"{spec}: text, but the graph takes no token ids; it has {', '.join(map(str, asked.known.values()))}"
        )
    if others:
        raise BadData(
            f"{spec}: text, but the graph wants {', '.join(map(str, others))} too: give .npz batches of all its inputs "
            "(or random:N)"
        )
    return takes


def _frames(
    tokenizer: Tokenizer, takes: Sequence[Input], asked: Asked, file: Path
) -> tuple[tuple[Frame, ...], tuple[str, ...]]:
    """A frame for the ids that are alike (their first input), and one for the decoder's where there are two sides."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    shown = tokenizer.encode("a", add_special_tokens=True)
    plain = [k for k, special in enumerate(shown.special_tokens_mask) if not special]
    first, last = (plain[0], plain[-1] + 1) if plain else (0, 0)
    before, after = tuple(shown.ids[:first]), tuple(shown.ids[last:])
    decoders = [given for given in takes if "decoder" in given.name.lower()]
    encoders = [given for given in takes if given not in decoders]
    notes = _doubts(tokenizer, takes, file)
    frames = [Frame(given, before, after, _length(given, asked)) for given in (encoders or decoders)]
    if encoders and decoders:
        start, said = _decoder_start(asked.model, tokenizer)
        frames += [Frame(given, (start, *before), (), _length(given, asked)) for given in decoders]
        notes += (f"the decoder reads what follows the encoder's text, after {said}",)
    for frame in frames:
        if frame.room < 1:
            special = len(frame.before) + len(frame.after)
            raise BadData(f"{file}: a window of {frame.length} tokens is too short: {special} are special")
    return tuple(frames), notes


def _length(given: Input, asked: Asked) -> int:
    size = given.shape[1] if len(given.shape) > 1 else None
    return size if isinstance(size, int) else asked.length


def _doubts(tokenizer: Tokenizer, takes: Sequence[Input], file: Path) -> tuple[str, ...]:
    """Tables are rounded up to some multiple, never to the double: then the ids mean other words."""
    size = tokenizer.get_vocab_size()
    rows = [given.rows for given in takes if given.rows is not None and given.rows > 2 * size]
    return (f"{file} knows {size} tokens, the graph's embedding {rows[0]}: is it this model's?",) if rows else ()


def _decoder_start(model: Model, tokenizer: Tokenizer) -> tuple[int, str]:
    """The id that a decoder's input starts with, and where that is known from. Raises BadData where it is not."""
    for name in CONFIGURATIONS if model.path is not None else ():
        assert model.path is not None
        try:
            found = json.loads(folders.beside(model.path, name).read_bytes()).get("decoder_start_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(found, int):
            return found, f"the token {found} ({name})"
    for pad in PADS:
        if (number := tokenizer.token_to_id(pad)) is not None:
            return number, f"{pad} (no {' or '.join(CONFIGURATIONS)} beside the model says otherwise)"
    raise BadData(
        "what the decoder's input starts with is not known: put the model's config.json (decoder_start_token_id) "
        "beside it, or give .npz batches"
    )


def _rooms(frames: Sequence[Frame]) -> list[int]:
    """Tokens of text that each side takes; inputs framed alike share theirs."""
    return list({(f.before, f.after, f.length): f.room for f in frames}.values())


def _rows(tokenizer: Tokenizer, frames: Sequence[Frame], pieces: Iterable[str]) -> Iterator[tuple[list[int], ...]]:
    """One window a frame: those framed alike get the same text, others what follows it."""
    places: dict[tuple[object, ...], tuple[int, int]] = {}
    size = 0
    for frame in frames:
        key = (frame.before, frame.after, frame.length)
        if key not in places:
            places[key] = (size, size + frame.room)
            size += frame.room
    held: list[int] = []
    for piece in pieces:
        held += tokenizer.encode(piece, add_special_tokens=False).ids
        full = len(held) // size * size
        for start in range(0, full, size):
            ids = held[start : start + size]
            parts = [ids[slice(*places[f.before, f.after, f.length])] for f in frames]
            yield tuple([*f.before, *part, *f.after] for f, part in zip(frames, parts, strict=True))
        held = held[full:]


def _checked(given: Input, ids: Array, tokenizer: Tokenizer, file: Path) -> Array:
    if given.rows is not None and ids.max() >= given.rows:
        raise BadData(
            f"{file}: made the id {ids.max()} (its vocabulary has {tokenizer.get_vocab_size()}), the graph's embedding "
            f"has {given.rows} rows: the tokenizer of another model"
        )
    return ids.astype(given.dtype)


def _up_to(pieces: Iterator[str], characters: int) -> Iterator[str]:
    for piece in pieces:
        yield piece[:characters]
        characters -= len(piece)
        if characters <= 0:
            return


def tokenizer_file(given: Path | None, model: Model) -> Path:
    """The tokenizer.json given, or one beside the model. Raises BadData where there is none."""
    if given is not None:
        if not given.is_file():
            raise BadData(f"{given}: there is no such tokenizer file")
        return given
    found = tokenizer_beside(model)
    if found is None:
        beside = _beside(model)
        looked = f" (looked for {' and '.join(f.name for f in beside)} beside the model)" if beside else ""
        raise BadData(f"text needs the model's tokenizer.json: give --tokenizer{looked}")
    return found


def tokenizer_beside(model: Model) -> Path | None:
    """The tokenizer.json beside a model's file, where there is one."""
    return next((file for file in _beside(model) if file.is_file()), None)


def _beside(model: Model) -> list[Path]:
    if model.path is None:
        return []
    return [model.path.with_suffix(".tokenizer.json"), folders.beside(model.path, "tokenizer.json")]


def load_tokenizer(file: Path) -> Tokenizer:
    """Raises BadData for a file that is no tokenizer.json."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as reason:  # noqa: BLE001  (tokenizers raises bare exceptions)
        raise BadData(f"{file}: not a tokenizer.json ({one_line(reason, 200)})") from None
