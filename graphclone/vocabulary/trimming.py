"""A tokenizer.json with fewer tokens: its model by its kind, and every other place that holds a token's number.

Format: the tokenizers library's (huggingface.co/docs/tokenizers), read and written as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from graphclone.errors import UnsupportedGraph, one_line
from graphclone.vocabulary.models import kind_of

PAIRS = ("sep", "cls")  # of BertProcessing and RobertaProcessing: [token, id]


def trim(spec: Mapping[str, Any], numbers: Mapping[int, int], names: Mapping[str, int], where: str) -> dict[str, Any]:
    """The tokenizer of the kept tokens alone. numbers: old id -> new id. names: every token's old id.

    Raises UnsupportedGraph for a tokenizer whose numbers cannot be changed so.
    """
    ids = {token: numbers[old] for token, old in names.items() if old in numbers}
    held = dict(spec)
    held["model"] = kind_of(spec["model"], where).cut(spec["model"], ids)
    added = (entry for entry in spec.get("added_tokens") or () if entry["content"] in ids)
    held["added_tokens"] = sorted(({**e, "id": ids[e["content"]]} for e in added), key=lambda e: int(e["id"]))
    if spec.get("post_processor"):
        held["post_processor"] = _processor(spec["post_processor"], ids, where)
    if (padding := spec.get("padding")) is not None:
        if padding["pad_token"] not in ids:
            raise UnsupportedGraph(f"{where}: pads with {padding['pad_token']!r}, which is no token of its own")
        held["padding"] = {**padding, "pad_id": ids[padding["pad_token"]]}
    _examine(held, ids, where)
    return held


def _processor(spec: Mapping[str, Any], ids: Mapping[str, int], where: str) -> dict[str, Any]:
    """What puts special tokens around a text."""
    held = dict(spec)
    if "processors" in spec:
        held["processors"] = [_processor(part, ids, where) for part in spec["processors"]]
    try:
        if isinstance(spec.get("special_tokens"), Mapping):
            held["special_tokens"] = {
                name: {**entry, "ids": [ids[token] for token in entry["tokens"]]}
                for name, entry in spec["special_tokens"].items()
            }
        for key in PAIRS:
            if key in spec:
                held[key] = [spec[key][0], ids[spec[key][0]]]
    except KeyError as missing:
        raise UnsupportedGraph(f"{where}: puts {missing} around texts, which is no token of its own") from None
    return held


def _examine(held: Mapping[str, Any], ids: Mapping[str, int], where: str) -> None:
    """The library gives numbers by its own rules: they have to be those that the clone's rows have."""
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_str(json.dumps(held)).get_vocab(with_added_tokens=True)
    except Exception as reason:  # noqa: BLE001  (tokenizers raises bare exceptions)
        why = one_line(reason, 200)
        raise UnsupportedGraph(f"{where}: with fewer tokens it is no longer read ({why})") from None
    if wrong := sorted(token for token in found.keys() | ids.keys() if found.get(token) != ids.get(token)):
        raise UnsupportedGraph(
            f"{where}: would number {wrong[0]!r} {found.get(wrong[0])}, where the clone has it at {ids.get(wrong[0])}: "
            f"its ids have gaps that cannot be closed"
        )
