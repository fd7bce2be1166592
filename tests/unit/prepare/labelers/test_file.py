"""Files of users' are stored as they are where that is right, made right where that is clear, and refused otherwise."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.config import build
from fourm.errors import ConfigError, DataError
from fourm.prepare.labelers.file_configs import FileConfig
from fourm.prepare.upright import turn_pixels
from tests.user_labels import label, labeler, npy, photo, png

THERMAL = {"base": "depth@64", "value_range": [0, 120], "normalization": "half"}
ORGANS = {
    "layout": {"kind": "grid", "height": 64, "width": 64},
    "content": {"kind": "discrete", "vocab_size": 3},
    "decode": "labels",
    "classes": ["background", "liver", "kidney"],
}
SIZE = (40, 60)


def one(data: bytes, modality: Any, template: str = "x/{stem}.png", **options: Any) -> Any:
    given = {key: options.pop(key) for key in ("size", "stored", "orientation_of_photo") if key in options}
    shown = photo(
        given.get("size", SIZE),
        stored=given.get("stored"),
        orientation=given.get("orientation_of_photo", 1),
        beside={template: data},
    )
    return label("file", shown, file=template, modality=modality, **options)


def stored_bytes(data: bytes, modality: Any, template: str = "x/{stem}.png", **options: Any) -> bytes:
    made, _ = labeler("file", file=template, modality=modality, **options)
    return made.label([photo(beside={template: data})])[0]


def ramp(size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.linspace(0, 65535, size[0] * size[1]).reshape(size).astype(np.uint16)


def masks(size: tuple[int, int] = SIZE) -> np.ndarray:
    ids = np.zeros(size, np.uint8)
    ids[: size[0] // 2, : size[1] // 3] = 1
    ids[size[0] // 2 :, size[1] // 3 :] = 2
    return ids


# ------------------------------------------------------------ what is right stays


@pytest.mark.parametrize(
    ("data", "modality", "template"),
    [
        (png(ramp()), THERMAL, "x/{stem}.png"),
        (png(masks()), ORGANS, "x/{stem}.png"),
        (png(Image.fromarray(masks()).convert("P")), ORGANS, "{path}_mask.png"),
        (png(masks() * 100), {"base": "canny@224"}, "x/{stem}.png"),
        (png(masks(), "JPEG"), {"base": "canny@224"}, "x/{stem}.jpg"),
        (png(np.full((*SIZE, 3), (128, 128, 255), np.uint8)), "normal@64", "x/{stem}.png"),
        (npy(np.ones(768, np.float32)), "dinov2_global", "x/{stem}.npy"),
        (b"a cat", "caption", "{path}.txt"),
        (b'{"instances": []}', "det", "{path}.json"),
    ],
    ids=["thermal", "ids", "palette", "grey", "jpg", "normals", "vector", "text", "boxes"],
)
def test_bytes_that_are_right_are_stored_as_they_are(data: bytes, modality: Any, template: str) -> None:
    assert stored_bytes(data, modality, template) == data


def test_files_are_stored_with_the_ending_of_what_they_are() -> None:
    endings = {
        ("x/{stem}.npy", "depth@64"): "png", ("x/{stem}.TIF", "depth@64"): "png", ("x/{stem}.jpeg", "canny@224"): "jpg",
        ("x/{stem}.npy", "dinov2_global"): "npy", ("{path}.json.gz", "det"): "json", ("{path}.txt", "caption"): "txt",
    }  # fmt: skip
    for (file, modality), ending in endings.items():
        assert FileConfig(file, modality).extension == ending


def test_a_gzipped_file_is_unpacked() -> None:
    assert stored_bytes(gzip.compress(b'{"instances": []}'), "det", "{path}.json.gz") == b'{"instances": []}'


# ------------------------------------------------------------ measurements


def test_measurements_are_read_in_their_units() -> None:
    kelvin = np.array([[30_000, 31_000], [29_315, 30_315]], np.uint16).repeat(20, 0).repeat(30, 1)
    celsius = one(png(kelvin), THERMAL, scale=0.01, offset=-273.15, clip=False)
    assert celsius[0, 0] == pytest.approx(26.85, abs=1e-3)
    assert celsius[0, -1] == pytest.approx(36.85, abs=1e-3)
    assert celsius[-1, 0] == pytest.approx(20.0, abs=1e-3)


@pytest.mark.parametrize("form", ["npy", "tif"])
def test_fractions_are_in_natural_units(form: str) -> None:
    metres = np.linspace(0.5, 100, 2400, dtype=np.float32).reshape(SIZE)
    data = npy(metres) if form == "npy" else png(metres, "TIFF")
    assert one(data, THERMAL, f"x/{{stem}}.{form}") == pytest.approx(metres, abs=120 / 65535)


def test_values_beyond_the_range_are_an_error_or_clipped() -> None:
    values = np.full(SIZE, 50, np.float32)
    values[0, :3] = -3, 500, -np.inf
    with pytest.raises(DataError, match=r"x/tom.npy: 3 of 2400 values .* 0 to 120.* from -3 to 500.*clip: true"):
        one(npy(values), THERMAL, "x/{stem}.npy")
    clipped = one(npy(values), THERMAL, "x/{stem}.npy", clip=True)
    assert clipped[0, :4] == pytest.approx([0, 120, 0, 50], abs=1e-3)


@pytest.mark.parametrize("clip", [True, False])
def test_holes_are_never_filled_with_an_end_of_the_range(clip: bool) -> None:
    values = np.full(SIZE, 50, np.float32)
    values[0, :2] = np.nan
    with pytest.raises(DataError, match="2 of 2400 values are NaN"):
        one(npy(values), THERMAL, "x/{stem}.npy", clip=clip)


def test_whole_numbers_without_a_unit_are_refused() -> None:
    with pytest.raises(DataError, match="scale: says what one step is"):
        one(npy(np.ones(SIZE, np.uint16)), THERMAL, "x/{stem}.npy")
    with pytest.raises(DataError, match="scale: says what one step is"):
        one(png(np.ones(SIZE, np.uint8)), THERMAL)
    assert one(png(np.full(SIZE, 7, np.uint8)), THERMAL, scale=2) == pytest.approx(14, abs=1e-3)


# ------------------------------------------------------------ label maps


def test_ids_may_be_other_numbers_in_the_file() -> None:
    drawn = np.array([[7, 24, 0, 26]], np.uint8).repeat(40, 0).repeat(15, 1)
    ids = one(png(drawn), ORGANS, ids={7: "liver", 24: 2, 0: "void", 26: "background"})
    assert ids[0, ::15].tolist() == [1, 2, -1, 0]


def test_ids_of_classes_with_void_first_are_those_of_the_names() -> None:
    published = {"base": "semseg_coco@224"}
    ids = one(png(np.full(SIZE, 9, np.uint8)), published, ids={9: "bicycle"})
    assert (ids == 2).all()  # the second class, behind void


def test_colours_are_classes() -> None:
    rgb = np.zeros((*SIZE, 3), np.uint8)
    rgb[:, 20:40] = 255, 0, 0
    rgb[:, 40:] = 0, 0, 255
    colors = {"0,0,0": "background", "#ff0000": "liver", "0,0,255": "void"}
    assert one(png(rgb), ORGANS, colors=colors)[0, ::20].tolist() == [0, 1, -1]
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE, colors=3)
    assert one(png(palette), ORGANS, colors=colors)[0, ::20].tolist() == [0, 1, -1]
    with pytest.raises(DataError, match=r"colour 0,0,255 in 800 pixels is not among colors: 0,0,0, 255,0,0"):
        one(png(rgb), ORGANS, colors={"0,0,0": 0, "255,0,0": 1})
    with pytest.raises(DataError, match="colours instead of one id per pixel; colors:"):
        one(png(rgb), ORGANS)


def test_a_grey_mask_that_was_saved_in_colour_is_one() -> None:
    assert (one(png(masks()[..., None].repeat(3, 2)), ORGANS) == masks()).all()


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32"])
def test_arrays_of_ids(dtype: str) -> None:
    ids = (masks() > 0).astype(dtype)
    assert (one(npy(ids), ORGANS, "x/{stem}.npy") == ids).all()


def test_negative_ids_are_void() -> None:
    ids = masks().astype(np.int64)
    ids[0, 0] = -1
    assert one(npy(ids), ORGANS, "x/{stem}.npy")[0, 0] == -1


def test_more_than_256_classes_have_16_bits() -> None:
    many = {**ORGANS, "content": {"kind": "discrete", "vocab_size": 1000}, "classes": []}
    ids = np.arange(300, 300 + 2400 // 4).repeat(4).reshape(SIZE)
    assert (one(npy(ids), many, "x/{stem}.npy") == ids).all()


def test_a_mask_of_0_and_255_is_not_silently_void() -> None:
    two = {**ORGANS, "content": {"kind": "discrete", "vocab_size": 2}, "classes": ["no", "yes"]}
    mask = np.where(masks() > 0, 255, 0).astype(np.uint8)
    with pytest.raises(DataError, match=r"ids: \{255: 1\}"):
        one(png(mask), two)
    assert (one(png(mask), two, ids={255: "yes"}) == (mask > 0)).all()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(masks(), "JPEG"), "JPEG"),
        (png(masks() + 7), "class id 9 is not one of the 3 classes"),
        (npy(masks() / 2), "fractions"),
        (png(masks())[:60], "x/tom.png"),
        (b"no image", "not an image"),
        (b"", "not an image"),
        (npy(np.array(["a"], object)), "allow_pickle|pickle"),
        (npy(np.zeros((2, 3, 4, 5))), r"shape \(2, 3, 4, 5\)"),
        (npy(masks()).replace(b"(40, 60), }" + 16 * b" ", b"(4294967296, 1073741824), }"), "damaged npy file"),
    ],
    ids=["lossy", "classes", "fractions", "cut", "text", "empty", "objects", "axes", "claims"],
)
def test_what_is_no_mask_is_rejected_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        one(data, ORGANS)
    assert str(caught.value).startswith("x/tom.png: ")
    assert "0x" not in str(caught.value)


# ------------------------------------------------------------ where it lies


def test_a_label_of_another_shape_is_rejected_with_both_sizes() -> None:
    with pytest.raises(DataError, match="60 x 60 pixels .* photograph has 60 x 40"):
        one(png(masks((60, 60))), ORGANS)


def test_large_labels_become_as_large_as_the_photograph() -> None:
    ids = one(png(masks((400, 600))), ORGANS, size=(400, 600), stored=SIZE)
    assert (ids == masks()).all()
    fine = one(png(ramp((400, 600))), THERMAL, size=(400, 600), stored=SIZE)
    coarse = (ramp((400, 600)).reshape(40, 10, 60, 10).mean((1, 3))) * 120 / 65535
    assert fine[5:-5, 5:-5] == pytest.approx(coarse[5:-5, 5:-5], abs=0.02)
    whole = one(png(masks((400, 600))), ORGANS, size=(400, 600), stored=SIZE, resize=False)
    assert whole.shape == (400, 600)


def test_small_labels_stay() -> None:
    assert one(png(masks((20, 30))), ORGANS).shape == (20, 30)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_label_on_the_picture_in_the_file_is_turned_with_it(orientation: int) -> None:
    lying = masks((60, 40) if orientation > 4 else SIZE)
    upright = turn_pixels(lying, orientation)
    options: dict[str, Any] = {"orientation_of_photo": orientation}
    assert (one(png(lying), ORGANS, orientation="file", **options) == upright).all()
    assert (one(png(upright), ORGANS, orientation="upright", **options) == upright).all()
    # The shape tells where the picture was turned by a quarter; otherwise a label is taken as upright.
    assert (one(png(lying), ORGANS, **options) == (upright if orientation > 4 else lying)).all()
    assert (one(png(upright), ORGANS, **options) == upright).all()


def test_a_label_with_an_orientation_of_its_own_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = masks((60, 40))
    assert (one(png(lying, exif=exif), ORGANS) == turn_pixels(lying, 6)).all()


# ------------------------------------------------------------ other forms, and mistakes in a recipe


def test_boxes_are_checked() -> None:
    pixels = {"instances": [{"boxes": [10, 10, 200, 300], "class_name": "cat"}]}
    with pytest.raises(DataError, match="shares of the picture"):
        one(json.dumps(pixels).encode(), "det", "{path}.json")
    wrong = {"instances": [{"boxes": [0, 0, 0.5, 0.5], "class_name": "cst"}]}
    with pytest.raises(DataError, match="Did you mean 'cat'"):
        one(json.dumps(wrong).encode(), {"base": "det", "classes": ["cat", "dog"]}, "{path}.json")


def test_boxes_that_reach_over_the_edge_end_there() -> None:
    drawn = {"boxes": [-0.005, 0.25, 1.01, 0.5], "class_name": "cat", "score": 0.7}
    (box,) = one(json.dumps({"instances": [drawn]}).encode(), "det", "{path}.json")
    assert box == {"boxes": [0.0, 0.25, 1.0, 0.5], "class_name": "cat", "score": 0.7}


@pytest.mark.parametrize("corners", [[0.6, 0.1, 0.4, 0.2], [0.1, 0.2, 0.4, 0.2], [1.002, 0.1, 1.01, 0.2]])
def test_boxes_without_an_area_are_refused(corners: list[float]) -> None:
    drawn = {"instances": [{"boxes": corners, "class_name": "cat"}]}
    with pytest.raises(DataError, match=r"x/tom.json: box .* of 'cat'; expected 0 <= x1 < x2 <= 1"):
        one(json.dumps(drawn).encode(), "det", "x/{stem}.json")


@pytest.mark.parametrize("content", [b"a \x1b[1mcat\x00", b'["a\\u0000 cat", "two"]'])
def test_control_characters_are_left_out_of_texts(content: bytes) -> None:
    assert one(content, "caption", "{path}.txt") == ("a [1mcat" if content[:1] == b"a" else ["a cat", "two"])


def test_facts_out_of_range_are_refused() -> None:
    with pytest.raises(DataError, match="n_humans is 1.5; expected a whole number"):
        one(b'{"n_humans": 1.5}', "metadata", "{path}.json")


def test_colours_and_grey_values_are_stored_as_what_they_are() -> None:
    grey = one(png(np.full((*SIZE, 3), 7, np.uint8)), {"base": "canny@224"})
    assert grey.shape == SIZE
    data = stored_bytes(png(masks()), "rgb@64")
    assert Image.open(io.BytesIO(data)).mode == "RGB"


def test_normals_that_were_made_smaller_have_length_1(rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(160, 240, 3))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    vectors[:40] = 0  # nothing is known there
    drawn = np.rint((vectors + 1) * 127.5).astype(np.uint8)

    small = one(png(drawn), "normal@64", size=(160, 240), stored=SIZE) / 127.5 - 1

    lengths = np.linalg.norm(small, axis=-1)
    assert (lengths[:9] < 0.02).all()
    known = lengths[11:][lengths[11:] > 0.1]
    assert len(known) > 1500
    assert known == pytest.approx(1, abs=0.02)


def test_pictures_that_are_no_normals_are_refused_whatever_their_size(rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match="x/tom.png: .*not of length 1"):
        one(png(rng.integers(0, 256, (400, 600, 3), np.uint8)), "normal@64", size=(400, 600), stored=SIZE)


def test_normals_may_be_fractions() -> None:
    normals = np.zeros((*SIZE, 3), np.float32)
    normals[..., 2] = 1
    assert one(npy(normals), "normal@64", "x/{stem}.npy")[0, 0].tolist() == [128, 128, 255]


def test_turned_normals_turn_their_vectors() -> None:
    lying = np.zeros((60, 40, 3), np.uint8)
    lying[...] = 128, 255, 128  # up, in the picture as it lies
    upright = one(png(lying), "normal@64", orientation_of_photo=6)  # a quarter to the right
    assert upright.shape == (*SIZE, 3)
    assert upright[0, 0].tolist() == [255, 127, 128]


def test_pixels_of_the_photograph_need_its_size() -> None:
    with pytest.raises(DataError, match="image.size: 0"):
        one(b"[]", "human_poses", "{path}.json", stored=(20, 30))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(DataError, match="there is no file x/tom.png"):
        label("file", photo(), file="x/{stem}.png", modality=ORGANS)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "modality is missing"),
        ({"modality": "depht@64"}, "Did you mean 'depth@64'"),
        ({"modality": {"base": "depth@64", "valuerange": [0, 1]}}, "valuerange is not a known key"),
        ({"modality": {"base": "depth@64", "source": "other"}}, "without `source`"),
        ({"modality": {**ORGANS, "decode": "lables"}}, "Did you mean 'labels'"),
        ({"modality": ORGANS, "file": "x/{stem}.jpg"}, "lossless"),
        ({"modality": ORGANS, "scale": 2.0}, "scale is for decode depth16"),
        ({"modality": "depth@64", "ids": {1: 2}}, "ids is for decode labels"),
        ({"modality": "caption", "resize": False}, "resize is for decode image"),
        ({"modality": ORGANS, "ids": {1: "livr"}}, "Did you mean 'liver'"),
        ({"modality": ORGANS, "ids": {1: 3}}, "expected 0 to 2"),
        ({"modality": ORGANS, "colors": {"255,0": 1}}, '"255,0,0"'),
        ({"modality": ORGANS, "colors": {"0,0,0": 1}, "ids": {1: 1}}, "leave one of them out"),
        ({"modality": {"base": "depth@64", "value_range": [-20, 120]}}, "from 0"),
    ],
)
def test_mistakes_in_a_recipe(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build(FileConfig, {"file": "x/{stem}.png", **options})
