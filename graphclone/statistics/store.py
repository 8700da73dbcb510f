"""Statistics: sums over what a parent's activations were on data; they add up, and are saved as safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialise

from graphclone.anatomy.parts import Anatomy
from graphclone.errors import BadData, InvalidTarget, one_line
from graphclone.statistics.portion import Portion, joined
from graphclone.statistics.soundness import COUNT, refuse_impossible, refuse_odd_fields, refuse_other_widths

Array = np.ndarray[Any, Any]
FORMAT = 2
_KEY = "graphclone"  # one metadata entry holds everything as sorted JSON: safetensors does not keep an order of several
_FIELDS = {"format", "parent", "data", "batches", "providers", "settings"}


@dataclass(frozen=True)
class Statistics:
    """Sums over positions (tokens, patches) at each site of one parent; means are made when they are asked for, so that
    runs add up.

    parent: sha256 of the model. sites: site name -> statistic -> float64 sums ([width], moments [width, width]), and
    ``count``, int64 scalar, the positions summed. batches: how many were run; data: which of which data. providers:
    where ONNX Runtime ran. settings: what else has to be equal for two to add up (what was summed, by which version).
    """

    parent: str
    sites: Mapping[str, Mapping[str, Array]]
    batches: int
    data: tuple[Portion, ...]
    providers: tuple[str, ...] = ()
    settings: Mapping[str, str | int | bool] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Positions (tokens, patches) measured: the most that any site has."""
        return max((int(held[COUNT]) for held in self.sites.values()), default=0)

    def mean(self, site: str, statistic: str) -> Array:
        """float64, of the sum's shape: the mean over the positions that were summed: those of the site, or fewer where
        the statistic has a count of its own (``moment_count``). Raises BadData where there was no position."""
        count = self.positions(site, statistic)
        if count < 1:
            raise BadData(_nothing_counted(site))
        return np.asarray(self.sites[site][statistic] / count, dtype=np.float64)

    def positions(self, site: str, statistic: str) -> float:
        """How many positions a statistic sums over."""
        held = self.sites[site]
        return float(np.ravel(held.get(f"{statistic}_{COUNT}", held[COUNT]))[0])

    def refuse_uncounted(self) -> None:
        """Raises BadData where a site has no position: its sums are all 0, and say nothing."""
        for site, held in self.sites.items():
            if int(held[COUNT]) < 1:
                raise BadData(_nothing_counted(site))

    def merge(self, other: Statistics) -> Statistics:
        """The statistics of both runs together. Raises BadData for what does not add up, or has data in common."""
        self.refuse_unlike(other.parent, other.settings)
        if _layout(self) != _layout(other):
            raise BadData(f"statistics of different sites do not add up ({_differing(_layout(self), _layout(other))})")
        for one in self.data:
            for two in other.data:
                if one.overlaps(two):
                    both = str(one) if str(one) == str(two) else f"{one} and {two}"
                    raise BadData(f"data in both statistics would count twice: {both}")
        sites = {
            site: {name: held[name] + other.sites[site][name] for name in held} for site, held in self.sites.items()
        }
        return Statistics(
            self.parent,
            sites,
            self.batches + other.batches,
            joined(self.data + other.data),
            tuple(sorted({*self.providers, *other.providers})),
            self.settings,
        )

    def refuse_unlike(self, parent: str, settings: Mapping[str, str | int | bool]) -> None:
        """Raises BadData unless these are of that parent, measured with those settings."""
        if self.parent != parent:
            raise BadData(f"statistics of two parents do not add up (sha256 {self.parent[:12]} and {parent[:12]})")
        if dict(self.settings) != dict(settings):
            raise BadData(
                f"statistics of different settings do not add up ({_differing(self.settings, settings)}): measure again"
            )

    def refuse_unfit(self, anatomy: Anatomy) -> None:
        """Raises InvalidTarget for the statistics of another model, BadData for sums that are not of its sites."""
        self.refuse_other_parent(anatomy.fingerprint)
        refuse_other_widths(self.sites, anatomy)

    def refuse_other_parent(self, fingerprint: str) -> None:
        """Raises InvalidTarget where these are the statistics of another model."""
        if self.parent != fingerprint:
            raise InvalidTarget(
                f"the statistics are of another parent (sha256 {self.parent[:12]}, this one is {fingerprint[:12]}): "
                "measure this one"
            )

    def save(self, path: str | Path) -> None:
        """Write atomically; equal statistics give equal bytes. Raises BadData where the folder cannot be written."""
        path = Path(path)
        tensors = {f"{k}:{site}": np.asarray(held[k]) for site, held in self.sites.items() for k in held}  # counts too
        about = {
            "format": FORMAT,
            "parent": self.parent,
            "data": [portion.as_dict() for portion in self.data],
            "batches": self.batches,
            "providers": self.providers,
            "settings": dict(self.settings),
        }
        content = serialise(dict(sorted(tensors.items())), {_KEY: json.dumps(about, sort_keys=True)})
        scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with scratch.open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(scratch, path)
        except OSError as reason:
            raise BadData(f"{path}: cannot be written ({reason.strerror})") from None
        finally:
            scratch.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: str | Path) -> Statistics:
        """Raises BadData for a file that is missing, truncated, not statistics, or of an unknown format."""
        path = Path(path)
        if not path.is_file():
            raise BadData(f"{path}: no such file" if not path.exists() else f"{path}: a folder, not statistics")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
            about = json.loads(metadata.get(_KEY, "null"))
        except (SafetensorError, OSError, ValueError) as reason:
            why = one_line(reason)
            raise BadData(f"{path}: not statistics of graphclone, or truncated ({why})") from None
        if not isinstance(about, dict) or "format" not in about:
            raise BadData(f"{path}: a safetensors file, but not statistics of graphclone")
        if about["format"] != FORMAT:
            raise BadData(
                f"{path}: statistics of format {about['format']}, this graphclone reads {FORMAT}: measure again"
            )
        if set(about) != _FIELDS:
            raise BadData(f"{path}: statistics with the fields {', '.join(sorted(about))}, expected {sorted(_FIELDS)}")
        try:
            data = tuple(Portion.from_dict(held) for held in about["data"])
        except (ValueError, TypeError) as reason:
            raise BadData(f"{path}: statistics with unreadable {reason}") from None
        refuse_odd_fields(about, path)
        sites = _sites(tensors)
        refuse_impossible(sites, path)
        return cls(about["parent"], sites, about["batches"], data, tuple(about["providers"]), about["settings"])


def _nothing_counted(site: str) -> str:
    return (
        f"nothing was counted at the site {site}: every position of the data is masked (the attention mask, or the "
        "input that --mask names, is 0 everywhere)"
    )


def _layout(held: Statistics) -> dict[str, tuple[int, ...]]:
    return {f"{site} {name}": array.shape for site, sums in held.sites.items() for name, array in sums.items()}


def _differing(one: Mapping[str, object], other: Mapping[str, object]) -> str:
    """The first entry in which two mappings differ, both sides shown."""
    name = next(n for n in sorted({*one, *other}) if one.get(n) != other.get(n) or (n in one) != (n in other))
    return f"{name}: {one.get(name, 'nothing')} and {other.get(name, 'nothing')}"


def _sites(tensors: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    sites: dict[str, dict[str, Array]] = {}
    for key, array in tensors.items():
        statistic, _, site = key.partition(":")
        sites.setdefault(site, {})[statistic] = array
    return sites
