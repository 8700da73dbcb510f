"""Hold measured statistics against float64 NumPy on dumped activations.

    python -m tools.measured MODEL.onnx ...

For each file: tiny batches with padding through the probe (with second moments) and through a session whose outputs are
the activations; the largest relative difference of each statistic. Exit code 1 where one is above RELATIVE (MOMENT).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphclone import feeds, graph
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy, Norm
from graphclone.errors import BadData, GraphCloneError
from graphclone.graph import Model
from graphclone.statistics import run, written
from graphclone.statistics.assembly import show_sums
from graphclone.statistics.masks import Layout
from graphclone.statistics.moments import STEP
from graphclone.statistics.places import Keeping, first_pass, lay_out, second_pass
from graphclone.statistics.reductions import Place, is_sampled
from graphclone.statistics.runtime import PROVIDERS, open_session
from graphclone.statistics.soundness import UNSEEN
from graphclone.statistics.widening import needed, widened

Array = np.ndarray[Any, Any]
Sums = dict[str, dict[str, Array]]
RELATIVE = 1e-6  # of the sum of magnitudes, where terms may cancel
MOMENT = 4e-6  # a product sums hundreds of positions in float32, the same way round where an activation is constant
HALF = 2e-3  # ONNX Runtime's CPU computes half precision in float32, and rounds where it is looked at


def dump(model: Model, places: Sequence[Place], batch: Mapping[str, Array]) -> dict[str, Array]:
    """Every value that a place reads, float64, from a session whose outputs they are."""
    copy = widened(model) if needed(model) else model.copy()
    show_sums(copy, places)
    tensors = copy.graph.tensors()
    names = list(dict.fromkeys(value for place in places for value in place.values))
    outputs = []
    for number, name in enumerate(names):
        output = gs.Variable(f"dumped_{number}", np.float32)
        copy.graph.nodes.append(gs.Node("Cast", output.name, {"to": 1}, [tensors[name]], [output]))
        outputs.append(output)
    copy.graph.outputs = outputs
    session = open_session(copy, PROVIDERS["cpu"], 1)
    found = session.run(batch, "the dump")
    return {name: array.astype(np.float64) for name, array in zip(names, found, strict=True)}


def rows(value: Array, axis: int, width: int, layout: Layout, batch: Mapping[str, Array], step: int = 1) -> Array:
    """The positions that count, [positions, width]; every ``step``-th of each sequence."""
    if layout.mask is None:
        value = np.moveaxis(value, axis, -1)
        return np.asarray((value[:, ::step] if step > 1 else value).reshape(-1, width))
    mask = batch[layout.mask].astype(bool)
    if layout.flat:
        value = value.reshape(*mask.shape, *value.shape[1:])
    value = np.moveaxis(value, axis, -1)
    if step > 1:
        value, mask = value[:, ::step], mask[:, ::step]
    return np.asarray(value[mask.T if layout.turned else mask].reshape(-1, width))


def normalised(norm: Norm, x: Array) -> Array:
    """The norm's formula, gain and bias left out: LayerNormalization-17 and RMSNormalization-23 of ONNX."""
    centred = x - x.mean(-1, keepdims=True) if norm.kind == "LayerNorm" else x
    return np.asarray(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.epsilon))


def reference(place: Place, given: Sequence[Array], sampled: Array) -> dict[str, tuple[Array, Array]]:
    """By statistic its sum and the magnitude to compare by, from the rows of the place's values (``sampled``: those
    that second moments are of): the sum of its terms' magnitudes, of a second moment |a_i| |a_j|."""
    x = given[0]
    terms: dict[str, Array] = {}
    if place.kind == "block":
        tiny = np.finfo(np.float32).tiny  # a token that is zero has no direction: its cosine counts as 0
        before, after = (np.maximum(np.linalg.norm(v, axis=1, keepdims=True), tiny) for v in given)
        terms["cosine"] = (given[0] * given[1]).sum(1, keepdims=True) / (before * after)
        terms["ratio"] = np.linalg.norm(given[1] - given[0], axis=1, keepdims=True) / after
    elif place.kind == "kept":
        assert place.norm is not None
        kept = list(place.kept)
        n, k = normalised(place.norm, x)[:, kept], normalised(place.norm, x[:, kept])
        terms |= {"n": n, "k": k, "n_square": n * n, "k_square": k * k, "nk": n * k}
    else:
        if place.norm is not None:
            x = normalised(place.norm, x)
        terms |= {"abs": np.abs(x), "sum": x, "square": x * x}
    found = {name: (each.sum(0), np.abs(each).sum(0)) for name, each in terms.items()}
    if place.moment:
        lengths = np.linalg.norm(sampled, axis=0)  # an entry is small where two neurons have nothing in common
        found["moment"] = (sampled.T @ sampled, np.outer(lengths, lengths))
        found["moment_sum"] = (sampled.sum(0), np.abs(sampled).sum(0))
        found["moment_count"] = (np.array([len(sampled)], np.float64), np.ones(1))
    return found


def expected(model: Model, places: Sequence[Place], batches: Sequence[Mapping[str, Array]]) -> tuple[Sums, Sums]:
    """Sums and the magnitudes they are to be compared by, over all batches; counts among the sums."""
    sums: Sums = {}
    sizes: Sums = {}
    for batch in batches:
        values = dump(model, places, batch)
        for place in places:
            given = [
                rows(values[v], place.axis, place.width, layout, batch)
                for v, layout in zip(place.values, place.layouts, strict=True)
            ]
            layout = place.layouts[0]
            step = STEP if is_sampled(place, layout.rank) else 1
            sampled = rows(values[place.values[0]], place.axis, place.width, layout, batch, step)
            for name, (total, size) in reference(place, given, sampled).items():
                for into, array in ((sums, total), (sizes, size)):
                    held = into.setdefault(place.name, {})
                    held[name] = held[name] + array if name in held else array
            counted = sums[place.name].get("count", np.asarray(0))
            sums[place.name]["count"] = counted + len(given[0])
    return sums, sizes


def _made(name: str) -> bool:
    """Sums that are made of others: of a part of the batches, or with weights."""
    return name.startswith(UNSEEN) or name == written.NAME


def differences(found: Mapping[str, Mapping[str, Array]], sums: Sums, sizes: Sums) -> dict[str, float]:
    """The largest difference of each statistic, relative to its magnitudes. Raises ValueError for other counts."""
    if set(found) != set(sums):
        raise ValueError(f"measured {sorted(set(found) ^ set(sums))} on one side only")
    worst: dict[str, float] = {}
    for site, all_held in found.items():
        held = {name: array for name, array in all_held.items() if not _made(name)}
        if set(held) != set(sums[site]) or int(held["count"]) != int(sums[site]["count"]):
            raise ValueError(f"{site}: {sorted(held)} of {int(held['count'])}, not {int(sums[site]['count'])}")
        for name, size in sizes[site].items():
            floor = np.finfo(np.float32).tiny  # float32 has nothing below
            relative = np.abs(held[name] - sums[site][name]) / np.maximum(size, floor)
            largest = float(relative[size > floor].max(initial=0.0))
            worst[name] = max(worst.get(name, 0.0), largest if np.isfinite(largest) else np.inf)
    return worst


def first(model: Model, anatomy: Anatomy, batches: Sequence[Mapping[str, Array]], **options: Any) -> dict[str, float]:
    """Differences of the first pass with second moments, measured here on the CPU."""
    inner = [site.name for site in anatomy.sites if site.kind == "inner"]
    places = lay_out(model, first_pass(anatomy, inner), options.get("mask"))
    made = run.measure(model, anatomy, batches, provider="cpu", threads=1, moments=True, **options)
    return differences(made.sites, *expected(model, places, batches))


def kept(model: Model, anatomy: Anatomy, plan: Keeping, batches: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """Differences of the second pass."""
    places = lay_out(model, second_pass(anatomy, plan))
    made = run.measure_kept(model, anatomy, plan, batches, provider="cpu", threads=1)
    return differences(made.sites, *expected(model, places, batches))


def padded(model: Model, seeds: int = 2, *, left: bool = True) -> list[dict[str, Array]]:
    """Tiny batches with padding at the end of the second sequence and (``left``) at the start of the third."""
    made = []
    for seed in range(seeds):
        fed = feeds.tiny_feeds(model, 3, 17, seed=seed)
        for name, given in feeds.inputs(model).items():
            if given.role.name == "mask" and len(given.shape) == 2 and min(fed[name].shape) > 2:
                fed[name] = np.array(fed[name])
                fed[name][1, -7:] = 0
                fed[name][2, :3] = not left
        made.append(fed)
    return made


def _first(model: Model) -> dict[str, float]:
    anatomy = inspect(model)
    try:
        return first(model, anatomy, padded(model))
    except BadData:  # GroupQueryAttention takes no padding before a sequence
        return first(model, anatomy, padded(model, left=False))


def main(files: Sequence[str]) -> int:
    """Exit code 1 where a statistic is not what the activations say, or a file cannot be measured."""
    failed = False
    for file in files:
        try:
            model = graph.load(file)
            half = any(a.dtype.itemsize == 2 for a in model.constants().values())
            worst = _first(model)
        except (GraphCloneError, ValueError) as reason:
            failed = True
            print(f"{Path(file).name}: {type(reason).__name__}: {str(reason)[:200]}")
            continue
        allowed = {name: HALF if half else MOMENT if name == "moment" else RELATIVE for name in worst}
        wrong = any(value > allowed[name] for name, value in worst.items())
        failed |= wrong
        shown = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
        print(f"{Path(file).name}: {'WRONG ' if wrong else ''}{shown}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
