"""bench and check: the finished clone beside its parent, and against what it has to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphclone import strict_json
from graphclone.errors import VerificationFailed
from graphclone.outputs import staged
from graphclone.workflow.job import PARENT, Done, Job
from graphclone.workflow.schema import Bench


def inputs(job: Job) -> dict[str, Path]:
    """The finished clone and its parent."""
    return {PARENT: job.opened.path, "clone": job.final}


def bench_options(job: Job) -> dict[str, Any]:
    """What timings depend on, beside the files: the machine too."""
    from graphclone.timing.machine import processor

    held = job.recipe.held
    asked = (held.bench or Bench()).model_dump()
    return {**asked, "provider": held.provider, "threads": held.threads, "machine": processor()}


def bench(job: Job) -> Done:
    """Timings."""
    from graphclone.timing.bench import bench as time_both

    with job.progress("timing") as tick:
        found = time_both(job.opened.path, job.final, **_timing(job), progress=tick)
    out = job.folder / "bench.json"
    _write(out, found.as_dict())
    return Done({"bench": out}, found.as_dict())


def _timing(job: Job) -> dict[str, Any]:
    held = job.recipe.held
    return {**(held.bench or Bench()).model_dump(), "provider": held.provider, "threads": held.threads}


def check_options(job: Job) -> dict[str, Any]:
    """The limits; the source of a score; what timings depend on, where time is limited."""
    asked = _limits(job)
    timed = bench_options(job) if asked["max_latency_ratio"] is not None else {}
    score = (asked["min_score"] or "").partition("=")[0]
    return {**asked, "timed": timed, "score": job.contents.of_data(score) if score else ""}


def check(job: Job) -> Done:
    """The gates. Raises VerificationFailed where one is not met."""
    from graphclone import gates

    report = gates.examine(job.final, gates.Limits(**_limits(job)), job.opened.path, timing=_timing(job))
    told = {".json": strict_json.dumps(report.to_dict()) + "\n", ".xml": gates.junit(report, str(job.name))}
    for suffix, text in told.items():
        with staged(job.folder / f"check{suffix}") as draft:
            draft.write_text(text, encoding="utf-8")
    if not report.passed:
        raise VerificationFailed("; ".join(f"{fault.name}: {fault.detail}" for fault in report.failures))
    held = {"passed": report.passed, "gates": report.to_dict()["checks"]}
    return Done({"check": job.folder / "check.json", "junit": job.folder / "check.xml"}, held)


def _limits(job: Job) -> dict[str, Any]:
    assert job.check is not None
    held = job.check.model_dump()
    score = held["min_score"]
    if score:
        spec, equals, least = score.partition("=")
        held["min_score"] = f"{job.data(spec)}{equals}{least}"
    return held


def _write(path: Path, held: dict[str, Any]) -> None:
    with staged(path) as draft:
        draft.write_text(strict_json.dumps(held) + "\n", encoding="utf-8")
