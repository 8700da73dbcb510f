"""Classes from folders' names, and from labels in .npz files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import graphclone as gc
from graphclone.errors import BadData
from graphclone.pytorch.training.labelled import open_labelled
from tests.pytorch.training.test_tasks import usual

RECIPE = "resize=32,crop=32,mean=0.5,std=0.5"


@pytest.fixture(scope="module")
def vit(parent_file):
    return gc.load(parent_file("vit-tiny", exporter="dynamo"))


@pytest.fixture
def photos(tmp_path):
    """Three dark cats, two bright dogs."""
    for name, count, shade in (("cat", 3, 20), ("dog", 2, 230)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((40, 50, 3), shade + number, np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_folders_are_classes_taken_in_turn(vit, photos):
    source = open_labelled(photos, vit, batch_size=2, images=RECIPE)
    assert source.classes == ("cat", "dog")
    labels = [batch["labels"].tolist() for batch in source]
    assert labels == [[0, 1], [0, 1], [0]] == [batch["labels"].tolist() for batch in source]
    first = next(iter(source))
    (name,) = set(first) - {"labels"}
    assert first[name].shape == (2, 3, 32, 32)
    assert first[name][0].mean() < 0 < first[name][1].mean()
    assert len(source.fingerprint) == 64
    (photos / "dog" / "0.png").unlink()
    assert open_labelled(photos, vit, batch_size=2, images=RECIPE).fingerprint != source.fingerprint


def test_labels_come_beside_the_inputs_of_an_npz(vit, tmp_path):
    (name,) = [tensor.name for tensor in vit.graph.inputs]
    pixels = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "a.npz", **{name: pixels, "labels": np.arange(5)})
    found = list(open_labelled(tmp_path / "a.npz", vit, batch_size=2))
    assert [batch["labels"].tolist() for batch in found] == [[0, 1], [2, 3], [4]]
    assert np.array_equal(np.concatenate([batch[name] for batch in found]), pixels)


def test_a_single_number_in_an_npz_belongs_to_every_batch(vit, tmp_path):
    """It is no row, and what is no input of the graph is said by name as everywhere."""
    (name,) = [tensor.name for tensor in vit.graph.inputs]
    np.savez(tmp_path / "a.npz", **{name: np.zeros((5, 3, 32, 32), np.float32), "labels": np.arange(5), "scale": 2.0})
    with pytest.raises(BadData, match="scale"):
        list(open_labelled(tmp_path / "a.npz", vit))


@pytest.mark.parametrize("labels", [None, np.arange(4), np.zeros((5, 2), int)], ids=["none", "few", "one-hot"])
def test_npz_without_one_number_a_row_is_refused(vit, tmp_path, labels):
    (name,) = [tensor.name for tensor in vit.graph.inputs]
    held = {name: np.zeros((5, 3, 32, 32), np.float32)} | ({} if labels is None else {"labels": labels})
    np.savez(tmp_path / "a.npz", **held)
    with pytest.raises(BadData, match="one class number a row"):
        list(open_labelled(tmp_path / "a.npz", vit))


def test_what_has_no_classes_is_refused(vit, tmp_path):
    (tmp_path / "text.txt").write_text("words")
    for spec in (tmp_path, tmp_path / "text.txt"):
        with pytest.raises(BadData, match="classes are told by"):
            open_labelled(spec, vit)


def test_a_vision_clone_is_trained_on_folders(vit, photos, tmp_path):
    from graphclone.cli.app import run

    file = tmp_path / "vit.onnx"
    gc.save(vit, file)
    options = "--task image-classification --batch-size 2 --steps 4 --held-out 1 --shuffle 2 --learning-rate 1e-3"
    more = ["--images", RECIPE, "--read", usual(vit), "-o", str(tmp_path / "out.onnx")]
    assert run(["train", str(file), "--data", str(photos), *options.split(), *more]) == 0
    assert gc.load(tmp_path / "out.onnx").metadata["graphclone.trained"] == "true"
