"""A plan has exactly the shape asked for, or the refusal names the shapes that can be had."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import models
from graphclone import feeds, graph
from graphclone.anatomy import inspect
from graphclone.anatomy.parts import Anatomy, Attention, Block, FeedForward, NeuronGroup, Site, Stack
from graphclone.errors import InvalidTarget
from graphclone.plan import Plan
from graphclone.planner import Target, plan, refuse_unreachable
from graphclone.statistics import run
from graphclone.statistics.depth import DEPTHS
from graphclone.statistics.store import Statistics

HIDDEN, FFN, DIM, BLOCKS = 24, 40, 4, 5
PARENT = "ab" * 32


def part(kv_heads: int, group: int, index: int) -> Attention:
    kinds = ["head"] if group == 1 else [k for k, n in (("kv_head", kv_heads), ("group", group)) if n > 1]
    names = tuple(f"blocks.{index}.{kind}" for kind in kinds)
    return Attention(kv_heads * group, kv_heads, DIM, DIM, True, ("q",), ("k",), ("v",), ("o",), names)


def anatomy_of(
    kv_heads: int = 3, group: int = 3, pinned: dict[str, str] | None = None, blocks: int = BLOCKS
) -> Anatomy:
    groups = {"residual": ("residual", HIDDEN), "tail": ("tail", HIDDEN), "other": ("other", 7)}
    made, sites = [], []
    for i in range(blocks):
        attention = part(kv_heads, group, i)
        positions = np.arange(kv_heads * group * DIM)
        along = {"head": positions // DIM, "kv_head": positions // (group * DIM), "group": positions // DIM % group}
        members = {name: along[name.rpartition(".")[2]] for name in attention.head_groups}
        sites += [
            Site(f"blocks.{i}.attention.in", "inner", f"c{i}", -1, positions.size, i, members),
            Site(f"blocks.{i}.ffn.in", "inner", f"a{i}", -1, FFN, i, {f"blocks.{i}.ffn": np.arange(FFN)}),
            Site(f"blocks.{i}.ffn.out", "writer", f"d{i}", -1, HIDDEN, i, {"residual": np.arange(HIDDEN)}),
        ]
        for name in attention.head_groups:
            kind = name.rpartition(".")[2]
            groups[name] = (kind, group if kind == "group" else kv_heads)
        groups[f"blocks.{i}.ffn"] = ("ffn", FFN)
        forward = FeedForward(FFN, True, ("u",), ("d",), f"blocks.{i}.ffn")
        made.append(Block(i, f"x{i}", f"x{i + 1}", (), (attention,), (forward,), ()))
    held = {n: NeuronGroup(n, kind, size, (), pinned=(pinned or {}).get(n)) for n, (kind, size) in groups.items()}
    return Anatomy(PARENT, (Stack("blocks", HIDDEN, "residual", tuple(made)),), held, tuple(sites), (), {})


def statistics_of(anatomy: Anatomy) -> Statistics:
    rng = np.random.default_rng(0)
    sites = {
        site.name: {"abs": rng.random(site.width), "square": rng.random(site.width), "count": np.asarray(1, np.int64)}
        for site in anatomy.sites
    }
    return Statistics(anatomy.fingerprint, sites, 1, ())


def planned(target: Target, anatomy: Anatomy | None = None, **options: str) -> Plan:
    anatomy = anatomy or anatomy_of()
    return plan(anatomy, statistics_of(anatomy), target, **{"importance": "paper", "method": "paper", **options})


def test_the_plan_has_the_shape_asked_for():
    made = planned(Target(hidden=12, heads=3, kv_heads=1, ffn="25%", layers=3))
    assert made.target == {"hidden": 12, "heads": 3, "kv_heads": 1, "ffn": 10, "layers": 3}
    assert made.drop_blocks == {"blocks": (2, 3)}
    assert made.parent == PARENT
    sizes = {"residual": 12, "tail": 12}
    for i in (0, 1, 4):
        sizes |= {f"blocks.{i}.kv_head": 1, f"blocks.{i}.group": 3, f"blocks.{i}.ffn": 10}
    assert {name: len(kept) for name, kept in made.keep.items()} == sizes
    assert all(list(kept) == sorted(set(kept)) for kept in made.keep.values())


def test_what_is_kept_scores_highest():
    anatomy = anatomy_of()
    statistics = statistics_of(anatomy)
    made = plan(anatomy, statistics, Target(hidden=7, ffn=9, heads=6), importance="paper")
    stream = sum(statistics.sites[f"blocks.{i}.ffn.out"]["abs"] for i in range(BLOCKS))
    assert made.keep["residual"] == made.keep["tail"] == tuple(sorted(np.argsort(-stream)[:7]))
    for i in range(BLOCKS):
        hidden = statistics.sites[f"blocks.{i}.ffn.in"]["abs"]
        assert made.keep[f"blocks.{i}.ffn"] == tuple(sorted(np.argsort(-hidden)[:9]))
        context = statistics.sites[f"blocks.{i}.attention.in"]["abs"].reshape(3, 3 * DIM)
        assert made.keep[f"blocks.{i}.kv_head"] == tuple(sorted(np.argsort(-context.mean(1))[:2]))
        assert made.keep[f"blocks.{i}.group"] == (0, 1, 2)


def test_a_plan_survives_json():
    made = planned(Target(hidden=12, heads=3, layers=2))
    assert Plan.from_json(made.to_json()).to_json() == made.to_json()


HEADS = {
    # (kv_heads, group) of the parent, target -> (heads, kv_heads) of the clone
    "whole KV groups": ((3, 3), Target(heads=6), (6, 2)),
    "KV heads alone": ((3, 3), Target(kv_heads=1), (3, 1)),
    "fewer queries each": ((3, 3), Target(heads=4, kv_heads=2), (4, 2)),
    "both cut": ((4, 2), Target(heads=2, kv_heads=2), (2, 2)),
    "a share is rounded down": ((3, 3), Target(heads="50%"), (3, 1)),
    "all of it": ((3, 3), Target(heads="100%", kv_heads="100%"), (9, 3)),
    "multi-head": ((4, 1), Target(heads=3), (3, 3)),
    "multi-head, both": ((4, 1), Target(heads=2, kv_heads=2), (2, 2)),
    "multi-query": ((1, 6), Target(heads=4), (4, 1)),
    "text is a number": ((4, 1), Target(heads="2"), (2, 2)),
}


@pytest.mark.parametrize("case", HEADS)
def test_heads_fall_in_whole_groups(case):
    (kv_heads, group), target, (heads, kept) = HEADS[case]
    anatomy = anatomy_of(kv_heads, group)
    made = planned(target, anatomy)
    assert made.target == {n: size for n, size in (("heads", heads), ("kv_heads", kept)) if getattr(target, n)}
    for i in range(BLOCKS):
        held = [
            len(made.keep[f"blocks.{i}.{k}"]) for k in ("head", "kv_head", "group") if f"blocks.{i}.{k}" in made.keep
        ]
        assert np.prod(held) == heads


NO_TARGET = (
    "no target: give at least one of --hidden, --heads, --kv-heads, --head-dim, --ffn, --layers, --keep-blocks, "
    "--drop-attention, --drop-ffn; or a budget, --params, --size or --latency; or --vocab "
    "(in Python: a field of Target)"
)
REFUSED = {
    "nothing asked": (Target(), NO_TARGET),
    "larger": (Target(hidden=25), "hidden 25: blocks has 24 and can have 1 to 24; nearest: 23 or 24"),
    "zero": (Target(ffn=0), "ffn 0: a clone has at least 1"),
    "negative": (Target(layers=-1), "layers -1"),
    "a word": (Target(hidden="half"), "neither a number nor a percentage"),
    "a share above the whole": (Target(hidden="150%"), "hidden 150%"),
    "a share of nothing": (Target(hidden="1%"), "blocks can have 1 to 24"),
    "too many layers": (Target(layers=6), "layers 6: without --deeper blocks has 5 and can have 1 to 5"),
    "a group torn": (Target(heads=4), "has 9 and can have 3, 6, 9; nearest: 3 or 6"),
    "does not divide": (Target(heads=5, kv_heads=2), "with 2 KV heads has 9 and can have 2, 4, 6"),
    "groups too large": (Target(heads=8, kv_heads=2), "can have 2, 4, 6"),
    "too many KV heads": (Target(kv_heads=4), "kv_heads 4: block 0 (9 heads on 3 KV heads) has 3 and can have 1 to 3"),
    "head_dim": (Target(head_dim=2), "head_dim 2: block 0 has 4 and can have 4; nearest: 4"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_reached_is_refused_in_one_line(case):
    target, said = REFUSED[case]
    with pytest.raises(InvalidTarget) as caught:
        planned(target)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_multi_head_attention_has_as_many_kv_heads_as_heads():
    with pytest.raises(InvalidTarget, match="with 1 KV heads has 4 and can have 1"):
        planned(Target(heads=2, kv_heads=1), anatomy_of(4, 1))


def test_what_is_pinned_is_refused_with_the_reason_and_may_stay_whole():
    why = "reaches output logits"
    with pytest.raises(InvalidTarget, match="residual stays at 24: reaches output logits"):
        planned(Target(hidden=12), anatomy_of(pinned={"residual": why}))
    assert planned(Target(hidden=24), anatomy_of(pinned={"residual": why})).target == {"hidden": 24}
    assert "tail" not in planned(Target(hidden=12), anatomy_of(pinned={"tail": why})).keep
    with pytest.raises(InvalidTarget, match="can have 9; nearest: 9"):
        planned(Target(heads=6), anatomy_of(pinned={"blocks.0.kv_head": why}))


def test_head_dim_may_be_asked_to_stay():
    assert planned(Target(head_dim=4)).target == {"head_dim": 4}


def test_statistics_have_to_be_of_this_parent_and_there_when_needed():
    anatomy = anatomy_of()
    with pytest.raises(InvalidTarget, match="another parent"):
        plan(anatomy, replace(statistics_of(anatomy), parent="00" * 32), Target(hidden=4))
    with pytest.raises(InvalidTarget, match="needs statistics"):
        plan(anatomy, None, Target(hidden=4))
    assert plan(anatomy, None, Target(layers=1)).drop_blocks == {"blocks": (1, 2, 3, 4)}
    assert plan(anatomy, None, Target(hidden=4), importance="first").keep["residual"] == (0, 1, 2, 3)
    with pytest.raises(InvalidTarget, match="importance 'best'"):
        plan(anatomy, None, Target(layers=1), importance="best")
    with pytest.raises(InvalidTarget, match="depth 'deep' is not one of best, paper, uniform"):
        plan(anatomy, None, Target(layers=1), depth="deep")
    with pytest.raises(InvalidTarget, match="method"):
        plan(anatomy, None, Target(layers=1), method="magic")


@pytest.mark.parametrize("name", sorted(DEPTHS))
def test_depth_keeps_the_number_asked_in_order(name):
    rng = np.random.default_rng(0)
    for whole in range(1, 20):
        for count in range(1, whole + 1):
            kept = DEPTHS[name].keep(rng.random(whole), count)
            assert len(kept) == count
            assert kept == sorted(set(kept))
            assert 0 <= kept[0] <= kept[-1] < whole


def test_the_papers_depth_rule_removes_the_middle():
    for whole, count, kept in ((30, 10, [0, 1, 2, 3, 4, 25, 26, 27, 28, 29]), (5, 3, [0, 1, 4]), (5, 1, [0])):
        assert DEPTHS["paper"].keep(np.zeros(whole), count) == kept


# mean cosine of each block's entry and exit, blocks that stay -> those that change the direction most, those outside
# the run that changes it least; first and last stay
COSINES = (0.99, 0.5, 0.9, 0.95, 0.2, 0.96, 0.98)
BY_COSINE = {
    ("block-influence", 6): [0, 1, 2, 3, 4, 6],
    ("block-influence", 4): [0, 1, 4, 6],
    ("block-influence", 2): [0, 6],
    ("block-influence", 1): [4],
    ("angular", 6): [0, 1, 2, 3, 4, 6],
    ("angular", 5): [0, 1, 4, 5, 6],
    ("angular", 2): [0, 6],
    ("angular", 1): [6],
}


def test_what_no_data_can_mend_is_refused_before_there_are_statistics():
    anatomy = anatomy_of()
    asked = {"importance": "wanda", "method": "paper", "depth": "angular"}
    refuse_unreachable(anatomy, Target(layers=2, ffn=4), **asked)
    for wrong in ({"importance": "best"}, {"depth": "deep"}, {"method": "magic"}):
        with pytest.raises(InvalidTarget, match=next(iter(wrong))):
            refuse_unreachable(anatomy, Target(layers=2), **asked | wrong)
    with pytest.raises(InvalidTarget, match="layers 99"):
        refuse_unreachable(anatomy, Target(layers=99), **asked)


@pytest.mark.parametrize(("name", "count"), BY_COSINE)
def test_blocks_go_by_what_they_do_to_the_stream(name, count):
    anatomy = anatomy_of(blocks=7)
    statistics = statistics_of(anatomy)
    sites = {f"blocks.{k}": {"cosine": np.array([4 * c]), "count": np.asarray(4)} for k, c in enumerate(COSINES)}
    held = replace(statistics, sites={**statistics.sites, **sites})
    made = plan(anatomy, held, Target(layers=count), depth=name)
    assert sorted(set(range(7)) - set(made.drop_blocks["blocks"])) == BY_COSINE[name, count]
    with pytest.raises(
        InvalidTarget, match=f"depth {name} needs statistics: .*--stats .*that needs none: paper, uniform$"
    ):
        plan(anatomy, None, Target(layers=count), depth=name)
    with pytest.raises(InvalidTarget, match=r"lack the block blocks\.0: measure again"):
        plan(anatomy, statistics, Target(layers=count), depth=name)


def test_best_goes_by_influence_where_blocks_were_measured_and_by_place_where_not():
    anatomy = anatomy_of(blocks=7)
    statistics = statistics_of(anatomy)
    sites = {f"blocks.{k}": {"cosine": np.array([4 * c]), "count": np.asarray(4)} for k, c in enumerate(COSINES)}
    held = replace(statistics, sites={**statistics.sites, **sites})
    for known, same in ((held, "block-influence"), (statistics, "paper"), (None, "paper")):
        made = plan(anatomy, known, Target(layers=4))
        assert made == plan(anatomy, known, Target(layers=4), depth="best")
        assert made == plan(anatomy, known, Target(layers=4), depth=same)
        assert made != plan(anatomy, known, Target(layers=4), depth="uniform")
    papers = plan(anatomy, held, Target(layers=4), method="paper")
    assert papers == plan(anatomy, held, Target(layers=4), method="paper", depth="paper")


def test_a_share_of_unequal_widths_is_recorded_as_asked():
    anatomy = anatomy_of()
    groups = {**anatomy.groups, "blocks.0.ffn": replace(anatomy.groups["blocks.0.ffn"], size=20)}
    made = plan(replace(anatomy, groups=groups), None, Target(ffn="50%"), importance="first")
    assert made.target == {"ffn": "50%"}
    assert [len(made.keep[f"blocks.{i}.ffn"]) for i in range(3)] == [10, 20, 20]
    with pytest.raises(InvalidTarget, match=r"ffn 30: blocks\.0\.ffn has 20"):
        plan(replace(anatomy, groups=groups), None, Target(ffn=30), importance="first")


def test_every_seeded_export_can_be_planned_to_the_exact_shape(seeded_parent):
    anatomy = inspect(graph.load(seeded_parent))
    (stack,) = anatomy.stacks
    made = plan(anatomy, None, Target(hidden="50%", heads="50%", ffn="50%", layers=2), importance="first")
    assert made.target["hidden"] == len(made.keep["residual"]) == stack.hidden // 2
    assert made.target["heads"] == stack.blocks[0].attention[0].heads // 2
    assert made.target["ffn"] == stack.blocks[0].feed_forward[0].ffn // 2
    assert set(made.keep) <= set(anatomy.groups)
    assert len(made.drop_blocks[stack.name]) == len(stack.blocks) - 2


def test_the_default_importance_takes_no_weights_once_it_was_measured():
    model = graph.load(models.cached("llama"))
    anatomy = inspect(model)
    held = run.measure(model, anatomy, [feeds.tiny_feeds(model, 2, 9)], moments=True)
    target = Target(hidden=32, heads=4, kv_heads=2, ffn=80)
    assert plan(anatomy, held, target).keep == plan(anatomy, held, target, weights=model.constants()).keep
    assert plan(anatomy, held, target).keep != plan(anatomy, held, target, importance="paper").keep
