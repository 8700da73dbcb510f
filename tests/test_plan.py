"""A plan that is read from a file: what is wrong with it is said in a line, whatever it is."""

from __future__ import annotations

import json

import pytest

from graphclone.errors import BadData
from graphclone.plan import Plan

PLAN = json.loads(Plan("0" * 64, {"blocks.0.ffn": (0, 2)}, method="none", target={"ffn": 2}).to_json())

WRONG = [
    ({"method": None}, r"method is None, expected text"),
    ({"method": 5}, r"method is 5, expected text"),
    ({"parent": 5}, r"parent is 5, expected text"),
    ({"importance": ["paper"]}, r"importance is \['paper'\], expected text"),
    ({"format": True}, r"format is True, expected a whole number"),
    ({"format": "1"}, r"format is '1', expected a whole number"),
    ({"target": 5}, r"target is 5, expected names with sizes"),
    ({"target": {"ffn": [2]}}, r"target ffn is \[2\], expected a number or text"),
    ({"keep": [1]}, r"keep is \[1\], expected names with lists of indices"),
    ({"keep": {"blocks.0.ffn": ["0"]}}, r"keep of blocks\.0\.ffn is no list of whole numbers"),
    ({"keep": {"blocks.0.ffn": "02"}}, r"keep of blocks\.0\.ffn is no list of whole numbers"),
    ({"keep": {"blocks.0.ffn": [0, 1.5]}}, r"keep of blocks\.0\.ffn is no list of whole numbers"),
    ({"keep": {"blocks.0.ffn": [0, 1 << 64]}}, r"keep of blocks\.0\.ffn is no list of whole numbers"),
    ({"drop_blocks": {"blocks": 3}}, r"drop_blocks of blocks is no list of whole numbers"),
    ({"repeat_blocks": None}, r"repeat_blocks is None, expected names with lists of indices"),
    ({"more": 1}, r"expected the keys drop_attention, .* target"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[json.dumps(change) for change, _ in WRONG])
def test_what_is_wrong_with_a_plan_is_said(change, said):
    with pytest.raises(BadData, match=r"^small\.json: not a plan: " + said + "$") as caught:
        Plan.from_json(json.dumps(PLAN | change), "small.json")
    assert caught.value.exit_code == 5


def test_a_plan_is_read_as_it_was_written():
    assert json.loads(Plan.from_json(json.dumps(PLAN)).to_json()) == PLAN


def test_a_plan_that_is_not_there_is_said_in_words(tmp_path):
    with pytest.raises(BadData, match=r"none\.json: there is no such file$"):
        Plan.read(tmp_path / "none.json")
    with pytest.raises(BadData, match=r"cannot be read \(Is a directory\)$"):
        Plan.read(tmp_path)
