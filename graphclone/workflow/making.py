"""measure, plan, clone, verify, pack: from the parent to a clone that has been examined."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphclone import outputs, pipeline
from graphclone.errors import InvalidTarget
from graphclone.sizing.judges import GREEDY, apart
from graphclone.statistics import request
from graphclone.workflow.job import Done, Job
from graphclone.workflow.schema import Data, Method, Target, Workflow

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.plan import Plan
    from graphclone.statistics.store import Statistics
    from graphclone.target import Target as Shape
    from graphclone.verification import Report

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def takes_moments(method: Method, target: Target) -> bool:
    """Whether second moments are measured: as the recipe says, else where the correction has use for them."""
    if method.moments is not None:
        return method.moments
    from graphclone import best

    return best.takes_moments(method.correction, _shape(target), budget=bool(target.budget))


def judged(workflow: Workflow) -> bool:
    """Whether anything is chosen by trying it on data that was not measured."""
    return any(t.budget or (t.method or workflow.method).depth == GREEDY for t in workflow.family.values())


def measure_options(job: Job) -> dict[str, Any]:
    """What statistics depend on, beside the parent."""
    workflow = job.recipe.held
    moments = any(takes_moments(t.method or workflow.method, t) for t in workflow.family.values())
    provider = workflow.provider
    return {**job.drawn(workflow.data), "moments": moments, "apart": judged(workflow), "provider": provider}


def measure(job: Job) -> Done:
    """Statistics for all targets."""
    out = job.folder / "statistics.safetensors"
    settings = measure_options(job)
    asked = job.calibration(_data(job), moments=settings["moments"])
    parent, anatomy = job.opened.model, job.opened.anatomy
    _refuse_unreachable(job)
    source = request.open_data(parent, asked)
    for line in source.lines():
        job.say(line)
    checkpoint = request.checkpoint(out, resume=job.resume)
    with job.progress("measuring") as tick:
        if settings["apart"]:
            held = pipeline.measure(
                parent,
                apart(source)[1],
                anatomy=anatomy,
                provider=asked.provider,
                threads=asked.threads,
                progress=tick,
                mask=asked.mask,
                moments=asked.moments,
            )
        else:
            held = request.calibrate(parent, anatomy, asked, tick, source=source, checkpoint=checkpoint)
    with outputs.staged(out) as draft:
        held.save(draft)
    checkpoint.remove()
    counts = {"tokens": held.count, "batches": held.batches, "sites": len(held.sites)}
    return Done({"stats": out}, {**counts, "providers": list(held.providers), "bytes": out.stat().st_size})


def _refuse_unreachable(job: Job) -> None:
    """Shapes that no measurement makes reachable are said before it, and nothing is measured for none but them."""
    faults = []
    for name, target in job.recipe.held.family.items():
        how = _how(target.method or job.recipe.held.method)
        how["depth"] = "paper" if how["depth"] == GREEDY else how["depth"]
        try:
            if target.sizes:
                pipeline.refuse_unreachable(job.opened.anatomy, _shape(target), **how)
        except InvalidTarget as problem:
            faults.append(problem)
            job.say(f"{name}: will fail: {problem}")
    if len(faults) == len(job.recipe.held.family):
        raise faults[0]


def plan_options(job: Job) -> dict[str, Any]:
    """What a plan depends on, beside the parent and statistics."""
    target, workflow = job.wanted, job.recipe.held
    tried = job.drawn(workflow.data) if target.budget or job.method.depth == GREEDY else {}
    vocabulary = {"vocab": job.contents.of_data(job.data(target.vocab))} if target.vocab else {}
    asked = {**target.sizes, **target.budget}
    held_by = {"method": job.method.model_dump(), "provider": workflow.provider}
    return {"target": asked, **held_by, "tried": tried, **vocabulary, "beside": job.contents.beside(job.opened.path)}


def plan(job: Job) -> Done:
    """What is kept."""
    parent, anatomy = job.opened.model, job.opened.anatomy
    held = pipeline.read_statistics(job.found["stats"]) if "stats" in job.found else None
    shape, how = _shape(job.wanted), _how(job.method)
    kept = _chosen_tokens(job)
    if job.wanted.budget:
        made = _within(job, held, kept)
    else:
        if how["depth"] == GREEDY:
            shape, how = _greedy(job, held, shape), {**how, "depth": "paper"}
        made = pipeline.plan(anatomy, held, shape, **how, weights=parent.constants(), tokens=kept)
    out = job.folder / "plan.json"
    _write(out, made.to_json())
    after = {"parameters": pipeline.parameters(parent, made, anatomy=anatomy), "target": dict(made.target)}
    neurons = {name: len(kept) for name, kept in made.keep.items()}
    ranked = {"importance": made.importance, "method": made.method}
    before = {"parameters": anatomy.parameters, "stacks": _stacks(anatomy)}
    blocks = {stack: list(gone) for stack, gone in made.drop_blocks.items()}
    return Done({"plan": out}, {"parent": before, "clone": after, "neurons": neurons, "blocks": blocks, **ranked})


def _shape(target: Target) -> Shape:
    from graphclone.target import Target as Shape

    sizes: dict[str, Any] = {n: tuple(s) if isinstance(s, list) else s for n, s in target.sizes.items()}
    return Shape(**sizes)


def _how(method: Method) -> dict[str, str]:
    return {"importance": method.importance, "method": method.correction, "depth": method.depth}


def _chosen_tokens(job: Job) -> tuple[int, ...] | None:
    if job.wanted.vocab is None:
        return None
    from graphclone.vocabulary import choose_tokens

    side = job.recipe.held.outputs.side_files
    folder = job.path(side) if isinstance(side, str) else None
    spec = job.data(job.wanted.vocab)
    return tuple(
        choose_tokens(job.opened.model, job.opened.anatomy, spec, tokenizer=_tokenizer(job), folder=folder).kept
    )


def _tokenizer(job: Job) -> Path | None:
    data = job.recipe.held.data
    return job.path(data.tokenizer) if data and data.tokenizer else None


def _data(job: Job) -> Data:
    data = job.recipe.held.data
    if data is None:
        raise InvalidTarget("a budget of latency and depth: greedy are judged on data: give the recipe `data`")
    return data


def _judging(job: Job) -> list[Mapping[str, Any]]:
    return apart(request.open_data(job.opened.model, job.calibration(_data(job))))[0]


def _within(job: Job, held: Statistics | None, tokens: tuple[int, ...] | None) -> Plan:
    from graphclone.sizing.budget import Budget

    judges = _judging(job) if job.recipe.held.data else []
    found = pipeline.search(
        job.opened.model,
        held,
        Budget(**job.wanted.budget),
        anatomy=job.opened.anatomy,
        held_out=judges,
        tokens=tokens,
        clock=None,
        say=job.say,
        **_how(job.method),
    )
    return found.plan


def _greedy(job: Job, held: Statistics | None, shape: Shape) -> Shape:
    judges = _judging(job)
    if held is None or shape.layers is None:
        raise InvalidTarget("depth: greedy drops blocks one by one: give layers, and the recipe data")
    parent, anatomy = job.opened.model, job.opened.anatomy
    kept = pipeline.greedy_depth(parent, held, judges, shape.layers, anatomy=anatomy, say=job.say)
    return replace(shape, layers=None, keep_blocks=kept)


def clone_options(job: Job) -> dict[str, Any]:
    """What a clone depends on, beside the parent, its statistics and the plan."""
    return {**job.drawn(job.recipe.held.data), "shard_size": job.recipe.held.outputs.shard_size}


def clone(job: Job) -> Done:
    """The clone, examined before it gets its name; with fewer tokens its tokenizer too."""
    from graphclone import vocabulary

    parent, anatomy = job.opened.model, job.opened.anatomy
    chosen = pipeline.read_plan(job.found["plan"])
    held = pipeline.read_statistics(job.found["stats"]) if "stats" in job.found else None
    affine = None
    if held is not None and pipeline.takes_second_pass(anatomy, chosen):
        asked = job.calibration(_data(job))
        batches: Any = request.open_data(parent, asked)
        batches = apart(batches)[1] if judged(job.recipe.held) else batches
        with job.progress("measuring what is kept") as tick:
            affine = pipeline.measure_kept(
                parent, chosen, batches, anatomy=anatomy, provider=asked.provider, threads=asked.threads, progress=tick
            )
    made = pipeline.clone(parent, chosen, held, anatomy=anatomy, affine=affine)
    out = job.folder / "clone.onnx"
    report = pipeline.save_verified(parent, made, out, chosen, shard_size=_shard(job))
    job.opened.reports[job.contents.of(out)] = report
    after = pipeline.inspect(pipeline.load(out))
    written = {"clone": out}
    tokens = vocabulary.planned_tokens(parent, anatomy, chosen, tokenizer=_tokenizer(job))
    if tokens is not None:
        written |= {path.name.split(".")[1]: path for path in vocabulary.write(tokens, out)}
    figures = {"parent": sizes(job.opened.path, anatomy), "clone": sizes(out, after)}
    return Done(written, figures)


def _shard(job: Job) -> int | None:
    asked = job.recipe.held.outputs.shard_size
    if asked is None:
        return None
    number = asked.upper().rstrip("BGMK ")
    return int(float(number) * UNITS[asked.upper()[len(number) :].strip()])


def sizes(file: Path, anatomy: Anatomy) -> dict[str, Any]:
    """Parameters, bytes of all files, and shape."""
    model = pipeline.load(file)
    held = sum(part.stat().st_size for part in {file, *model.external_files})
    return {"parameters": anatomy.parameters, "bytes": held, "stacks": _stacks(anatomy)}


def _stacks(anatomy: Anatomy) -> list[dict[str, Any]]:
    from graphclone.anatomy.shapes import shape

    return [{"name": stack.name, **shape(stack)} for stack in anatomy.stacks]


def verify(job: Job) -> Done:
    """The examination of the file as it lies there. Raises VerificationFailed."""
    file = job.found["clone"]
    report: Report = job.opened.reports.get(job.contents.of(file)) or pipeline.verify(
        job.opened.model, pipeline.load(file), pipeline.read_plan(job.found["plan"])
    )
    report.raise_if_failed()
    out = job.folder / "verification.json"
    _write(out, json.dumps(report.to_dict(), sort_keys=True))
    return Done({"verification": out}, report.to_dict())


def pack(job: Job) -> Done:
    """Weights trained elsewhere, in the clone."""
    tensors = pipeline.read_tensors(job.path(str(job.wanted.pack)))
    out = job.folder / "packed.onnx"
    pipeline.save(pipeline.pack(pipeline.load(job.found["clone"]), tensors), out)
    return Done({"packed": out}, {"tensors": len(tensors)})


def pack_inputs(job: Job) -> dict[str, Path]:
    """The clone and the weights."""
    return {"clone": job.found["clone"], "weights": job.path(str(job.wanted.pack))}


def _write(path: Path, text: str) -> None:
    with outputs.staged(path) as draft:
        draft.write_text(text + "\n", encoding="utf-8")
