"""plan: what is kept of the parent, by statistics or by trying."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphclone import folders, outputs, pipeline
from graphclone.errors import InvalidTarget
from graphclone.sizing.judges import GREEDY, judging
from graphclone.statistics import request
from graphclone.workflow.job import Done, Job
from graphclone.workflow.schema import Data, Method, Target

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.plan import Plan
    from graphclone.sizing.clock import Clock
    from graphclone.statistics.store import Statistics
    from graphclone.target import Target as Shape


def plan_options(job: Job) -> dict[str, Any]:
    """What a plan depends on, beside the parent and statistics."""
    target, workflow = job.wanted, job.recipe.held
    tried = job.drawn(workflow.data) if target.budget or job.method.depth == GREEDY else {}
    vocabulary = _vocabulary_options(job) if target.vocab else {}
    asked = {**target.sizes, **target.budget}
    held_by: dict[str, Any] = {"method": job.method.model_dump(), "provider": workflow.provider}
    if target.latency is not None:
        held_by["threads"] = workflow.threads
    return {"target": asked, **held_by, "tried": tried, **vocabulary, "beside": job.contents.beside(job.opened.path)}


def _vocabulary_options(job: Job) -> dict[str, Any]:
    """What the tokens that stay are chosen by, beside the parent's own files."""
    tokenizer, side = tokenizer_of(job), job.side_folder
    return {
        "vocab": job.contents.of_data(job.data(str(job.wanted.vocab))),
        "tokenizer": job.contents.of(tokenizer) if tokenizer and tokenizer.is_file() else "",
        "column": _column(job),
        "configured": job.contents.named([side / name for name in folders.CONFIGURATIONS], side) if side else {},
    }


def plan(job: Job) -> Done:
    """What is kept."""
    parent, anatomy = job.opened.model, job.opened.anatomy
    held = pipeline.read_statistics(job.found["stats"]) if "stats" in job.found else None
    shape, how = shape_of(job.wanted), how_of(job.method)
    kept = _chosen_tokens(job)
    if job.wanted.budget:
        made = _within(job, held, kept)
    else:
        if how["depth"] == GREEDY:
            shape, how = _greedy(job, held, shape), {**how, "depth": "paper"}
        made = pipeline.plan(anatomy, held, shape, **how, weights=parent.constants(), tokens=kept)
    out = job.folder / "plan.json"
    write_text(out, made.to_json())
    after = {"parameters": pipeline.parameters(parent, made, anatomy=anatomy), "target": dict(made.target)}
    neurons = {name: len(kept) for name, kept in made.keep.items()}
    ranked = {"importance": made.importance, "method": made.method}
    before = {"parameters": anatomy.parameters, "stacks": stacks_of(anatomy)}
    blocks = {stack: list(gone) for stack, gone in made.drop_blocks.items()}
    return Done({"plan": out}, {"parent": before, "clone": after, "neurons": neurons, "blocks": blocks, **ranked})


def shape_of(target: Target) -> Shape:
    """The sizes that a target asks for."""
    from graphclone.target import Target as Shape

    sizes: dict[str, Any] = {n: tuple(s) if isinstance(s, list) else s for n, s in target.sizes.items()}
    return Shape(**sizes)


def how_of(method: Method) -> dict[str, str]:
    """As ``pipeline.plan`` takes it."""
    return {"importance": method.importance, "method": method.correction, "depth": method.depth}


def _chosen_tokens(job: Job) -> tuple[int, ...] | None:
    if job.wanted.vocab is None:
        return None
    from graphclone.vocabulary import choose_tokens

    spec = job.data(job.wanted.vocab)
    read: dict[str, Any] = {"tokenizer": tokenizer_of(job), "column": _column(job), "folder": job.side_folder}
    return choose_tokens(job.opened.model, job.opened.anatomy, spec, **read).kept


def _column(job: Job) -> str | None:
    """The field of records that holds text, of the recipe's data and of a vocabulary's."""
    held = job.recipe.held.data
    return held.column if held else None


def tokenizer_of(job: Job) -> Path | None:
    """The one that the recipe names for its data."""
    held = job.recipe.held.data
    return job.path(held.tokenizer) if held and held.tokenizer else None


def data_of(job: Job) -> Data:
    """What is measured on. Raises InvalidTarget where the recipe has none."""
    held = job.recipe.held.data
    if held is None:
        raise InvalidTarget("a budget of latency and depth: greedy are judged on data: give the recipe `data`")
    return held


def _judging(job: Job) -> list[Mapping[str, Any]]:
    return judging(request.open_data(job.opened.model, job.calibration(data_of(job))))


def _within(job: Job, held: Statistics | None, tokens: tuple[int, ...] | None) -> Plan:
    from graphclone.sizing.budget import Budget

    judges = _judging(job) if job.recipe.held.data else []
    found = pipeline.search(
        job.opened.model,
        held,
        Budget(**job.wanted.budget),
        anatomy=job.opened.anatomy,
        held_out=judges,
        mask=job.recipe.held.data.mask if job.recipe.held.data else None,
        tokens=tokens,
        clock=_clock(job),
        say=job.say,
        **how_of(job.method),
    )
    return found.plan


def _clock(job: Job) -> Clock:
    """The run that latency is of: where and with as many threads as the recipe says."""
    from graphclone.sizing.clock import Clock

    return Clock(provider=job.recipe.held.provider, threads=job.recipe.held.threads)


def _greedy(job: Job, held: Statistics | None, shape: Shape) -> Shape:
    judges = _judging(job)
    if held is None or shape.layers is None:
        raise InvalidTarget("depth: greedy drops blocks one by one: give layers, and the recipe data")
    parent, anatomy, mask = job.opened.model, job.opened.anatomy, data_of(job).mask
    kept = pipeline.greedy_depth(parent, held, judges, shape.layers, anatomy=anatomy, say=job.say, mask=mask)
    return replace(shape, layers=None, keep_blocks=kept)


def stacks_of(anatomy: Anatomy) -> list[dict[str, Any]]:
    """For the record: every stack's name and sizes."""
    from graphclone.anatomy.shapes import shape

    return [{"name": stack.name, **shape(stack)} for stack in anatomy.stacks]


def write_text(path: Path, text: str) -> None:
    """A line in a file of its own."""
    with outputs.staged(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
