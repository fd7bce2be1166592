"""Pictures of values: exact colours for known inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm import catalog
from fourm.errors import DataError
from fourm.modality import Continuous, Grid, Modality
from fourm.report import pictures
from fourm.report.colors import VOID_COLOR, color_scale, palette


def pixel(picture: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    return tuple(int(c) for c in np.asarray(picture)[y, x])


def plane(*channels: float, size: int = 4) -> np.ndarray[Any, Any]:
    return np.broadcast_to(np.array(channels)[:, None, None], (len(channels), size, size)).astype(np.float32)


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [((0, 0.5, 1), (0, 128, 255)), ((-3, 7, 0.25), (0, 255, 64)), ((float("nan"), 0, 0), (0, 0, 0))],
)
def test_rgb_is_scaled_and_clipped(rgb: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert pixel(pictures.image(plane(*rgb))) == expected


def test_grey_values_become_equal_channels() -> None:
    assert pixel(pictures.image(plane(1.0)[0])) == (255, 255, 255)


def test_bytes_are_drawn_as_they_are_with_channels_first_or_last() -> None:
    value = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    np.testing.assert_array_equal(np.asarray(pictures.image(value)), value)
    np.testing.assert_array_equal(np.asarray(pictures.image(value.transpose(2, 0, 1))), value)


def test_a_torch_tensor_is_drawn_like_an_array() -> None:
    torch = pytest.importorskip("torch")
    value = plane(0.1, 0.2, 0.9)
    tensor = torch.from_numpy(value.copy())[None].to(torch.bfloat16).requires_grad_()
    assert pixel(pictures.image(tensor)) == pytest.approx(pixel(pictures.image(value)), abs=1)


@pytest.mark.parametrize(
    ("normal", "expected"),
    [((0, 0, 1), (128, 128, 255)), ((1, 0, 0), (255, 128, 128)), ((0, -1, 0), (128, 0, 128))],
)
def test_normals_are_drawn_in_the_usual_colours(normal: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert pixel(pictures.normals(plane(*normal))) == expected


def test_depth_goes_from_bright_to_dark_over_a_fixed_logarithmic_range() -> None:
    scale = color_scale("inferno_r")
    value = np.array([[0.1, 0.25, 2.0, 16.0, 99.0, np.nan]])
    picture = pictures.depth(value, (0.25, 16.0))
    colors = [pixel(picture, x) for x in range(6)]
    assert colors[0] == colors[1] == tuple(scale[0])
    assert colors[2] == tuple(scale[128])  # 2 m is the geometric middle of 1/4 m and 16 m
    assert colors[3] == colors[4] == tuple(scale[255])
    assert colors[5] == (0, 0, 0)


def test_depth_without_a_range_uses_all_colours() -> None:
    scale = color_scale("inferno_r")
    picture = pictures.depth(np.linspace(-2, 2, 1000)[None])
    assert pixel(picture, 0) == tuple(scale[0])
    assert pixel(picture, 999) == tuple(scale[255])


def test_labels_are_drawn_in_the_palette_and_void_in_black() -> None:
    picture = pictures.labels(np.array([[0, 3, 255, -1]]), num_classes=4)
    assert [pixel(picture, x) for x in range(4)] == [tuple(palette(4)[0]), tuple(palette(4)[3]), VOID_COLOR, VOID_COLOR]


def test_a_token_map_has_a_pixel_per_token() -> None:
    ids = np.arange(12)
    picture = pictures.tokens(ids, (3, 4), vocab_size=512)
    assert picture.size == (4, 3)
    assert pixel(picture, 2, 1) == tuple(palette(512)[6])
    assert pictures.tokens(ids).size == (16, 1)


def test_features_are_reduced_to_three_colours_reproducibly(rng: np.random.Generator) -> None:
    value = rng.normal(size=(12, 6, 5))
    picture = pictures.features(value)
    assert picture.size == (5, 6)
    assert np.asarray(picture).min() == 0
    assert np.asarray(picture).max() == 255
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(pictures.features(value.copy())))


def test_a_single_vector_is_a_square_of_greys_from_its_smallest_to_its_largest() -> None:
    picture = pictures.features(np.array([0.0, 2.0, 1.0, -2.0, 0.0]).reshape(5, 1, 1))
    assert picture.size == (3, 3)
    assert [pixel(picture, x)[0] for x in range(3)] == [128, 255, 191]
    assert pixel(picture, 0, 1) == pixel(picture, 2, 2) == (0, 0, 0)


def test_a_vector_of_three_numbers_is_not_a_colour() -> None:
    modality = Modality("gyro", Grid(1, 1), Continuous(3), "gyro", "features", channels=3)
    assert pictures.draw(modality, np.array([1.0, 0.0, 0.5]).reshape(3, 1, 1)).size == (2, 2)


def test_features_in_the_colours_of_others_can_be_compared(rng: np.random.Generator) -> None:
    value = rng.normal(size=(12, 6, 5))
    other = value + 0.01 * rng.normal(size=value.shape)
    alone, like = (np.asarray(pictures.features(value, like=v), dtype=int) for v in (None, value))
    np.testing.assert_array_equal(alone, like)
    near = np.asarray(pictures.features(other, like=value), dtype=int)
    assert np.abs(near - alone).max() < 12
    # Its own components may point elsewhere; another scale alone already gives other colours.
    assert np.abs(np.asarray(pictures.features(0.5 * value, like=value), dtype=int) - alone).max() > 40


def test_a_vector_in_the_greys_of_another_can_be_compared() -> None:
    like = np.array([0.0, 2.0, 0, 0, 0])[:, None, None]
    assert pixel(pictures.features(np.ones((5, 1, 1)), like=like)) == (128, 128, 128)


def test_a_modality_with_a_teacher_shows_its_images_and_its_features(rng: np.random.Generator) -> None:
    modality = Modality("clip", Grid(4, 4, 2), Continuous(12), "rgb", "image", channels=3, teacher="clip_b16")
    image, features = rng.random((3, 8, 8)), rng.random((12, 4, 4))
    assert pictures.draw(modality, image).tobytes() == pictures.image(image).tobytes()
    assert pictures.draw(modality, features).tobytes() == pictures.features(features).tobytes()


def test_boxes_are_drawn_where_they_are_in_the_colour_of_their_class() -> None:
    classes = ("sofa", "bed")
    instance = {"boxes": [0.25, 0.5, 0.75, 1.0], "class_name": "bed", "score": 1.0}
    picture = pictures.boxes({"instances": [instance]}, Image.new("RGB", (64, 64)), classes=classes)
    assert picture.size == (256, 256)
    color = tuple(palette(2)[1])
    assert pixel(picture, 64, 200) == pixel(picture, 191, 200) == pixel(picture, 128, 255) == color
    assert pixel(picture, 128, 200) == (0, 0, 0)


def test_the_name_of_a_box_at_the_border_stays_inside() -> None:
    wide = [{"boxes": [0.98, 0.98, 1.0, 1.0], "class_name": "wardrobe"}]
    narrow = [{"boxes": [0.98, 0.98, 1.0, 1.0], "class_name": ""}]
    with_name, without = (np.asarray(pictures.boxes(i)) for i in (wide, narrow))
    assert (with_name[225:, 150:200] != without[225:, 150:200]).any()


def test_boxes_do_not_change_the_background() -> None:
    background = Image.new("RGB", (300, 300))
    pictures.boxes([{"boxes": [0, 0, 1, 1], "class_name": "bed"}], background)
    assert np.asarray(background).max() == 0


def test_enlarging_repeats_pixels() -> None:
    value = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    large = np.asarray(pictures.enlarge(Image.fromarray(value), 10))
    np.testing.assert_array_equal(large, value.repeat(3, axis=0).repeat(3, axis=1))


def test_a_legend_shows_the_colours_of_the_present_classes_only() -> None:
    colors = set(
        map(tuple, np.asarray(pictures.legend(("floor", "wall", "bed"), present=[0, 2])).reshape(-1, 3).tolist())
    )
    first, second, third = map(tuple, palette(3).tolist())
    assert first in colors
    assert third in colors
    assert second not in colors


DRAWABLE = {
    "rgb@64": plane(0, 0, 1, size=64),
    "depth@64": plane(2.0, size=64),
    "normal@64": plane(0, 0, 1, size=64),
    "semseg@64": np.zeros((64, 64), dtype=np.int64),
    "canny@64": plane(1.0, size=64),
    "tok_depth@64": np.zeros(64, dtype=np.int64),
    "image@28": plane(0.5, size=28),
    "depth@224": plane(-1.0, size=224),
    "caption": "a bed",
    "det": [{"boxes": [0, 0, 1, 1], "class_name": "bed"}],
}


@pytest.mark.parametrize("name", DRAWABLE)
def test_every_kind_of_modality_is_drawn(name: str) -> None:
    picture = pictures.draw(catalog.get(name), DRAWABLE[name])
    assert picture.mode == "RGB"
    assert picture.width >= 8


def test_drawing_chooses_by_modality() -> None:
    value = plane(0, 0, 1, size=64)
    assert pixel(pictures.draw(catalog.get("rgb@64"), value)) == (0, 0, 255)
    assert pixel(pictures.draw(catalog.get("normal@64"), value)) == (128, 128, 255)
    assert pictures.draw(catalog.get("tok_rgb@64"), np.zeros(64, dtype=np.int64)).size == (8, 8)


def test_an_unknown_decoder_is_drawn_by_its_channels() -> None:
    heat = replace(catalog.get("canny@64"), decode="heat")
    assert pixel(pictures.draw(heat, plane(1.0))) == (255, 255, 255)


def test_a_missing_value_is_an_empty_card() -> None:
    assert pictures.draw(catalog.get("rgb@64"), None).mode == "RGB"


def test_a_value_of_the_wrong_shape_names_the_modality_and_the_shape() -> None:
    with pytest.raises(DataError, match=r"'normal@64'.*\(2, 4, 4\)"):
        pictures.draw(catalog.get("normal@64"), plane(0, 0))
