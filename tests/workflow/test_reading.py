"""What a recipe may say, and what is said of one that says something else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from graphclone.cli.app import run
from graphclone.errors import BadData
from graphclone.workflow.planning import shape_of
from graphclone.workflow.reading import BadRecipe, read, scalar

ROOT = Path(__file__).parents[2]
GOOD = "parent: a.onnx\ntarget: {hidden: 32}\n"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcde", "bcdef", strict=True)
)

REFUSED = {
    "a misspelt key": ("parent: a\ntarget:\n  hiden: 5\n", "line 3: no key 'target.hiden'; did you mean 'hidden'?"),
    "deep inside": (
        "parent: a\ntargets:\n  one:\n    hidden: 3\n    training:\n      steps: 3\n      lerning_rate: 1\n",
        "line 7: no key 'targets.one.training.lerning_rate'; did you mean 'learning_rate'?",
    ),
    "nothing like it": ("parent: a\ntarget: {hidden: 3}\nbench: {zzz: 1}\n", "there are batch, lengths, runs, warmup"),
    "no parent": ("target: {hidden: 3}\n", "line 1: 'parent' is missing"),
    "a truth for a size": ("parent: a\ntarget:\n  hidden: true\n", "line 3: target.hidden: should be"),
    "too few": (
        GOOD + "data: {source: d, limit: 0}\n",
        "line 3: data.limit: should be greater than or equal to 1, not 0",
    ),
    "sizes and a budget": ("parent: a\ntarget: {hidden: 3, params: 5M}\n", "line 2: target: params choose the sizes"),
    "no size": ("parent: a\ntarget: {}\n", "line 2: target: nothing is asked for"),
    "no target": ("parent: a\n", "give either `target` (one clone) or `targets`"),
    "both": (GOOD + "targets: {b: {hidden: 3}}\n", "give either `target` (one clone) or `targets`"),
    "no folder's name": ("parent: a\ntargets:\n  ../b: {hidden: 3}\n", "line 3"),
    "a key twice": ("parent: a\nparent: b\n", "line 2: the key 'parent' is there twice"),
    "a truth for a key": (
        "parent: a\non: {hidden: 3}\n",
        "line 2: a key is a word, not 'on': put it in quotes, \"on\":",
    ),
    "not YAML": ("parent: [\n", "line 2: not YAML"),
    "Python": ("parent: !!python/object/apply:os.system [ls]\n", "line 1"),
    "a list": ("- a\n", "a recipe is keys and values"),
    "nothing": ("", "a recipe is keys and values"),
    "an unset variable": ("parent: ${NOWHERE}\n", "line 1: the environment has no NOWHERE"),
    "itself": ("a: &a\n  b: *a\n", "it holds itself"),
    "a bomb": (BOMB, "more than 20,000 values"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_the_line_and_what_was_meant(text: str, said: str) -> None:
    with pytest.raises(BadRecipe) as refused:
        read("-", environment={}, stdin=text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_set_goes_before_the_environment_and_that_before_the_recipe() -> None:
    text = "parent: ${P:-a.onnx}\ntarget: {hidden: 5, layers: '${L}'}\ndata:\n  source: d\n  limit: ${N:-7}\n"
    environment = {"L": "3", "GRAPHCLONE__DATA__LENGTH": "16", "GRAPHCLONE__TARGET__HIDDEN": "8"}
    held = read("-", ["target.hidden=50%", "training.steps=4"], environment, text).held
    assert (held.parent, held.target and held.target.hidden, held.target and held.target.layers) == (
        "a.onnx",
        "50%",
        "3",
    )
    assert held.data
    assert (held.data.limit, held.data.length) == (7, 16)
    assert held.training
    assert held.training.steps == 4
    with pytest.raises(
        BadRecipe, match=r"the environment's GRAPHCLONE__DATA__LENGHT: no key 'data.lenght'; .*'length'"
    ):
        read("-", (), {"L": "3", "GRAPHCLONE__DATA__LENGHT": "16"}, text)
    with pytest.raises(BadRecipe, match=r"--set target.hiden=3: no key 'target.hiden'; did you mean 'hidden'"):
        read("-", ["target.hiden=3"], {}, GOOD)
    for wrong in ("target.hidden", "=3", "parent.deep=3"):
        with pytest.raises(BadRecipe, match="--set"):
            read("-", [wrong], {}, GOOD)


def test_families_share_by_merging_and_leave_out_what_is_null() -> None:
    text = "parent: a\ntargets:\n  x: &x {hidden: 3, ffn: 4}\n  y: {<<: *x, ffn: 8}\n  z: {layers: 1}\n"
    family = read("-", ["targets.z=null"], {}, text).held.family
    assert {name: target.sizes for name, target in family.items()} == {
        "x": {"hidden": 3, "ffn": 4},
        "y": {"hidden": 3, "ffn": 8},
    }


NUMBERS = {
    "0": 0,
    "-3": -3,
    "1_000": 1000,
    "0x1F": 31,
    "0b11": 3,
    "1.5": 1.5,
    ".5": 0.5,
    "1.5e-3": 0.0015,
    ".inf": math.inf,
}
TEXTS = ("1:40", "1:4", "0-3:8", "12:30:45", "1:40.5", "010", "-010", "0o17", "1,2", "50%", "2020-13-45")


@pytest.mark.parametrize("word", [*NUMBERS, *TEXTS])
def test_numbers_are_those_that_people_mean(word: str) -> None:
    assert scalar(word) == NUMBERS.get(word, word)
    assert type(scalar(word)) is type(NUMBERS.get(word, word))


def test_sizes_by_block_are_read_as_the_command_line_reads_them() -> None:
    text = "parent: a\ntarget: {ffn: 1:40, heads: '1:4', kv_heads: 010}\nseed: 010\n"
    held = read("-", ["target.head_dim=1:8"], {"GRAPHCLONE__TARGET__HIDDEN": "1:2"}, text).held
    sizes = {"ffn": "1:40", "heads": "1:4", "kv_heads": "010", "head_dim": "1:8", "hidden": "1:2"}
    assert held.target
    assert held.target.sizes == sizes
    assert held.seed == 10


def test_one_block_is_a_number_as_well() -> None:
    text = "parent: a\ntarget: {keep_blocks: 0, drop_attention: 0, ffn: 0}\n"
    held = read("-", ["target.drop_ffn=1"], {}, text).held
    assert held.target
    assert held.target.sizes == {"keep_blocks": 0, "drop_attention": 0, "drop_ffn": 1, "ffn": 0}
    assert shape_of(held.target).blocks("keep_blocks") == (0,)


@pytest.mark.parametrize("size", ["1.2.3MB", "...", "'0'", "0.5", "5TB", "9" * 400])
def test_files_of_weights_of_no_size_are_said_at_once(size: str) -> None:
    with pytest.raises(BadRecipe, match=r"line 3: outputs.shard_size: "):
        read("-", (), {}, f"{GOOD}outputs: {{shard_size: {size}}}\n")
    assert read("-", (), {}, f"{GOOD}outputs: {{shard_size: 1.5 GB}}\n").held.outputs.shard_size == "1.5 GB"


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="no such recipe"):
        read(str(tmp_path / "nowhere.yaml"))
    with pytest.raises(BadData, match="a folder"):
        read(str(tmp_path))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(bytes(range(256)))
    with pytest.raises(BadRecipe, match="not text"):
        read(str(binary))


def test_the_published_schema_is_what_recipes_are_held_against(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--schema"]) == 0
    printed = capsys.readouterr().out
    assert (ROOT / "docs/recipe.schema.json").read_text() == printed, (
        "graphclone run --schema > docs/recipe.schema.json"
    )
    schema = json.loads(printed)
    assert set(schema["properties"]) >= {"parent", "data", "target", "targets", "method", "training", "outputs"}
    described = [key for part in schema["$defs"].values() for key in part["properties"].values()]
    assert all(key.get("description") for key in described)


@pytest.mark.parametrize("recipe", sorted((ROOT / "models/recipes").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_recipes_are_valid_by_the_published_schema(recipe: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    schema = json.loads((ROOT / "docs/recipe.schema.json").read_text())
    held = read(str(recipe), environment={}).held.model_dump(mode="json", exclude_unset=True)
    jsonschema.validate(held, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**held, "hiden": 3}, schema)
