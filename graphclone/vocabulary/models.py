"""The kinds of tokenizer models, one row each: what has to stay beside the tokens used, and what is written of it.

Text that gave only tokens that stay is cut into the same tokens by what is left:

- BPE merges the pair of lowest rank that stands in a word. Where the merges that made a token stay, and some others
  go, each step of a word made of such tokens finds the same lowest pair (Sennrich et al., arXiv 1508.07909).
- WordPiece takes the longest piece that fits: with fewer pieces the longest is the same where it stays. A word that
  ends as unknown stays unknown where the pieces taken before it failed stay too (Song et al., arXiv 2012.15524).
- Unigram takes the path of the best sum of scores, which is the best among fewer paths too (Kudo, arXiv 1804.10959). A
  character is unknown where it has no piece of its own, at the lowest score of all less ten: both stay.

Pieces of one character always stay, so that whatever could be spelled out still can.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from graphclone.errors import UnsupportedGraph

Spec = Mapping[str, Any]  # a tokenizer.json, or a part of it
Words = Iterable[str]


@dataclass(frozen=True)
class Kind:
    """``needs(model, tokens, lost)``: tokens to keep beside those used; lost: words that came out as unknown.

    ``cut(model, ids)``: the model with the tokens of ``ids`` (their new numbers) alone.
    """

    needs: Callable[[Spec, set[str], Words], set[str]]
    cut: Callable[[Spec, Mapping[str, int]], dict[str, Any]]


def kind_of(model: Spec, where: str) -> Kind:
    """The row of a tokenizer's model. Raises UnsupportedGraph for one without a row."""
    name = str(model.get("type") or ("BPE" if "merges" in model else None))
    if name not in KINDS:
        raise UnsupportedGraph(f"{where}: a tokenizer of type {name}: graphclone trims {', '.join(KINDS)}")
    return KINDS[name]


def pairs(model: Spec) -> list[tuple[str, str]]:
    """The merges of a BPE, by rank; older files write a pair as one string."""
    held = ((m.split(" ") if isinstance(m, str) else m) for m in model["merges"])
    return [(str(left), str(right)) for left, right in held]


def _bpe_needs(model: Spec, tokens: set[str], lost: Words) -> set[str]:
    """What each token is merged from; all characters, bytes and their fallbacks."""
    ranks = {pair: rank for rank, pair in enumerate(pairs(model))}
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    needed = {t for t in model["vocab"] if _single(t, prefix, suffix) or _is_byte(t)}
    for token in tokens:
        needed |= _merged(token, ranks, prefix, suffix)
    return (needed | _unknown(model)) & set(model["vocab"])


def _merged(token: str, ranks: Mapping[tuple[str, str], int], prefix: str, suffix: str) -> set[str]:
    """Everything met on the way to a token, as it stands at the start, inside or at the end of a word."""
    body = token.removesuffix(suffix) if suffix else token
    inside = bool(prefix) and body.startswith(prefix)
    letters = list(body.removeprefix(prefix) if inside else body)
    if not letters:
        return {token}
    parts = [c if k == 0 and not inside else prefix + c for k, c in enumerate(letters)]
    if suffix and token.endswith(suffix):
        parts[-1] += suffix
    met = {token, *parts}
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda k: ranks.get((parts[k], parts[k + 1]), len(ranks)))
        if (parts[best], parts[best + 1]) not in ranks:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1].removeprefix(prefix)]
        met.add(parts[best])
    return met


def _bpe_cut(model: Spec, ids: Mapping[str, int]) -> dict[str, Any]:
    prefix = model.get("continuing_subword_prefix") or ""
    held = [
        stored
        for stored, (left, right) in zip(model["merges"], pairs(model), strict=True)
        if left in ids and right in ids and left + right.removeprefix(prefix) in ids
    ]
    return {**model, "vocab": _numbered(model["vocab"], ids), "merges": held}


def _wordpiece_needs(model: Spec, tokens: set[str], lost: Words) -> set[str]:
    vocab, prefix = model["vocab"], model.get("continuing_subword_prefix") or ""
    needed = {t for t in vocab if _single(t, prefix, "")} | _unknown(model)
    for word in lost:
        needed |= _pieces(word, vocab, prefix, int(model.get("max_input_chars_per_word", 100)))
    return needed & set(vocab)


def _pieces(word: str, vocab: Mapping[str, int], prefix: str, longest: int) -> set[str]:
    """What the longest match takes of a word, up to where nothing fits."""
    taken: set[str] = set()
    start = 0
    while start < len(word) <= longest:
        ends = range(len(word), start, -1)
        found = next((e for e in ends if (prefix if start else "") + word[start:e] in vocab), None)
        if found is None:
            break
        taken.add((prefix if start else "") + word[start:found])
        start = found
    return taken


def _dictionary_cut(model: Spec, ids: Mapping[str, int]) -> dict[str, Any]:
    return {**model, "vocab": _numbered(model["vocab"], ids)}


def _word_needs(model: Spec, tokens: set[str], lost: Words) -> set[str]:
    return _unknown(model) & set(model["vocab"])


def _unigram_needs(model: Spec, tokens: set[str], lost: Words) -> set[str]:
    pieces = model["vocab"]
    needed = {t for t, _ in pieces if _single(t, "▁", "") or _is_byte(t)}
    if model.get("unk_id") is not None:
        needed.add(pieces[model["unk_id"]][0])
    return needed | {min(pieces, key=lambda piece: piece[1])[0]}


def _unigram_cut(model: Spec, ids: Mapping[str, int]) -> dict[str, Any]:
    unknown = model.get("unk_id")
    held = [piece for piece in model["vocab"] if piece[0] in ids]
    number = None if unknown is None else ids[model["vocab"][unknown][0]]
    return {**model, "vocab": held, "unk_id": number}


def _numbered(vocab: Mapping[str, int], ids: Mapping[str, int]) -> dict[str, int]:
    return {token: ids[token] for token in sorted(vocab, key=vocab.__getitem__) if token in ids}


def _single(token: str, prefix: str, suffix: str) -> bool:
    bare = token.removeprefix(prefix) if prefix else token
    return len(bare.removesuffix(suffix) if suffix else bare) <= 1


@lru_cache(maxsize=1)
def _byte_names() -> frozenset[str]:
    return frozenset(f"<0x{value:02X}>" for value in range(256))


def _is_byte(token: str) -> bool:
    return token in _byte_names()


def _unknown(model: Spec) -> set[str]:
    return {str(model["unk_token"])} if model.get("unk_token") is not None else set()


KINDS: Mapping[str, Kind] = {
    "BPE": Kind(_bpe_needs, _bpe_cut),
    "WordPiece": Kind(_wordpiece_needs, _dictionary_cut),
    "Unigram": Kind(_unigram_needs, _unigram_cut),
    "WordLevel": Kind(_word_needs, _dictionary_cut),
}


def read(text: str) -> dict[str, Any]:
    """A tokenizer.json as plain values."""
    held = json.loads(text)
    assert isinstance(held, dict)
    return held
