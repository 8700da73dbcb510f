"""What does not fit into memory is not run, and the report says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphclone.verification import memory, verify
from graphclone.verification.report import Verdict


def group(folder: Path, names: tuple[str, str, str], limit: str, use: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(limit)
    (folder / names[1]).write_text(str(use))
    (folder / "memory.stat").write_text(f"anon 12\n{names[2]} {cache}\n")


NEW, OLD = ("memory.max", "memory.current", "inactive_file"), ("limit", "usage", "total_inactive_file")


@pytest.mark.parametrize(
    ("names", "line"), [(NEW, "0::/a/b"), (OLD, "3:cpu,memory:/a/b")], ids=["version 2", "version 1"]
)
@pytest.mark.parametrize("place", ["a/b", "."], ids=["of its own", "of a container"])
@pytest.mark.parametrize(("limit", "free"), [("5000", 5000 - 3000 + 1000), ("1500", 0), ("max", None)])
def test_memory_of_a_control_group(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, str, str],
    line: str,
    place: str,
    limit: str,
    free: int,
) -> None:
    (tmp_path / "cgroup").write_text(f"1:devices:/elsewhere\n{line}\n")
    group(tmp_path / place, names, limit, 3000, 1000)
    monkeypatch.setattr(memory, "OWN_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "GROUPS", {"" if names is NEW else "memory": (tmp_path, *names)})
    assert list(memory._of_groups()) == ([] if free is None else [free])


def test_memory_of_the_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text("MemTotal:  16 kB\nMemAvailable:    7 kB\n")
    assert list(memory._of_machine()) == [7 << 10]
    assert memory.available() <= 7 << 10


def test_what_does_not_fit_is_not_run(parent, make_clone, monkeypatch) -> None:
    clone = make_clone()
    assert verify(parent, clone).passed
    monkeypatch.setattr(memory, "available", lambda: 100)
    report = verify(parent, clone)
    skipped = {check.name: check for check in report.checks if check.verdict is Verdict.NOT_APPLICABLE}
    assert skipped.keys() >= {"loads in ONNX Runtime", "equals the zeroed parent"}
    assert not [name for name in skipped if name.startswith("runs at")]
    assert "GB of memory, and 0.0 GB are free" in skipped["equals the zeroed parent"].detail
    assert report.passed
    assert "weights are the parent's slices" in {check.name for check in report.checks if check.passed}


def test_where_nothing_is_known_everything_is_run(parent, monkeypatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: None)
    assert memory.too_large(parent) is None
