"""What each task makes of a batch, and what it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

from graphclone.errors import BadData, InvalidTarget
from graphclone.pytorch.module import to_torch
from graphclone.pytorch.training import TASKS, Setting, TrainingOptions, train
from graphclone.pytorch.training.course import Beside, run
from graphclone.pytorch.training.losses import IGNORED
from graphclone.pytorch.training.tasks import find_task
from tests.pytorch.training.conftest import counting

SPECIAL = frozenset({0, 1, 2, 3})
MASKING = Setting(mask_token=3, special=SPECIAL, vocabulary=100)


def sentences(rows=64, length=50):
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 100, (rows, length))
    ids[:, 0], ids[:, -1] = 1, 2
    mask = np.ones_like(ids)
    mask[::2, 40:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_masking_hides_fifteen_percent_and_asks_for_what_was_there():
    batch = sentences()
    example = TASKS["masked-lm"].example(batch, MASKING, np.random.default_rng(0))
    asked = example.targets != IGNORED
    open_ = ~np.isin(batch["input_ids"], list(SPECIAL)) & (batch["attention_mask"] == 1)
    assert not (asked & ~open_).any()
    assert asked.sum() / open_.sum() == pytest.approx(0.15, abs=0.02)
    assert (example.targets[asked] == batch["input_ids"][asked]).all()
    fed = example.feeds["input_ids"]
    assert (fed[~asked] == batch["input_ids"][~asked]).all()
    hidden, same = fed[asked] == 3, fed[asked] == batch["input_ids"][asked]
    assert hidden.mean() == pytest.approx(0.8, abs=0.06)
    assert (~hidden & ~same).mean() == pytest.approx(0.1, abs=0.05)
    assert 0 <= fed.min() <= fed.max() < 100


def test_masks_are_drawn_from_the_generator_alone():
    fed = [
        TASKS["masked-lm"].example(sentences(), MASKING, np.random.default_rng(seed)).feeds["input_ids"]
        for seed in (0, 0, 1)
    ]
    assert (fed[0] == fed[1]).all()
    assert (fed[0] != fed[2]).any()


def test_a_short_batch_still_has_a_token_to_find():
    batch = {"input_ids": np.array([[1, 7, 2]])}
    counts = {TASKS["masked-lm"].example(batch, MASKING, np.random.default_rng(k)).count for k in range(20)}
    assert counts == {1}


@pytest.mark.parametrize(
    ("task", "batch", "setting", "message"),
    [
        ("masked-lm", sentences(), Setting(), "mask token"),
        ("masked-lm", {"input_ids": np.array([[1, 2]])}, MASKING, "no token to mask"),
        ("masked-lm", {"pixel_values": np.zeros((1, 3, 4, 4), np.float32)}, MASKING, "needs token ids"),
        ("image-classification", {"x": np.zeros((2, 3), np.float32)}, Setting(), "needs labels"),
        ("image-classification", {"x": np.zeros((2, 3), np.float32), "labels": np.zeros(3, int)}, Setting(), "2 rows"),
        (
            "image-classification", {"x": np.zeros((2, 3), np.float32), "labels": np.array([0, 9])},
            Setting(vocabulary=9), "from 0 to 9, the model has 9 classes",
        ),
    ],
)  # fmt: skip
def test_batches_that_a_task_cannot_use_are_refused(task, batch, setting, message):
    with pytest.raises(BadData, match=message):
        TASKS[task].example(batch, setting, np.random.default_rng(0))


def causal_targets(batch):
    return TASKS["causal-lm"].example(batch, Setting(), np.random.default_rng(0)).targets.tolist()


NO = IGNORED


def test_nothing_is_predicted_at_padding_whichever_side_it_is_on():
    ids = np.array([[0, 0, 5, 6, 7], [5, 6, 7, 0, 0]])
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert causal_targets({"input_ids": ids, "attention_mask": mask}) == [[NO, NO, 6, 7, NO], [6, 7, NO, NO, NO]]


def test_padding_of_an_encoder_hides_no_targets_of_its_decoder():
    batch = {
        "input_ids": np.array([[3, 4, 1, 0, 0]]),
        "attention_mask": np.array([[1, 1, 1, 0, 0]]),
        "decoder_input_ids": np.array([[0, 5, 6, 7, 8]]),
    }
    assert causal_targets(batch) == [[5, 6, 7, 8, NO]]
    assert causal_targets(batch | {"decoder_attention_mask": np.array([[1, 1, 1, 1, 0]])}) == [[5, 6, 7, NO, NO]]
    decoder = {"input_ids": np.array([[5, 6, 7]]), "encoder_attention_mask": np.array([[1, 0, 0]])}
    assert causal_targets(decoder) == [[6, 7, NO]]


def test_labels_of_a_batch_are_its_targets():
    """As Hugging Face's models take them: beside their tokens, but for a decoder's."""
    ids, labels = np.array([[5, 6, 7, 8]]), np.array([[NO, NO, 7, 8]])
    assert causal_targets({"input_ids": ids, "labels": labels}) == [[NO, 7, 8, NO]]
    mask = np.array([[1, 1, 1, 0]])
    assert causal_targets({"input_ids": ids, "labels": labels, "attention_mask": mask}) == [[NO, 7, NO, NO]]
    assert causal_targets({"decoder_input_ids": ids, "labels": labels}) == labels.tolist()
    example = TASKS["masked-lm"].example({"input_ids": ids, "labels": labels}, MASKING, np.random.default_rng(0))
    assert example.targets.tolist() == labels.tolist()
    assert example.feeds["input_ids"].tolist() == ids.tolist()


@pytest.mark.parametrize("task", ["causal-lm", "masked-lm"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1]), r"of the shape \[1, 4\], -100 where nothing counts; they are int64\[1\]"),
        (np.array([[0.0, 1.0, 2.0, 3.0]]), r"they are float64\[1, 4\]"),
        (np.array([[5, -1, 6, 7]]), "labels .* go down to -1: only -100 says that none counts"),
        (np.full((1, 4), NO), "all its labels are -100"),
        (np.array([[5, 6, 700, 8]]), "token 700 is to be predicted"),
    ],
)
def test_labels_that_are_no_targets_are_refused(task, labels, message):
    setting = Setting(mask_token=3, special=SPECIAL, vocabulary=100, classes=100)
    with pytest.raises(BadData, match=message):
        TASKS[task].example(
            {"input_ids": np.array([[5, 6, 7, 8]]), "labels": labels}, setting, np.random.default_rng(0)
        )


def test_the_output_is_the_one_asked_for_the_usual_one_or_the_only_one():
    task = TASKS["causal-lm"]
    assert task.output(("past", "logits"), Setting()) == "logits"
    assert task.output(("scores",), Setting()) == "scores"
    assert task.output(("scores", "residual"), Setting(outputs=("scores",))) == "scores"
    assert task.output(("a", "b"), Setting(output="b")) == "b"
    for outputs, setting in ((("a", "b"), Setting()), (("a", "b"), Setting(output="c"))):
        with pytest.raises(BadData, match="the model gives a, b"):
            task.output(outputs, setting)


def test_masked_language_models_learn(parent_file):
    """Odd places repeat even ones: what is hidden can be read beside."""
    from graphclone.graph import load

    rng = np.random.default_rng(0)
    data = [{"input_ids": np.repeat(rng.integers(4, 30, (8, 8)), 2, axis=1)} for _ in range(4)]
    model = load(parent_file("llama", exporter="dynamo"))
    full = [batch | {"attention_mask": np.ones_like(batch["input_ids"])} for batch in data]
    options = TrainingOptions(steps=60, learning_rate=5e-3, task="masked-lm", evaluate_every=60)
    history = train(to_torch(model), full, options, held_out=full, setting=MASKING)
    assert history.evaluations[-1][1] < history.evaluations[0][1] - 1.0


def test_images_are_classified(parent_file):
    from graphclone.graph import load

    model = load(parent_file("vit-tiny", exporter="dynamo"))
    module = to_torch(model)
    (name,) = module.meta["graphclone.inputs"]
    rng = np.random.default_rng(0)
    labels = np.arange(8) % 4
    pixels = rng.standard_normal((8, 3, 32, 32)) * 0.1 + labels[:, None, None, None]
    data = [{name: pixels.astype(np.float32), "labels": labels}]
    options = TrainingOptions(steps=25, learning_rate=3e-3, task="image-classification", evaluate_every=25)
    history = train(module, data, options, held_out=data, setting=Setting(output=usual(model)))
    assert history.evaluations[-1][1] < 0.5 < history.evaluations[0][1]
    assert history.tokens == 25 * 8


def usual(model):
    """The output with one number a class."""
    return next(t.name for t in model.graph.outputs if len(t.shape) == 2)


def test_a_function_of_the_users_own_is_run_when_named(llama, tmp_path, monkeypatch):
    (tmp_path / "my_loss.py").write_text(
        "import torch\ncalls = []\n"
        "def shrink(outputs, batch):\n    calls.append(sorted(batch))\n    return outputs['logits'].pow(2).mean()\n"
        "def wrong(outputs, batch):\n    return outputs['logits']\n"
        "def broken(outputs, batch):\n    return outputs['scores']\n"
    )
    monkeypatch.chdir(tmp_path)
    module = to_torch(llama)
    try:
        options = TrainingOptions(steps=6, learning_rate=3e-3, task="my_loss:shrink", evaluate_every=6)
        history = train(module, counting(1), options, held_out=counting(1))
        assert history.evaluations[-1][1] < history.evaluations[0][1]
        assert sys.modules["my_loss"].calls[0] == ["attention_mask", "input_ids"]
        with pytest.raises(InvalidTarget, match="has to return one number"):
            train(module, counting(1), TrainingOptions(steps=1, task="my_loss:wrong"))
        with pytest.raises(BadData, match=r"my_loss:broken: KeyError: 'scores' \(my_loss.py, line 9\)"):
            train(module, counting(1), TrainingOptions(steps=1, task="my_loss:broken"))
    finally:
        sys.modules.pop("my_loss", None)
    assert str(tmp_path) not in sys.path


def test_a_function_of_the_users_own_hears_the_teacher_in_training_and_in_evaluation(llama, cut, tmp_path, monkeypatch):
    (tmp_path / "my_distance.py").write_text(
        "def apart(outputs, batch):\n    return (outputs['logits'] - batch['teacher']).pow(2).mean()\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        options = TrainingOptions(steps=8, learning_rate=3e-3, task="my_distance:apart", evaluate_every=8)
        trained = run(cut, counting(2), options, Beside(teacher=llama), held_out=counting(1))
    finally:
        sys.modules.pop("my_distance", None)
    (_, before), (_, after) = trained.history.evaluations
    assert after < before / 2
    assert trained.in_runtime == pytest.approx(after, rel=1e-3)


@pytest.mark.parametrize("task", ["causal-lm", "masked-lm"])
def test_hidden_states_are_not_taken_for_logits(bert, tmp_path, task):
    """Of a graph that gives one output, that one is read; but not where it cannot be what the task reads."""
    model = bert.copy()
    model.graph.outputs = [tensor for tensor in model.graph.outputs if tensor.name == "last_hidden_state"]
    batch = {tensor.name: np.ones((2, 6), np.int64) for tensor in model.graph.inputs}
    file = tmp_path / "tokenizer.json"
    made = Tokenizer(models.WordLevel({"[MASK]": 0, "a": 1}, unk_token="a"))
    made.add_special_tokens(["[MASK]"])
    made.save(str(file))
    with pytest.raises(BadData, match=r"last_hidden_state has 48 numbers a token, the model knows \d+ tokens"):
        run(model, [batch], TrainingOptions(steps=1, task=task), Beside(tokenizer=file))


def test_a_token_that_the_output_does_not_know_is_named():
    batch = {"input_ids": np.array([[5, 200, 7]])}
    with pytest.raises(BadData, match="token 200 is to be predicted, and the output knows 100 tokens"):
        TASKS["causal-lm"].example(batch, Setting(classes=100), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chess", "not one of causal-lm, masked-lm, image-classification, embedding"),
        ("no_such_module:loss", "No module named"),
        ("math:no_such_function", "math has no function 'no_such_function'"),
        ("math:pi", "math has no function 'pi'"),
        ("no_such_file.py:loss", "there is no such file"),
    ],
)
def test_unknown_tasks_are_refused(name, message):
    with pytest.raises(InvalidTarget, match=message):
        find_task(name)


@pytest.mark.parametrize(
    ("source", "message"),
    [("loss = nowhere\n", "NameError: name 'nowhere'"), ("def loss(:\n", r"SyntaxError: .*\(own.py, line 1\)")],
)
@pytest.mark.parametrize("spec", ["own.py:loss", "own:loss"])
def test_what_is_wrong_with_a_users_module_is_one_line(tmp_path, monkeypatch, capsys, llama, spec, source, message):
    from graphclone.cli.app import run as command_line

    (tmp_path / "own.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with pytest.raises(InvalidTarget, match=f"task {spec}: cannot be imported .{message}"):
        find_task(spec)
    assert sys.path == before
    assert command_line(["train", str(llama.path), "--task", spec, "--data", "random:3", "-o", "out.onnx"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"graphclone: task {spec}: cannot be imported")


def test_a_function_may_lie_in_a_file(tmp_path, module):
    file = tmp_path / "my_file.py"
    file.write_text("def shrink(outputs, batch):\n    return outputs['logits'].pow(2).mean()\n")
    history = train(module, counting(1), TrainingOptions(steps=4, learning_rate=3e-3, task=f"{file}:shrink"))
    assert history.losses[-1] < history.losses[0]


def test_an_embedding_needs_its_teacher(llama):
    with pytest.raises(InvalidTarget, match="learns from a teacher"):
        train(to_torch(llama), counting(1), TrainingOptions(steps=1, task="embedding"))


def test_examples_share_their_rows():
    example = TASKS["causal-lm"].example(counting(1, batch=5)[0], Setting(), np.random.default_rng(0))
    parts = [example.share(k, 3) for k in range(3)]
    assert sum(part.count for part in parts) == example.count
    assert torch.equal(
        torch.cat([torch.from_numpy(part.feeds["input_ids"]) for part in parts]),
        torch.from_numpy(example.feeds["input_ids"]),
    )
    lonely = TASKS["causal-lm"].example(counting(1, batch=1)[0], Setting(), np.random.default_rng(0))
    assert [lonely.share(k, 3).weight for k in range(3)] == [0, 0, 1]
