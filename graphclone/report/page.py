"""Facts written as one HTML file: markup by Jinja2, charts by Vega-Lite, whose code is in the file too."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from graphclone.outputs import staged
from graphclone.report.facts import CloneFacts, Facts, Sheet
from graphclone.report.words import count, duration, kind, ranges, short, size
from graphclone.requirements import FEATURES

TEMPLATES = Path(__file__).parent / "page"
EMBEDDED_PLAN = 1 << 19  # bytes of a plan that the page carries for download


def write(facts: Facts, path: str | Path) -> int:
    """Write the page, whole or not at all, and give its size in bytes. Raises MissingPackage, BadModel."""
    made = render(facts).encode()
    with staged(path) as draft:
        draft.write_bytes(made)
    return len(made)


def render(facts: Facts) -> str:
    """The page. Raises MissingPackage where what draws is not installed."""
    FEATURES["report"].require("the page of a report")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count, "size": size, "duration": duration, "short": short, "kind": kind, "ranges": ranges,
        "b64": _base64,
    }  # fmt: skip

    charts, drawn = _Charts(), environment.get_template("report.html")
    body = drawn.render(
        facts=facts,
        draw=charts,
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "page.js").read_text(encoding="utf-8"),
        cards=cards,
        embedded_plan=EMBEDDED_PLAN,
    )
    # the template names the charts it wants while it is rendered: they come after it
    held = json.dumps(charts.specs, separators=(",", ":")).replace("<", "\\u003c")  # no name ends the script element
    return body.replace("/*vega*/", _vega()).replace("/*charts*/", f"const charts = {held};")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and what embeds them, as JavaScript that may stand in a page."""
    import altair as alt
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    made = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg]  # its stub lacks a default
    return re.sub("</(script)", r"<\\/\1", made, flags=re.IGNORECASE)


class _Charts:
    """What the template draws with: each call keeps a specification and gives the name that its place has."""

    def __init__(self) -> None:
        self.specs: dict[str, Any] = {}

    def __call__(self, what: str, *given: Any, **options: Any) -> str:
        """The name of the place, or nothing where there is nothing to draw."""
        from graphclone.report import charts

        spec = getattr(charts, what)(*given, **options)
        if spec is None:
            return ""
        name = f"chart-{len(self.specs)}"
        self.specs[name] = spec
        return name

    def columns(self, maps: Sequence[Any]) -> int:
        """How fine maps are drawn."""
        from graphclone.report import charts

        return charts.columns_for(maps)


def cards(parent: Sheet, clone: CloneFacts) -> list[tuple[str, str, str]]:
    """(what, how many times less, from what to what) of a clone, trained where it was."""
    last, first = clone.sheets[-1], clone.sheets[0]
    made = [
        (what, _times(before, after), f"{said(before)} → {said(after)}")
        for what, before, after, said in (
            ("parameters", parent.parameters, last.parameters, short),
            ("file", parent.bytes, last.bytes, size),
        )
    ]
    if parent.timings and first.timings:
        before, after = parent.timings[-1], first.timings[-1]
        what = "latency" if after.length is None else f"latency, {after.length} tokens"
        made.append(
            (what, _times(before.median, after.median), f"{duration(before.median)} → {duration(after.median)}")
        )
    losses = [sheet.loss for sheet in clone.sheets if sheet.loss is not None]
    if losses:
        start = "" if parent.loss is None else f"parent {parent.loss:.2f}, "
        way = f"{start}clone {losses[0]:.2f}" + (f" → {losses[-1]:.2f} trained" if len(losses) > 1 else "")
        made.append((f"held-out {last.unit}", f"{losses[-1]:.2f}", way))
    return made


def _times(before: float, after: float) -> str:
    ratio = before / after if after else float("inf")
    return f"{ratio:.1f}×" if ratio < 100 else f"{ratio:.0f}×"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
