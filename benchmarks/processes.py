"""A command in a process of its own: how long it took, and how much memory it held at most."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CGROUPS = {  # by their controller in /proc/self/cgroup: where they lie, file of the limit
    "memory": (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    "": (Path("/sys/fs/cgroup"), "memory.max"),
}


@dataclass(frozen=True)
class Run:
    """seconds of wall time; peak: largest resident memory in bytes, pages of mapped files included."""

    seconds: float
    peak: int
    output: str


@dataclass(frozen=True)
class Limit:
    """A bound on memory: ``how`` it is held, in words; ``group``: the control group, where there is one."""

    size: int
    how: str
    group: Path | None = None

    def enter(self) -> None:
        """Called in the child, before it becomes the command."""
        if self.group is not None:
            (self.group / "cgroup.procs").write_text(str(os.getpid()))
        else:
            resource.setrlimit(resource.RLIMIT_DATA, (self.size, self.size))


def _own_groups() -> Iterator[tuple[Path, str]]:
    table = Path("/proc/self/cgroup")
    for line in table.read_text().splitlines() if table.exists() else ():
        _, controllers, path = line.split(":", 2)
        for controller in set(controllers.split(",")) & CGROUPS.keys():
            root, name = CGROUPS[controller]
            yield root / path.lstrip("/"), name


@contextmanager
def limited(size: int) -> Iterator[Limit]:
    """A control group where one may be made inside this process's own, which bounds the page cache too; else a limit on
    the child's own data."""
    for own, name in _own_groups():
        group = own / f"graphclone-{os.getpid()}"
        try:
            group.mkdir()
            (group / name).write_text(str(size))
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        try:
            yield Limit(size, f"control group ({name}), page cache included", group)
        finally:
            with suppress(OSError):
                group.rmdir()
        return
    yield Limit(size, "RLIMIT_DATA, page cache not included")


def run(command: Sequence[str], limit: Limit | None = None) -> Run:
    """Run a command to its end. Raises RuntimeError with what it said where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as told:
        start = time.perf_counter()
        before = limit.enter if limit else None  # no other thread runs here when the child is made
        child = subprocess.Popen(list(command), stdout=told, stderr=told, env=environment, preexec_fn=before)  # noqa: PLW1509
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        said = told.read()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} ... ended with {child.returncode}: {said.strip()[-500:]}")
    return Run(seconds, usage.ru_maxrss << 10, said)


def forget(*files: Path) -> None:
    """Drop files from the system's cache, so that the next to read them reads the disk."""
    for file in files:
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": sys.version.split()[0],
        "load": [round(number, 1) for number in os.getloadavg()],
    }
