"""A run: every step that is not done already, one target failing leaves the others, and what is done stays done."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from graphclone.errors import BadModel, GraphCloneError, InvalidTarget, one_line
from graphclone.version import __version__
from graphclone.workflow.checking import parent_of
from graphclone.workflow.contents import Contents, digest_of
from graphclone.workflow.job import Done, Job, Opened, Progress, Say
from graphclone.workflow.reading import Recipe
from graphclone.workflow.record import Record, Row, State
from graphclone.workflow.schema import Target
from graphclone.workflow.steps import STEPS, Step

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
UNREADABLE = 5  # the exit code of a file that cannot be read or written


@dataclass(frozen=True)
class Watch:
    """Who is told. say: a line; progress: of one step."""

    say: Say
    progress: Progress


class TargetsFailed(GraphCloneError):
    """Some targets of a run failed; the others are done. ``exit_code`` is that of the first failure."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code


def run(recipe: Recipe, folder: Path, watch: Watch, *, command: str = "", refresh: bool = False) -> Record:
    """Do a recipe in a run folder, made where it is missing. What was done before, from the same contents by the same
    options, is reused; what was stopped is gone on with. refresh: the folder may be of another parent.

    The record says which steps failed, and why. Raises what concerns all of them: BadModel for a parent that is not
    there, InvalidTarget for a folder of another parent's run or one that another process is at.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as reason:
        raise BadModel(f"{folder}: cannot be a run's folder ({reason.strerror})") from None
    with _alone(folder):
        return _Run.start(recipe, folder, watch, command, refresh).all()


@dataclass
class _Run:
    """State of a run: the record so far, and the exit code of what failed first."""

    recipe: Recipe
    folder: Path
    watch: Watch
    record: Record
    contents: Contents
    opened: Opened
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def start(cls, recipe: Recipe, folder: Path, watch: Watch, command: str, refresh: bool) -> _Run:
        before = Record.read(folder)
        contents = Contents(dict(before.files) if before else {})
        parent = parent_of(recipe)
        sha256 = contents.of(parent)
        if before is not None and before.parent["sha256"] != sha256 and not refresh:
            raise InvalidTarget(
                f"{folder}: was made from another parent ({before.parent['path']}, sha256 "
                f"{before.parent['sha256'][:12]}; now {parent}, {sha256[:12]}): "
                "-o ANOTHER keeps it, --refresh replaces it"
            )
        held = {"path": str(parent), "sha256": sha256}
        settings = recipe.held.model_dump(mode="json", exclude_defaults=True)
        record = Record(recipe.name, settings, command, held, __version__, before.rows if before else ())
        return cls(recipe, folder, watch, record, contents, Opened(parent))

    def all(self) -> Record:
        """Every step of every target, in order."""
        shared, broken = self._steps(None, None, {}, [step for step in STEPS if step.shared])
        for name, target in self.recipe.held.family.items():
            (self.folder / name).mkdir(exist_ok=True)
            own = [step for step in STEPS if not step.shared]
            self._steps(name, target, dict(shared), own, broken)
        self.record = replace(self.record, rows=tuple(self.rows))
        self._write()
        return self.record

    def _steps(
        self,
        name: str | None,
        target: Target | None,
        found: dict[str, Path],
        steps: Sequence[Step],
        broken: str | None = None,
    ) -> tuple[dict[str, Path], str | None]:
        """What they wrote by role, and which failed."""
        for step in steps:
            job = self._job(name, target, found)
            if not step.wanted(job):
                continue
            if broken is not None:
                self._skip(step, name, broken)
                continue
            row = self._step(step, job)
            if row.state is State.FAILED:
                broken = step.name
            found |= {role: self.folder / path for role, path in row.outputs.items()}
        return found, broken

    def _job(self, name: str | None, target: Target | None, found: dict[str, Path]) -> Job:
        folder = self.folder if name is None else self.folder / name
        say = self.watch.say
        return Job(self.recipe, name, target, folder, dict(found), self.opened, self.contents, say, self.watch.progress)

    def _step(self, step: Step, job: Job) -> Row:
        """Reused, done or failed."""
        before = self.record.find(step.name, job.name)
        what = step.name if job.name is None else f"{job.name}: {step.name}"
        started = time.monotonic()
        row = Row(step.name, job.name, "", State.RUNNING)
        try:
            inputs = dict(step.inputs(job))
            row = replace(row, inputs={role: self._shown(path) for role, path in inputs.items()})
            row = replace(row, key=self._key(step, job, inputs))
            if before is not None and self._holds(before, row.key):
                self.watch.say(f"{what}: reused")
                return self._note(replace(before, state=State.DONE, reused=True, error=None, inputs=row.inputs))
            resume = before is not None and before.key == row.key and not before.contents
            left = self._left(step, job, keep=resume)
            self._note(row, keep=False)
            self.watch.say(f"{what}" + (": goes on where it was stopped" if left else ""))
            done = step.run(replace(job, resume=resume))
            row = self._finished(row, done, time.monotonic() - started)
        except (GraphCloneError, OSError, MemoryError, ImportError) as problem:
            error = one_line(problem) or type(problem).__name__
            self.watch.say(f"{what}: failed: {error}")
            seconds, code = time.monotonic() - started, getattr(problem, "exit_code", UNREADABLE)
            row = replace(row, state=State.FAILED, error=error, seconds=seconds, figures={"exit_code": code})
        return self._note(row)

    def _key(self, step: Step, job: Job, inputs: dict[str, Path]) -> str:
        for role, path in inputs.items():
            if not path.exists():
                raise BadModel(f"{role}: {path}: no such file")
        held = {role: self.contents.of(path) for role, path in inputs.items()}
        return digest_of([step.name, __version__, held, step.options(job)])

    def _holds(self, row: Row, key: str) -> bool:
        """Whether what a row says it wrote is there, unchanged, and was made so."""
        if row.key != key or not row.contents:
            return False
        paths = {path: self.folder / path for path in row.contents}
        try:
            return all(path.exists() and self.contents.of(path) == row.contents[name] for name, path in paths.items())
        except BadModel:  # cut short, or not a model any more
            return False

    def _left(self, step: Step, job: Job, *, keep: bool) -> bool:
        """Whether a step that was stopped left something to go on with; what is of another key is removed."""
        left = [file for name in step.partial for file in job.folder.glob(f"{name}.partial*")]
        if not keep:
            for file in left:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
        return keep and bool(left)

    def _finished(self, row: Row, done: Done, seconds: float) -> Row:
        paths = {role: self._shown(path) for role, path in done.outputs.items()}
        contents = {self._shown(path): self.contents.of(path) for path in done.outputs.values()}
        figures = dict(done.figures)
        return replace(
            row, state=State.DONE, outputs=paths, contents=contents, figures=figures, seconds=seconds, reused=False
        )

    def _skip(self, step: Step, name: str | None, broken: str) -> None:
        """What it wrote before stays its own, and is used again once the failure is mended."""
        before = self.record.find(step.name, name) or Row(step.name, name, "", State.SKIPPED)
        error = f"{broken} failed"
        self._note(replace(before, state=State.SKIPPED, reused=False, error=error))

    def _note(self, row: Row, *, keep: bool = True) -> Row:
        """On disk at once; ``keep``: it is this run's last word on the step."""
        self.record = self.record.noted(row)
        if keep:
            self.rows.append(row)
        if not row.reused:
            self._write()
        return row

    def _write(self) -> None:
        self.record = replace(self.record, files=dict(self.contents.seen))
        self.record.write(self.folder)

    def _shown(self, path: Path) -> str:
        """Relative to the run folder where it lies inside."""
        inside, top = path.resolve(), self.folder.resolve()
        return str(inside.relative_to(top)) if inside.is_relative_to(top) else str(inside)


def raise_if_failed(record: Record) -> None:
    """Raise TargetsFailed, in one line, where a step of a run failed."""
    failed = record.failures
    if not failed:
        return
    faults = [f"{row.target or 'all targets'}: {row.step}: {row.error}" for row in failed]
    lost = {row.target for row in record.rows if row.state is not State.DONE}
    done = [name for name in record.targets if name not in lost]
    others = f" ({', '.join(done)} {'is' if len(done) == 1 else 'are'} done)" if done else ""
    raise TargetsFailed(f"{'; '.join(faults)}{others}", int(failed[0].figures.get("exit_code", 1)))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One run at a time in a folder. Raises InvalidTarget; a process that was killed holds nothing."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidTarget(f"{folder}: another run is at it: wait for it, or give another folder (-o)") from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)
