"""Numbers and names as the page says them."""

from __future__ import annotations

from collections.abc import Iterable

KILO = 1000.0
SIZES = ("B", "kB", "MB", "GB", "TB")
KINDS = {
    "residual": "channels of the stream",
    "ffn": "feed-forward neurons",
    "head": "heads",
    "kv_head": "key/value heads",
    "group": "queries of a KV head",
    "qk_dim": "query/key channels of a head",
    "v_dim": "value channels of a head",
    "tail": "channels outside the blocks",
}


def kind(name: str) -> str:
    """A kind of neurons in words; other names as they are."""
    return KINDS.get(name, name)


def count(value: object) -> str:
    """Whole numbers with commas, ``-`` for what there is not, lists with their ends.

    >>> count(1536), count(None), count([8, 8, 6])
    ('1,536', '-', '8, 8, 6')
    """
    if value is None:
        return "-"
    if isinstance(value, list | tuple):
        return ", ".join(f"{one:,}" for one in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def short(value: float) -> str:
    """Three digits and a letter.

    >>> short(134_515_008), short(950)
    ('135M', '950')
    """
    for letter in ("", "k", "M", "G"):
        if value < KILO:
            return f"{value:.3g}{letter}"
        value /= KILO
    return f"{value:.3g}T"


def size(value: float) -> str:
    """Bytes for people.

    >>> size(53_658_517), size(12)
    ('53.7 MB', '12 B')
    """
    for unit in SIZES[:-1]:
        if value < KILO:
            return f"{value:.3g} {unit}"
        value /= KILO
    return f"{value:.3g} {SIZES[-1]}"


def duration(seconds: float) -> str:
    """Three digits, in milliseconds or seconds.

    >>> duration(0.0223), duration(5.781)
    ('22.3 ms', '5.78 s')
    """
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * KILO:.3g} ms"


def ranges(numbers: Iterable[int]) -> str:
    """Neighbours as from-to.

    >>> ranges([5, 6, 7, 9])
    '5-7, 9'
    """
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
