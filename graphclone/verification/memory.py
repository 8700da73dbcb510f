"""May a model be run here, or would it not fit into memory?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import onnx_graphsurgeon as gs

from graphclone.graph import Model
from graphclone.recipes import held

COPIES = 2  # ONNX Runtime packs a second copy of what it multiplies by, in float32 where the processor has nothing less
WIDE = 4  # bytes of a float32
MEMINFO = Path("/proc/meminfo")
OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = {  # control groups, by the controller in OWN_GROUPS: where they lie, limit, use, cache that may go
    "": (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    "memory": (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def too_large(*models: Model) -> str | None:
    """Why these models are not run together, or None where they may be."""
    needed, free = sum(_needed(model) for model in models), available()
    if free is None or needed <= free:
        return None
    return f"not run: it takes about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"


def _needed(model: Model) -> int:
    constants = [t for t in model.graph.tensors().values() if isinstance(t, gs.Constant)]
    return sum(COPIES * held(t).size * max(t.dtype.itemsize, WIDE) for t in constants)


def available() -> int | None:
    """Bytes of memory that may be taken, None where the system does not say."""
    found = [*_of_machine(), *_of_groups()]
    return min(found) if found else None


def _of_machine() -> Iterator[int]:
    if MEMINFO.exists():
        rows = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines() if ":" in line)
        if "MemAvailable" in rows:
            yield int(rows["MemAvailable"].split()[0]) << 10
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _groups() -> Iterator[tuple[Path, str, str, str]]:
    """The groups that this process is in; those at the top are its own where it is in a container."""
    lines = OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        for name in controllers.split(","):
            if name in GROUPS:
                root, *files = GROUPS[name]
                yield from ((folder, files[0], files[1], files[2]) for folder in {root, root / path.lstrip("/")})


def _of_groups() -> Iterator[int]:
    for folder, limit, use, cache in _groups():
        with suppress(OSError, ValueError, KeyError):  # no such group, or no limit ("max")
            rows = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            taken = int((folder / use).read_text()) - int(rows[cache])
            yield max(int((folder / limit).read_text()) - taken, 0)
