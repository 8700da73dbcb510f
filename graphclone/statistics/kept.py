"""Plans the second measurement, for corrections that look at what the plan keeps: which places they need summed.

At every norm that is cut, sums over what it makes of the kept neurons (places.py); and for some passes more. Each of
these is one vector a token, joined from several values of the graph, whose second moments are summed:

- ``read-in``, at each norm: what the norm makes of all neurons, then what it makes of the kept ones among themselves;
- ``pca``, at each norm: what it makes of all neurons;
- ``depth-patch``, before each run of dropped blocks: what the last projection before it reads, then what that would
  have to write on the kept neurons for the stream to arrive where the run leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from graphclone.anatomy.gaps import gaps
from graphclone.anatomy.parts import Anatomy
from graphclone.errors import InvalidTarget
from graphclone.statistics.moments import groups
from graphclone.statistics.places import Keeping, head_norms, positions, second_pass
from graphclone.statistics.reductions import Place


def _read_in(anatomy: Anatomy, plan: Keeping) -> list[Place]:
    return [
        replace(p, name=f"{p.name}.read-in", kind="read-in", joined=p.width + len(p.kept), moment=True)
        for p in second_pass(anatomy, plan)
    ]


def _pca(anatomy: Anatomy, plan: Keeping) -> list[Place]:
    return [
        replace(p, name=f"{p.name}.pca", kind="pca", kept=(), joined=p.width, moment=True)
        for p in second_pass(anatomy, plan)
    ]


def _depth_patch(anatomy: Anatomy, plan: Keeping) -> list[Place]:
    residual = {stack.name: stack.residual for stack in anatomy.stacks}
    found = []
    for gap in gaps(anatomy, plan.drop_blocks, plan.drop_feed_forward):
        kept = positions(gap.writer, [residual[gap.stack]], plan)
        values = (gap.inner.value, gap.writer.value, gap.leaves, gap.arrives)
        joined = gap.inner.width + len(kept)
        place = Place(gap.name, "depth-patch", values, gap.inner.axis, gap.inner.width, kept=kept, moment=True)
        if gap.inner.axis == gap.writer.axis:
            found.append(replace(place, joined=joined))
    return found


# pass of a method -> the places whose second moments it takes
NEEDS: Mapping[str, Callable[[Anatomy, Keeping], list[Place]]] = {
    "read-in": _read_in,
    "pca": _pca,
    "depth-patch": _depth_patch,
}


def passes(anatomy: Anatomy, plan: Keeping) -> list[list[Place]]:
    """What is summed each time that the data is read; large moments are shared out over several readings.

    Raises InvalidTarget where the plan leaves nothing to correct.
    """
    joined = [place for name in plan.method.split("+") if name in NEEDS for place in NEEDS[name](anatomy, plan)]
    heads = head_norms(anatomy, plan)
    try:
        norms = second_pass(anatomy, plan)
    except InvalidTarget:
        if not joined and not heads:
            raise
        norms = []
    by_name = {place.name: place for place in joined}
    first, *rest = groups({place.name: place.joined for place in joined}) or [[]]
    return [[*norms, *heads, *(by_name[n] for n in first)], *([by_name[n] for n in group] for group in rest)]
