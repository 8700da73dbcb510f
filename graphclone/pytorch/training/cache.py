"""Caches a teacher's outputs on disk: each row is looked up by what was fed, so shuffled batches are found again.

One safetensors file a batch that had to be run, under a folder named by the teacher and the data. Of logits over more
than FULL classes only the ``top`` likeliest are kept, as log-probabilities with their ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from graphclone.errors import BadData
from graphclone.outputs import staged
from graphclone.pytorch.training.batches import Array, rowed, rows_of

FULL = 1024  # classes up to which all logits are kept
ROWS = "rows"


@dataclass(frozen=True)
class Kept:
    """``output`` [row, ...]: logits, log-probabilities of the ids in ``top``, or embeddings; on the host."""

    output: torch.Tensor
    top: torch.Tensor | None


@dataclass
class Cache:
    """An open folder. top: how many of a large vocabulary's tokens are kept."""

    folder: Path
    top: int = 64
    places: dict[str, tuple[Path, int]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: str | Path, teacher: str, data: str, output: str, top: int = 64) -> Cache:
        """``teacher``: its sha256; ``data``: the fingerprint of what it is run on. Raises BadData for a broken file."""
        key = hashlib.sha256(json.dumps([teacher, data, output, top]).encode()).hexdigest()
        into = Path(folder) / f"{teacher[:12]}-{key[:12]}"
        into.mkdir(parents=True, exist_ok=True)
        made = cls(into, top)
        for file in sorted(into.glob("*.safetensors")):
            made._index(file)
        return made

    def _index(self, file: Path) -> None:
        try:
            with safe_open(file, "pt") as held:
                digests = json.loads((held.metadata() or {})[ROWS])
        except (SafetensorError, OSError, KeyError, ValueError) as reason:
            raise BadData(f"{file}: not what a teacher's cache holds ({reason}): delete it") from None
        self.places |= {digest: (file, row) for row, digest in enumerate(digests)}

    def read(self, feeds: Mapping[str, Array]) -> Kept | None:
        """Rows of a batch in its order, or None where one of them is not there."""
        digests = _digests(feeds)
        if any(digest not in self.places for digest in digests):
            return None
        places = [self.places[digest] for digest in digests]
        found: dict[str, list[torch.Tensor]] = {}
        for file in dict.fromkeys(file for file, _ in places):
            with safe_open(file, "pt") as held:
                for name in held.keys():  # noqa: SIM118  (no mapping)
                    whole = held.get_slice(name)
                    for k, (where, row) in enumerate(places):
                        if where == file:
                            found.setdefault(name, [torch.empty(0)] * len(places))[k] = whole[row : row + 1]
        return Kept(torch.cat(found["output"]), torch.cat(found["top"]) if "top" in found else None)

    def write(self, feeds: Mapping[str, Array], output: torch.Tensor, *, logits: bool) -> Kept:
        """Keep a batch; what comes back is what a later ``read`` will give."""
        kept = Kept(output.detach().cpu().contiguous(), None)
        if logits and output.shape[-1] > FULL:
            best = torch.log_softmax(output.float(), -1).topk(min(self.top, output.shape[-1]), -1)
            kept = Kept(best.values.cpu().contiguous(), best.indices.to(torch.int32).cpu().contiguous())
        digests = _digests(feeds)
        file = self.folder / f"{hashlib.sha256(''.join(digests).encode()).hexdigest()[:32]}.safetensors"
        held = {"output": kept.output} | ({} if kept.top is None else {"top": kept.top})
        with staged(file) as draft:
            save_file(held, draft, {ROWS: json.dumps(digests)})
        self.places |= {digest: (file, row) for row, digest in enumerate(digests)}
        return kept


def _digests(feeds: Mapping[str, Array]) -> list[str]:
    """One digest a row: of all that the row is fed, and of what the whole batch shares."""
    along = rowed(feeds)
    names = sorted(feeds)
    shared = hashlib.sha256()
    for name in names:
        array = feeds[name]
        shared.update(f"{name} {array.dtype} {array.shape[1:] if name in along else array.shape}".encode())
        if name not in along:
            shared.update(np.ascontiguousarray(array).tobytes())
    rows = []
    for row in range(rows_of(feeds)):
        digest = shared.copy()
        for name in names:
            if name in along:
                digest.update(np.ascontiguousarray(feeds[name][row]).tobytes())
        rows.append(digest.hexdigest()[:32])
    return rows
