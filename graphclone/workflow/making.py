"""measure, clone, verify, pack: from the parent to a clone that has been examined."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphclone import outputs, pipeline, strict_json
from graphclone.errors import InvalidTarget
from graphclone.sizing import judges
from graphclone.sizing.budget import shard_bytes
from graphclone.statistics import request
from graphclone.workflow import planning
from graphclone.workflow.job import Done, Job
from graphclone.workflow.schema import Method, Target, Workflow

if TYPE_CHECKING:
    from graphclone.anatomy.parts import Anatomy
    from graphclone.verification import Report


def takes_moments(method: Method, target: Target) -> bool:
    """Whether second moments are measured: as the recipe says, else where the correction has use for them."""
    if method.moments is not None:
        return method.moments
    from graphclone import best

    return best.takes_moments(method.correction, planning.shape_of(target), budget=bool(target.budget))


def judged(workflow: Workflow) -> bool:
    """Whether anything is chosen by trying it on data that was not measured."""
    return any(t.budget or (t.method or workflow.method).depth == judges.GREEDY for t in workflow.family.values())


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
    asked = job.calibration(planning.data_of(job), moments=settings["moments"])
    parent, anatomy = job.opened.model, job.opened.anatomy
    _refuse_unreachable(job)
    source = request.open_data(parent, asked)
    for line in source.lines():
        job.say(line)
    checkpoint = request.checkpoint(out, resume=job.resume)
    others = judges.measured(source) if settings["apart"] else source
    with job.progress("measuring") as tick:
        held = request.calibrate(parent, anatomy, asked, tick, source=others, checkpoint=checkpoint)
    with outputs.staged(out) as draft:
        held.save(draft)
    checkpoint.remove()
    counts = {"tokens": held.count, "batches": held.batches, "sites": len(held.sites)}
    return Done({"stats": out}, {**counts, "providers": list(held.providers), "bytes": out.stat().st_size})


def _refuse_unreachable(job: Job) -> None:
    """Shapes that no measurement makes reachable are said before it, and nothing is measured for none but them."""
    faults = []
    for name, target in job.recipe.held.family.items():
        how = planning.how_of(target.method or job.recipe.held.method)
        try:
            if target.sizes or target.budget:
                pipeline.refuse_unreachable(job.opened.anatomy, planning.shape_of(target).whole, **how)
        except InvalidTarget as problem:
            faults.append(problem)
            job.say(f"{name}: will fail: {problem}")
    if len(faults) == len(job.recipe.held.family):
        raise faults[0]


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
        asked = job.calibration(planning.data_of(job))
        source = request.open_data(parent, asked)
        with job.progress("measuring what is kept") as tick:
            affine = pipeline.measure_kept(
                parent,
                chosen,
                judges.measured(source) if judged(job.recipe.held) else source,
                anatomy=anatomy,
                provider=asked.provider,
                threads=asked.threads,
                progress=tick,
                mask=asked.mask,
            )
    made = pipeline.clone(parent, chosen, held, anatomy=anatomy, affine=affine)
    out = job.folder / "clone.onnx"
    report = pipeline.save_verified(parent, made, out, chosen, shard_size=_shard(job))
    job.opened.reports[job.contents.of(out)] = report
    after = pipeline.inspect(pipeline.load(out))
    written = {"clone": out}
    tokens = vocabulary.planned_tokens(parent, anatomy, chosen, tokenizer=planning.tokenizer_of(job))
    if tokens is not None:
        written |= {path.name.split(".")[1]: path for path in vocabulary.write(tokens, out)}
    figures = {"parent": sizes(job.opened.path, anatomy), "clone": sizes(out, after)}
    return Done(written, figures)


def _shard(job: Job) -> int | None:
    asked = job.recipe.held.outputs.shard_size
    return None if asked is None else shard_bytes(asked)


def sizes(file: Path, anatomy: Anatomy) -> dict[str, Any]:
    """Parameters, bytes of all files, and shape."""
    model = pipeline.load(file)
    held = sum(part.stat().st_size for part in {file, *model.external_files})
    return {"parameters": anatomy.parameters, "bytes": held, "stacks": planning.stacks_of(anatomy)}


def verify(job: Job) -> Done:
    """The examination of the file as it lies there. Raises VerificationFailed."""
    file = job.found["clone"]
    report: Report = job.opened.reports.get(job.contents.of(file)) or pipeline.verify(
        job.opened.model, pipeline.load(file), pipeline.read_plan(job.found["plan"])
    )
    report.raise_if_failed()
    out = job.folder / "verification.json"
    planning.write_text(out, strict_json.dumps(report.to_dict()))
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
