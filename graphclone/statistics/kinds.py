"""The kinds of data that a spec may name, and which of them a graph can be fed.

A folder may hold several: the one that fits the graph is read, and the others are said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from graphclone.feeds import Input
from graphclone.statistics import arrays, callables, images, records, text
from graphclone.statistics.images import Pictures
from graphclone.statistics.packing import Texts
from graphclone.statistics.reading import Asked, Reading, ends


@dataclass(frozen=True)
class Kind:
    """A kind of data. ``fits`` says whether a spec that is no file is one; suffixes: how names of its files end.

    It gives ``texts`` or ``pictures``, as the graph wants, or batches as they are (``reads``). takes: options that it
    is read by. inside: its files may lie in folders of the folder. alone: in a folder they are
    something else, as a tokenizer.json is.
    """

    name: str
    looks_like: str
    takes: tuple[str, ...]
    fits: Callable[[str], bool] | None = None
    suffixes: tuple[str, ...] = ()
    texts: Callable[[str, str | None], Texts] | None = None
    pictures: Callable[[str, str | None], Pictures] | None = None
    reads: Callable[[str, Asked], Reading] | None = None
    inside: bool = False
    alone: bool = False

    @property
    def named(self) -> bool:
        """It is no file."""
        return not self.suffixes

    def holds(self, spec: str) -> bool:
        """Whether a spec names such data: by its name, by that of the file, or of one in the folder."""
        if self.fits is not None:
            return self.fits(spec)
        path = Path(spec)
        if not path.is_dir():
            return ends(path, self.suffixes)
        if self.alone:
            return False
        return any(ends(file, self.suffixes) for file in (path.rglob("*") if self.inside else path.iterdir()))

    def suits(self, known: Mapping[str, Input]) -> bool:
        """Whether it can be made into what the graph takes."""
        if self.reads is not None:
            return True
        if images.takes_pixels(known):
            return self.pictures is not None
        return self.texts is not None and all(i.role.name == "tokens" for i in known.values() if i.primary)

    def open(self, spec: str, asked: Asked) -> Reading:
        """Its batches. Raises BadData where the graph takes none such."""
        if self.reads is not None:
            return self.reads(spec, asked)
        if self.pictures is not None and (self.texts is None or images.takes_pixels(asked.known)):
            return images.prepared(self.pictures)(spec, asked)
        assert self.texts is not None
        return text.packed(self.texts)(spec, asked)


_TEXT = ("tokenizer", "length", "batch_size")
_RECORDS = (*_TEXT, "column")
_EITHER = (*_RECORDS, "images")  # text or images, as the graph wants
# of those that suit the graph, the first that is there
KINDS: tuple[Kind, ...] = (
    Kind(
        "random",
        "random:N (N batches of random inputs)",
        ("length", "batch_size", "seed"),
        lambda s: s.startswith("random:"),
        reads=arrays.open_random,
    ),
    Kind(
        "python-docs",
        "python-docs (Python's own language reference)",
        _TEXT,
        lambda s: s == "python-docs",
        texts=text.docs,
    ),
    Kind(
        "dataset",
        "datasets:NAME[:split[:column]]",
        _EITHER,
        lambda s: s.startswith(records.PREFIX) or records.was_saved(s),
        texts=text.dataset,
        pictures=images.dataset,
    ),
    Kind(
        "function",
        "module:function or file.py:function (gives batches)",
        (),
        callables.fits,
        reads=callables.open_named,
    ),
    Kind("npz", ".npz files keyed by input names", ("batch_size",), suffixes=(".npz",), reads=arrays.open_npz),
    Kind(
        "jsonl",
        ".jsonl files with a field text",
        _RECORDS,
        suffixes=(".jsonl", ".jsonl.gz"),
        texts=text.rows_of(".jsonl", ".jsonl.gz"),
    ),
    Kind(
        "parquet",
        ".parquet files with a column text or image",
        _EITHER,
        suffixes=(".parquet",),
        texts=text.parquet,
        pictures=images.parquet,
    ),
    Kind("text", ".txt, .md or .rst files", _TEXT, suffixes=text.SUFFIXES, texts=text.plain),
    Kind(
        "csv",
        ".csv or .tsv files with a column text",
        _RECORDS,
        suffixes=(".csv", ".tsv"),
        texts=text.rows_of(".csv", ".tsv"),
    ),
    Kind(
        "json",
        "a .json file, a list of records with a field text",
        _RECORDS,
        suffixes=(".json",),
        texts=text.rows_of(".json"),
        alone=True,
    ),
    Kind(
        "images",
        "images (.jpg, .png, ...)",
        ("images", "batch_size"),
        suffixes=images.SUFFIXES,
        pictures=images.folder,
        inside=True,
    ),
)


def kinds_of(spec: str) -> list[Kind]:
    """The kinds of data that a spec may name: none, one, or several for a folder that holds several."""
    found = [kind for kind in KINDS if kind.holds(spec)]
    return found[:1] if found and found[0].named else found


def chosen(spec: str, known: Mapping[str, Input]) -> Kind | None:
    """The kind that a graph is fed: the first that suits it; where none does the first, whose reader says why."""
    found = kinds_of(spec)
    return next((kind for kind in found if kind.suits(known)), found[0] if found else None)


def passed_over(spec: str, kind: Kind) -> tuple[str, ...]:
    """A line about the files of other kinds in a folder, which are not read beside this one."""
    path = Path(spec)
    if kind.named or not path.is_dir():
        return ()
    known = [suffix for row in KINDS for suffix in row.suffixes if not row.alone]
    others: Counter[str] = Counter()
    for file in path.iterdir():
        suffix = next((s for s in known if ends(file, (s,))), None)
        if suffix is not None and suffix not in kind.suffixes and file.is_file():
            others[suffix] += 1
    if not others:
        return ()
    shown = ", ".join(f"{count} {suffix} file{'s' if count > 1 else ''}" for suffix, count in sorted(others.items()))
    verb = "is" if others.total() == 1 else "are"
    return (f"{shown} {verb} not read: {kind.looks_like} of the folder are; name a file to read that",)
