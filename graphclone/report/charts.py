"""Facts as Vega-Lite charts, by Altair. Nothing depends on hue alone: what is dropped is hatched, arms differ in dash
and shape, maps in lightness.

Colours are names of the page's own (``--accent``): its script puts the values of the theme in use in their place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np

from graphclone.report.curves import thinned
from graphclone.report.facts import Curve, Influence, Map, Part, Sheet
from graphclone.report.words import duration

Spec = dict[str, Any]
Rows = list[dict[str, Any]]
INK, ACCENT, SOFT, HATCH, SECOND = "--ink", "--accent", "--soft", "--hatch", "--second"
HEAT = [f"--heat-{k}" for k in range(6)]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]
SHAPES = ["circle", "square", "triangle-up", "diamond"]
ARMS = [ACCENT, SECOND, INK, "--third"]
CELLS = 40_000  # of all maps together: the page stays small
COLUMNS = 192
SPAN = 16  # a map's darkest is as many times the mean
HEIGHT = 190
MOST_LABELS = 12  # of blocks: as many fit on a phone
LEGEND = alt.Legend(orient="top", title=None, symbolType="square", symbolSize=120, direction="horizontal", columns=2)


def _spec(layers: Sequence[alt.Chart], data: Mapping[str, Rows], height: int = HEIGHT) -> Spec:
    """As wide as its place on the page. The data joins it here: Altair would check every number against a schema."""
    sized = alt.LayerChart(layer=list(layers)).properties(width="container", height=height)
    return {**sized.to_dict(), "datasets": dict(data)}


def parts(rows: Sequence[Part], kind: str, unit: str, *, clone: bool) -> Spec | None:
    """Heads or neurons of each block: solid what is kept, hatched what is dropped."""
    chosen = [part for part in rows if part.kind == kind]
    if not chosen:
        return None
    values: Rows = []
    for part in chosen:
        where = {"block": part.block, "of": f"{part.kept:,} of {part.found:,} {unit}"}
        values.append({**where, "from": 0, "to": part.kept, "state": "kept" if clone else "in the parent"})
        if part.found > part.kept:
            values.append({**where, "from": part.kept, "to": part.found, "state": "dropped"})
    return _spec([_bars(values, unit, "kept" if clone else "in the parent", "of")], {"bars": values})


def _bars(values: Rows, title: str, solid: str, said: str) -> alt.Chart:
    there = [state for state in (solid, "dropped") if any(row["state"] == state for row in values)]
    colours = {solid: ACCENT, "dropped": HATCH}
    legend = LEGEND if len(there) > 1 else None
    made: alt.Chart = (
        alt.Chart(alt.NamedData("bars"))
        .mark_bar(stroke=ACCENT, strokeWidth=0.6)
        .encode(
            x=_blocks([row["block"] for row in values]),
            y=alt.Y("from:Q", title=title),
            y2=alt.Y2("to:Q"),
            fill=alt.Fill(
                "state:N", scale=alt.Scale(domain=there, range=[colours[state] for state in there]), legend=legend
            ),
            tooltip=[
                alt.Tooltip("block:O"),
                alt.Tooltip(f"{said}:N", title="kept" if solid == "kept" else "there are"),
            ],
        )
    )
    return made


def _blocks(numbers: Sequence[int]) -> alt.X:
    """Blocks side by side, every one or every fifth by its number."""
    there = sorted(set(numbers))
    step = next(k for k in (1, 5, 10, 25, 1000) if len(there) <= k * MOST_LABELS)
    shown = [number for number in there if number % step == 0]
    return alt.X("block:O", axis=alt.Axis(title="block", labelAngle=0, values=shown, ticks=False))


def influence(rows: Sequence[Influence], dropped: Iterable[int]) -> Spec | None:
    """How much each block changes the stream; the blocks that a clone leaves out are hatched."""
    if not rows:
        return None
    gone = frozenset(dropped)
    solid = "kept" if gone else "in the parent"
    values: Rows = [
        {
            "block": row.block,
            "from": 0,
            "to": row.value,
            "said": f"{row.value:.4f}",
            "state": "dropped" if row.block in gone else solid,
        }
        for row in rows
    ]
    return _spec([_bars(values, "1 - cos(entry, exit)", solid, "said")], {"bars": values})


def shares(rows: Sequence[Part]) -> Spec | None:
    """Neurons kept of each block's feed-forward, as bars, and the importance that these carry, as diamonds."""
    known = [p for p in rows if p.kind == "feed-forward" and p.share is not None and 0 < p.kept < p.found]
    if not known:
        return None
    values: Rows = [
        {"block": p.block, "what": what, "share": value}
        for p in known
        for what, value in (("neurons kept", p.kept / p.found), ("importance kept", p.share))
    ]
    names = ["neurons kept", "importance kept"]
    base = alt.Chart(alt.NamedData("shares")).encode(
        x=_blocks([row["block"] for row in values]),
        y=alt.Y("share:Q", title=None, axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1])),
        tooltip=[alt.Tooltip("block:O"), alt.Tooltip("what:N"), alt.Tooltip("share:Q", format=".1%")],
    )
    points = base.mark_point(filled=True, size=55, opacity=1).encode(
        shape=alt.Shape("what:N", scale=alt.Scale(domain=names, range=["square", "diamond"]), legend=_symbols()),
        color=alt.Color("what:N", scale=alt.Scale(domain=names, range=[SOFT, ACCENT]), legend=_symbols()),
    )
    stems = base.mark_line(color=INK, strokeWidth=1, opacity=0.5).encode(detail="block:O")
    return _spec([stems, points], {"shares": values})


def _symbols() -> alt.Legend:
    return alt.Legend(orient="top", title=None, direction="horizontal", columns=2, symbolSize=90, symbolStrokeWidth=2)


def heat(one: Map, columns: int) -> Spec:
    """Lightness by importance over the mean of the row, on a logarithmic scale; a tick where a clone's cut lies."""
    values, cuts = _cells(one, columns)
    order = [_short(label) for label in one.rows]
    height = int(np.clip(len(order) * (11 if len(order) > 20 else 24), 60, 420))
    width = max(scores.size for scores in one.rows.values())
    across = "neurons of each row, most important first" if one.falling else f"{one.neurons}, in one order for all rows"
    y = alt.Y("row:N", sort=order, axis=alt.Axis(title=None, labelOverlap="greedy", labelLimit=84, ticks=False))
    columns_axis = alt.Axis(title=across, grid=False, tickCount=6)
    scale = alt.Scale(type="log", base=2, domain=[1 / SPAN, SPAN], range=HEAT, clamp=True)
    cells = (
        alt.Chart(alt.NamedData("cells"))
        .mark_rect(strokeWidth=0.7, stroke=alt.expr("scale('fill', datum.v)"))  # no seams between cells
        .encode(
            x=alt.X("a:Q", scale=alt.Scale(domain=[0, width], nice=False), axis=columns_axis),
            x2=alt.X2("b:Q"),
            y=y,
            fill=alt.Fill("v:Q", scale=scale, legend=_heat_legend()),
            tooltip=[
                alt.Tooltip("row:N", title="where"),
                alt.Tooltip("a:Q", title="from"),
                alt.Tooltip("b:Q", title="to"),
                alt.Tooltip("v:Q", title="times the mean", format=".2f"),
            ],
        )
    )  # fmt: skip
    if not cuts:
        return _spec([cells], {"cells": values}, height)
    ticks = (
        alt.Chart(alt.NamedData("cuts"))
        .mark_tick(orient="vertical", thickness=2.5, color=SECOND, opacity=1)
        .encode(
            x=alt.X("x:Q"),
            y=y,
            tooltip=[alt.Tooltip("row:N", title="where"), alt.Tooltip("clone:N"), alt.Tooltip("x:Q", title="keeps")],
        )
    )
    clones = {row["clone"]: row for row in reversed(cuts)}  # the topmost tick of each
    named = (
        alt.Chart(alt.NamedData("named"))
        .mark_text(dy=-13, color=INK, fontWeight="bold")
        .encode(x=alt.X("x:Q"), y=y, text=alt.Text("clone:N"))
    )
    layers = [cells, ticks, named] if len(clones) > 1 else [cells, ticks]
    return _spec(layers, {"cells": values, "cuts": cuts, "named": [*clones.values()]}, height)


def _heat_legend() -> alt.Legend:
    return alt.Legend(
        orient="top",
        title="times the row's mean",
        values=[1 / SPAN, 1, SPAN],
        labelExpr=f"datum.value < 1 ? '1/{SPAN} or less' : datum.value > 1 ? '{SPAN} or more' : '1'",
        gradientThickness=9,
        gradientLength=240,
        titleOrient="top",
    )


def columns_for(maps: Sequence[Map]) -> int:
    """How many columns a map may have, so that all of them together stay within ``CELLS``."""
    rows = sum(len(one.rows) for one in maps)
    return int(np.clip(CELLS // max(rows, 1), 24, COLUMNS))


def _cells(one: Map, columns: int) -> tuple[Rows, Rows]:
    values: Rows = []
    cuts: Rows = []
    for number, (label, scores) in enumerate(one.rows.items()):
        mean = float(np.abs(scores).mean()) or 1.0
        bounds = np.unique(np.linspace(0, scores.size, min(columns, scores.size) + 1).round().astype(int))
        for a, b in pairwise(bounds):
            value = float(np.clip(scores[a:b].mean() / mean, 1 / SPAN, SPAN))
            values.append({"row": _short(label), "a": int(a), "b": int(b), "v": round(value, 3)})
        for clone, kept in one.cuts.items():
            if kept[number] is not None:
                cuts.append({"row": _short(label), "clone": clone, "x": kept[number]})
    return values, cuts


def _short(label: str) -> str:
    return label.replace("blocks.", "")


def latency(sheets: Sequence[Sheet]) -> Spec | None:
    """Medians with their quartiles, by length of the sequences."""
    timed = [sheet for sheet in sheets if sheet.timings]
    if not timed:
        return None
    values: Rows = [
        {
            "model": sheet.name,
            "length": "fixed" if t.length is None else f"{t.length} tokens",
            "ms": t.median * 1e3,
            "low": t.low * 1e3,
            "high": t.high * 1e3,
            "said": duration(t.median),
        }
        for sheet in timed
        for t in sheet.timings
    ]
    names, lengths = [sheet.name for sheet in timed], list(dict.fromkeys(row["length"] for row in values))
    fills = [HATCH, ACCENT, SECOND, SOFT][: len(names)]
    base = alt.Chart(alt.NamedData("times")).encode(
        y=alt.Y("length:N", sort=lengths, title=None),
        yOffset=alt.YOffset("model:N", sort=names),
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("length:N"),
            alt.Tooltip("said:N", title="median"),
            alt.Tooltip("low:Q", format=".3g", title="a quarter below"),
            alt.Tooltip("high:Q", format=".3g", title="a quarter above"),
        ],
    )
    bars = base.mark_bar(stroke=ACCENT, strokeWidth=0.6).encode(
        x=alt.X("ms:Q", title="milliseconds a run", axis=alt.Axis(tickCount=5)),
        fill=alt.Fill("model:N", sort=names, scale=alt.Scale(domain=names, range=fills), legend=LEGEND),
    )
    spread = base.mark_rule(strokeWidth=2, color=INK).encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"))
    said = base.mark_text(align="left", dx=6, color=INK).encode(x=alt.X("high:Q"), text=alt.Text("said:N"))
    return _spec([bars, spread, said], {"times": values}, 40 + 26 * len(values))


def training(arms: Sequence[Curve], parent: float | None = None) -> Spec | None:
    """Held-out loss of every arm, dashed and marked each in its own way; thin: the loss of each batch.

    The axis ends at the lowest start, so that one bad start does not flatten the rest.
    """
    drawn = [arm for arm in arms if arm.held_out]
    if not drawn:
        return None
    points: Rows = [{"arm": a.label, "step": s, "loss": v} for a in drawn for s, v in a.held_out]
    batches: Rows = [{"arm": a.label, "step": s, "loss": v} for a in drawn for s, v in thinned(a)]
    seen = [row["loss"] for row in points] + ([] if parent is None else [parent])
    top = max(min(arm.held_out[0][1] for arm in drawn), *(arm.held_out[-1][1] for arm in drawn))
    low, high = min(seen), max(top, parent or top)
    margin = 0.06 * (high - low or abs(high) or 1.0)
    names = [arm.label for arm in drawn]
    y = alt.Y("loss:Q", title="held-out loss", scale=alt.Scale(domain=[low - margin, high + margin], clamp=False))
    x = alt.X("step:Q", title="training step")
    colour = alt.Scale(domain=names, range=[ARMS[k % len(ARMS)] for k in range(len(names))])
    shape = alt.Scale(domain=names, range=[SHAPES[k % len(SHAPES)] for k in range(len(names))])
    dash = alt.Scale(domain=names, range=[DASHES[k % len(DASHES)] for k in range(len(names))])
    layers: list[alt.Chart] = []
    data = {"points": points, "batches": batches}
    if batches:
        thin = alt.Chart(alt.NamedData("batches")).mark_line(clip=True, strokeWidth=0.8, opacity=0.35)
        layers.append(thin.encode(x=x, y=y, color=alt.Color("arm:N", scale=colour, legend=_symbols())))
    base = alt.Chart(alt.NamedData("points")).encode(
        x=x,
        y=y,
        color=alt.Color("arm:N", scale=colour, legend=_symbols()),
        tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("step:Q"), alt.Tooltip("loss:Q", format=".4f")],
    )
    dashed = alt.StrokeDash("arm:N", scale=dash, legend=_symbols())
    layers.append(base.mark_line(clip=True, strokeWidth=2.4).encode(strokeDash=dashed))
    marked = alt.Shape("arm:N", scale=shape, legend=_symbols())
    layers.append(base.mark_point(clip=True, filled=True, size=48, opacity=1).encode(shape=marked))
    if parent is not None:
        data["parent"] = [{"loss": parent, "said": f"the parent: {parent:.2f}"}]
        rule = alt.Chart(alt.NamedData("parent"))
        layers.append(rule.mark_rule(color=INK, strokeDash=[2, 4]).encode(y=y))
        layers.append(
            rule.mark_text(align="left", dx=4, dy=-6, color=INK).encode(y=y, x=alt.value(0), text=alt.Text("said:N"))
        )
    return _spec(layers, data, 280)
