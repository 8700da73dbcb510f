"""Text -> token ids by a tokenizer.json -> windows of one length, packed without gaps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphclone.errors import BadData
from graphclone.graph import Model
from graphclone.statistics.reading import Array, Asked, Reading, files_of, sha256_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SUFFIXES = (".txt", ".md", ".rst")
CHUNK = 1 << 16  # characters encoded at once, so that a file of any size streams


def open_files(spec: str, asked: Asked) -> Reading:
    """A text file, or the text files of a folder in order of name. UTF-8."""
    files = files_of(spec, SUFFIXES)
    return _text(spec, asked, lambda: (piece for file in files for piece in _pieces(file)), files)


def open_jsonl(spec: str, asked: Asked) -> Reading:
    """One JSON object a line; its field ``text``."""
    (file,) = files_of(spec, (".jsonl",))
    return _text(spec, asked, lambda: _records(file), [file])


def open_docs(spec: str, asked: Asked) -> Reading:
    """Python's own language reference, about 0.7 MB of English text that every Python brings (pydoc_data.topics)."""
    from pydoc_data.topics import topics

    pieces = [topics[name] for name in sorted(topics)]
    return _text(spec, asked, lambda: iter(pieces), ["\0".join(pieces)])


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding="utf-8") as stream:
            yield from stream
    except UnicodeDecodeError as reason:
        raise BadData(f"{file}: not UTF-8 text (byte {reason.start})") from None
    except OSError as reason:
        raise BadData(f"{file}: cannot be read ({reason.strerror})") from None


def _pieces(file: Path) -> Iterator[str]:
    """Whole lines, about CHUNK characters at a time."""
    held: list[str] = []
    size = 0
    for line in _lines(file):
        held.append(line)
        size += len(line)
        if size >= CHUNK:
            yield "".join(held)
            held, size = [], 0
    if held:
        yield "".join(held)


def _records(file: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as reason:
            raise BadData(f"{file}: line {number} is not JSON ({reason.msg})") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise BadData(f"{file}: line {number} has no field text")
        yield record["text"]


@dataclass(frozen=True)
class Packer:
    """Ids of windows: what the tokenizer puts before and after a sequence frames each window."""

    tokenizer: Tokenizer
    before: tuple[int, ...]
    after: tuple[int, ...]
    length: int

    @classmethod
    def of(cls, tokenizer: Tokenizer, length: int, where: str) -> Packer:
        """Learn the frame from the tokenizer itself. Raises BadData where a window has no room inside it."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        shown = tokenizer.encode("a", add_special_tokens=True)
        plain = [k for k, special in enumerate(shown.special_tokens_mask) if not special]
        first, last = (plain[0], plain[-1] + 1) if plain else (0, 0)
        before, after = tuple(shown.ids[:first]), tuple(shown.ids[last:])
        if len(before) + len(after) >= length:
            raise BadData(f"{where}: a window of {length} tokens is too short: {len(before) + len(after)} are special")
        return cls(tokenizer, before, after, length)

    def windows(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        """Windows of ``length`` ids; what is left over at the end of the text is dropped."""
        room = self.length - len(self.before) - len(self.after)
        held: list[int] = []
        for piece in pieces:
            held += self.tokenizer.encode(piece, add_special_tokens=False).ids
            full = len(held) // room * room
            for start in range(0, full, room):
                yield [*self.before, *held[start : start + room], *self.after]
            held = held[full:]


def _text(spec: str, asked: Asked, pieces: Callable[[], Iterator[str]], read: Iterable[Path | str]) -> Reading:
    takes = [given for given in asked.known.values() if given.role.name == "tokens"]
    if not takes:
        raise BadData(
            f"{spec}: text, but the graph takes no token ids; it has {', '.join(map(str, asked.known.values()))}"
        )
    file = tokenizer_file(asked.tokenizer, asked.model)
    packer = Packer.of(load_tokenizer(file), asked.length, str(file))
    rows = min((given.rows for given in takes if given.rows is not None), default=None)
    fixed = any(isinstance(given.shape[0], int) for given in takes)

    def batches() -> Iterator[dict[str, Array]]:
        windows = packer.windows(pieces())
        found = False
        while held := list(islice(windows, asked.batch_size)):
            if fixed and found and len(held) < asked.batch_size:
                return
            found = True
            ids = np.asarray(held, np.int64)
            if rows is not None and ids.max() >= rows:
                vocabulary = packer.tokenizer.get_vocab_size()
                raise BadData(
                    f"{file}: made the id {ids.max()} (its vocabulary has {vocabulary}), the graph's embedding has "
                    f"{rows} rows: the tokenizer of another model"
                )
            yield {given.name: ids.astype(given.dtype) for given in takes}
        if not found:
            raise BadData(f"{spec}: too little text to fill one window of {asked.length} tokens: lower --length")

    settings = f"{asked.length} {asked.batch_size}"
    return Reading(spec, batches, lambda: sha256_of(*read, file, settings))


def tokenizer_file(given: Path | None, model: Model) -> Path:
    """The tokenizer.json given, or one beside the model. Raises BadData where there is none."""
    if given is not None:
        if not given.is_file():
            raise BadData(f"{given}: there is no such tokenizer file")
        return given
    beside = _beside(model)
    found = next((file for file in beside if file.is_file()), None)
    if found is None:
        looked = f" (looked for {' and '.join(f.name for f in beside)} beside the model)" if beside else ""
        raise BadData(f"text needs the model's tokenizer.json: give --tokenizer{looked}")
    return found


def _beside(model: Model) -> list[Path]:
    if model.path is None:
        return []
    return [model.path.with_suffix(".tokenizer.json"), model.path.with_name("tokenizer.json")]


def load_tokenizer(file: Path) -> Tokenizer:
    """Raises BadData for a file that is no tokenizer.json."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as reason:  # noqa: BLE001  (tokenizers raises bare exceptions)
        raise BadData(f"{file}: not a tokenizer.json ({' '.join(str(reason).split())[:200]})") from None
