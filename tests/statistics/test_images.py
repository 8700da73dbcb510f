"""Pixels are those that Hugging Face's image processors make; what is not understood is refused."""

from __future__ import annotations

import json

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    LevitImageProcessorPil,
    MobileViTImageProcessorPil,
    ViTImageProcessorPil,
)

from graphclone.errors import BadData, GraphCloneError, InvalidTarget
from graphclone.graph import Model
from graphclone.statistics.calibration import open_source
from graphclone.statistics.recipe import find
from tests.tolerances import assert_close

SIZES = ((40, 60), (61, 37), (33, 33))  # width, height
PLAIN = "resize=32x32,mean=0.5,std=0.5"


def image_model(shape=("batch", 3, "height", "width"), dtype=np.float32) -> Model:
    pixels = gs.Variable("pixel_values", dtype, list(shape))
    node = gs.Node("Neg", "neg", {}, [pixels], [gs.Variable("y", dtype, list(shape))])
    return Model(gs.Graph([node], [pixels], node.outputs))


@pytest.fixture
def folder(tmp_path, rng):
    """Images of three sizes in two folders, a grey one among them."""
    held = tmp_path / "images"
    for number, size in enumerate(SIZES):
        inside = held / ("ab"[number % 2])
        inside.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(pixels).save(inside / f"{number}.png")
    return held


@pytest.fixture
def files(folder):
    return sorted(folder.rglob("*.png"))


PROCESSORS = {
    "ViT": lambda: ViTImageProcessorPil(size={"height": 32, "width": 24}),
    "ViT, one number": lambda: ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3]),
    "DeiT": lambda: DeiTImageProcessorPil(size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32}),
    "CLIP": lambda: CLIPImageProcessorPil(size={"shortest_edge": 34}, crop_size={"height": 32, "width": 32}),
    "BiT, cropped beyond the image": lambda: BitImageProcessorPil(
        size={"shortest_edge": 20}, crop_size={"height": 33, "width": 26}
    ),
    "ConvNeXt": lambda: ConvNextImageProcessorPil(size={"shortest_edge": 32}, crop_pct=0.8),
    "ConvNeXt, large": lambda: ConvNextImageProcessorPil(size={"shortest_edge": 384}, crop_pct=0.8),
    "MobileViT, blue first": lambda: MobileViTImageProcessorPil(
        size={"shortest_edge": 35}, crop_size={"height": 32, "width": 32}
    ),
    "LeViT": lambda: LevitImageProcessorPil(size={"shortest_edge": 34}, crop_size={"height": 32, "width": 32}),
    "not normalised": lambda: ViTImageProcessorPil(size={"height": 32, "width": 32}, do_normalize=False, resample=3),
    "not rescaled": lambda: ViTImageProcessorPil(size={"height": 32, "width": 32}, do_rescale=False),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_those_of_the_processor_that_wrote_the_configuration(folder, files, tmp_path, name):
    processor = PROCESSORS[name]()
    processor.save_pretrained(tmp_path)
    model = image_model()
    model.path = tmp_path / "model.onnx"
    source = open_source(folder, model, batch_size=2)
    found = np.concatenate([batch["pixel_values"] for batch in source])
    expected = processor([Image.open(file) for file in files], return_tensors="np")["pixel_values"]
    assert_close(found, np.asarray(expected, np.float32))
    assert len(source) == 2
    assert "preprocessor_config.json" in source.notes[0]


def test_the_comparison_sees_another_interpolation(folder, files, tmp_path):
    processor = ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3)
    source = open_source(folder, image_model(), images="resize=32x32,mean=0.5,std=0.5,interpolation=bilinear")
    (batch,) = source
    expected = processor([Image.open(file) for file in files], return_tensors="np")["pixel_values"]
    with pytest.raises(AssertionError, match="differs"):
        assert_close(batch["pixel_values"], np.asarray(expected, np.float32))


def test_a_recipe_from_flags_is_that_of_the_same_configuration(folder, tmp_path):
    asked = "resize=40,crop=32x28,mean=0.1/0.2/0.3,std=0.5,scale=0.0078125,interpolation=lanczos,channels=bgr"
    size, crop = {"shortest_edge": 40}, {"height": 32, "width": 28}
    held = {"size": size, "crop_size": crop, "do_center_crop": True, "resample": 1, "do_flip_channel_order": True}
    held |= {"image_mean": [0.1, 0.2, 0.3], "image_std": 0.5, "rescale_factor": 1 / 128}
    (tmp_path / "recipe.json").write_text(json.dumps(held))
    (one,), (two,) = (open_source(folder, image_model(), images=i) for i in (asked, str(tmp_path / "recipe.json")))
    np.testing.assert_array_equal(one["pixel_values"], two["pixel_values"])
    assert one["pixel_values"].shape == (3, 3, 32, 28)
    said = "shortest edge to 40, cropped to 32x28, times 0.0078125, minus 0.1/0.2/0.3, by 0.5 (lanczos, BGR; asked for)"
    assert said in str(find(asked, None))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(("batch", 32, 32, 3), np.float32), ((2, 3, 32, 32), np.float16), (("batch", 1, 32, 32), np.float32)],
)
def test_pixels_lie_as_the_graph_wants_them(folder, shape, dtype):
    model = image_model(shape, dtype)
    source = open_source(folder, model, images=PLAIN, batch_size=2)
    batch = next(iter(source))["pixel_values"]
    assert batch.dtype == dtype
    assert batch.shape == tuple(2 if isinstance(size, str) else size for size in shape)
    (plain,) = open_source(folder, image_model(), images=PLAIN)
    if shape[-1] == 3:
        np.testing.assert_array_equal(batch, plain["pixel_values"][:2].transpose(0, 2, 3, 1))
    if shape[0] == 2:
        assert len(source) == 1  # the third image does not fill a batch


def test_shards_and_what_comes_later_are_read_alone(folder, files):
    source = open_source(folder, image_model(), images=PLAIN, batch_size=1)
    every = [batch["pixel_values"] for batch in source]
    files[0].write_bytes(b"")  # it is not opened again
    (second,), (third,) = source.part(2, 3), source.after(2)
    np.testing.assert_array_equal(second["pixel_values"], every[1])
    np.testing.assert_array_equal(third["pixel_values"], every[2])


REFUSED = {
    "no recipe": (None, "put its preprocessor_config.json beside it, or give --images"),
    "no file": ("none.json", "not a preprocessor_config.json"),
    "a typo": ("resise=3,mean=0,std=1", "'resise=3'"),
    "no number": ("resize=a,mean=0,std=1", "'resize=a'"),
    "an interpolation": ("mean=0,std=1,interpolation=cubic", "'interpolation=cubic'"),
    "no mean": ("resize=32x32,std=1", "mean of the pixels is missing"),
    "a std of 0": ("resize=32x32,mean=0,std=0", "have to be above 0"),
    "sizes that differ": ("resize=32,mean=0,std=1", "different sizes after the recipe"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_recipes_that_make_no_sense(folder, case):
    asked, said = REFUSED[case]
    with pytest.raises(GraphCloneError) as caught:
        list(open_source(folder, image_model(), images=asked))
    assert said in str(caught.value)
    assert caught.value.exit_code in (2, 5)


CONFIGURATIONS = {
    "unknown step": ({"do_pad": True, "size": 32}, "do_pad is not done here"),
    "longest edge": ({"size": {"shortest_edge": 3, "longest_edge": 5}}, "a field of the recipe is not understood"),
    "no mean": ({"size": 32, "do_normalize": True}, "KeyError: 'image_mean'"),
    "interpolation": ({"size": 32, "resample": 9}, "not understood"),
    "a list": ([], "it holds list"),
    "another crop": (
        {"image_processor_type": "PerceiverImageProcessor", "size": 32},
        "crops in proportion to the image",
    ),
    "normalised twice": ({"size": 32, "include_top": True}, "include_top is not done here"),
    "an offset": ({"size": 32, "rescale_offset": True}, "rescale_offset is not done here"),
    "a multiple": ({"size": 32, "size_divisor": 32}, "size_divisor is not done here"),
    "another size": ({"size": 32, "size_divisibility": 32}, "size_divisibility is not done here"),
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
def test_configurations_that_are_not_understood(folder, tmp_path, case):
    held, said = CONFIGURATIONS[case]
    (tmp_path / "r.json").write_text(json.dumps(held))
    with pytest.raises(BadData, match=r"r\.json") as caught:
        open_source(folder, image_model(), images=str(tmp_path / "r.json"))
    assert said in str(caught.value)


def test_fields_that_change_no_pixel_are_left_alone(folder, tmp_path):
    held = {"size": {"height": 32, "width": 32}, "image_mean": [0.5], "image_std": [0.5]}
    idle = {"rescale_offset": False, "size_divisor": None, "ensure_multiple_of": 1, "do_pad": False, "pad_size": {}}
    said = {"processor_class": "ViTProcessor", "data_format": "channels_first", "reduce_labels": True}
    batches = []
    for fields in (held, {**held, **idle, **said}):
        (tmp_path / "r.json").write_text(json.dumps(fields))
        batches.append(next(iter(open_source(folder, image_model(), images=str(tmp_path / "r.json"))))["pixel_values"])
    np.testing.assert_array_equal(*batches)


@pytest.mark.parametrize(("square", "size"), [(True, (1, 3, 20, 20)), (False, (1, 3, 30, 20))])
def test_one_number_is_a_square_or_the_shortest_edge_as_the_file_says(folder, tmp_path, square, size):
    (tmp_path / "r.json").write_text(json.dumps({"size": 20, "default_to_square": square}))
    options = {"images": str(tmp_path / "r.json"), "batch_size": 1}
    assert next(iter(open_source(folder, image_model(), **options)))["pixel_values"].shape == size


def test_images_of_another_size_or_kind_than_the_graph_wants(folder):
    with pytest.raises(BadData, match=r"wants pixel_values float32\[batch, 3, 24, 24\], the recipe makes .* 32x32"):
        open_source(folder, image_model(("batch", 3, 24, 24)), images=PLAIN)
    with pytest.raises(BadData, match="images have 1 or 3 channels"):
        open_source(folder, image_model(("batch", 4, 32, 32)), images=PLAIN)
    with pytest.raises(BadData, match="3 images, the graph takes 4 at once"):
        open_source(folder, image_model((4, 3, 32, 32)), images=PLAIN)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_image_that_cannot_be_read_is_named(folder, files, content):
    files[1].write_bytes(files[1].read_bytes()[:300] if content is None else content)
    source = open_source(folder, image_model(), images=PLAIN, batch_size=1)
    with pytest.raises(BadData, match=f"{files[1].name}: not an image that can be read") as caught:
        list(source)
    assert "\n" not in str(caught.value)


def test_images_are_refused_where_the_graph_wants_ids(folder, hand):
    with pytest.raises(BadData, match=r"images, but the graph wants input_ids int64\[batch, length\]"):
        open_source(folder, hand.model())
    with pytest.raises(InvalidTarget):
        find("x=1", None)


def test_records_of_images_give_the_same_pixels(folder, files, tmp_path):
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: its images are not tested")
    pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: parquet is not tested")
    (plain,) = open_source(folder, image_model(), images=PLAIN)
    held = datasets.Dataset.from_dict({"image": [str(file) for file in files], "label": [0, 1, 2]})
    held = held.cast_column("image", datasets.Image())
    held.save_to_disk(tmp_path / "saved")
    table, contents = pytest.importorskip("pyarrow").table, [file.read_bytes() for file in files]
    pq.write_table(table({"image": [{"bytes": c, "path": "x.png"} for c in contents]}), tmp_path / "x.parquet")
    pq.write_table(table({"photo": contents}), tmp_path / "raw.parquet")
    specs = [(f"datasets:{tmp_path}/saved", None), (tmp_path / "x.parquet", None), (tmp_path / "raw.parquet", "photo")]
    for spec, column in specs:
        source = open_source(spec, image_model(), images=PLAIN, column=column, batch_size=2)
        found = np.concatenate([batch["pixel_values"] for batch in source])
        np.testing.assert_array_equal(found, plain["pixel_values"])
        assert len(source) == 2
        (second,) = source.part(2, 2)
        np.testing.assert_array_equal(second["pixel_values"], found[2:])
    with pytest.raises(BadData, match="holds int, not an image: name the field with --column"):
        open_source(f"datasets:{tmp_path}/saved:train:label", image_model(), images=PLAIN)
    with pytest.raises(BadData, match="no column 'image'; it has photo"):
        open_source(tmp_path / "raw.parquet", image_model(), images=PLAIN)
