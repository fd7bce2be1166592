"""The drawing that suits each modality."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm import catalog
from fourm.errors import DataError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.report.features import features
from fourm.report.maps import image
from fourm.report.pictures import draw
from tests.unit.report.pixels import pixel, plane


def test_a_vector_of_three_numbers_is_not_a_colour() -> None:
    modality = Modality("gyro", Grid(1, 1), Continuous(3), "gyro", "features", channels=3)
    assert draw(modality, np.array([1.0, 0.0, 0.5]).reshape(3, 1, 1)).size == (2, 2)


def test_a_modality_with_a_teacher_shows_its_images_and_its_features(rng: np.random.Generator) -> None:
    modality = Modality("clip", Grid(4, 4, 2), Continuous(12), "rgb", "image", channels=3, teacher="clip_b16")
    colors, vectors = rng.random((3, 8, 8)), rng.random((12, 4, 4))
    assert draw(modality, colors).tobytes() == image(colors).tobytes()
    assert draw(modality, vectors).tobytes() == features(vectors).tobytes()


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
    "metadata": {"n_humans": 2, "brightness": 91.8},
    "color_palette": [(255, 0, 0), (0, 0, 255)],
    "human_poses": [{"bbox": (0.1, 0.1, 0.5, 0.9), "global_orient": [1, 0, 0, 0, -1, 0, 0, 0, -1]}],
    "sam_instance": [{"point": (0.5, 0.5), "instances": [{"box": (0.2, 0.2, 0.7, 0.9), "token_ids": [7] * 16}]}],
    "clip@224": np.eye(512)[:, :196].reshape(512, 14, 14),
    "tok_clip@224": np.arange(196),
    "tok_imagebind_global": np.arange(16),
    "dinov2_global": np.arange(768.0).reshape(768, 1, 1),
    "sam_mask": plane(1.0, size=64),
}


@pytest.mark.parametrize("name", DRAWABLE)
def test_every_kind_of_modality_is_drawn(name: str) -> None:
    picture = draw(catalog.get(name), DRAWABLE[name])
    assert picture.mode == "RGB"
    assert picture.width >= 4


@pytest.mark.parametrize(
    ("name", "empty"), [("det", []), ("metadata", {}), ("color_palette", []), ("human_poses", []), ("sam_instance", [])]
)
def test_an_empty_answer_says_none_also_on_a_picture(name: str, empty: Any) -> None:
    modality, photograph = catalog.get(name), Image.new("RGB", (64, 64), (10, 120, 200))
    assert draw(modality, empty).tobytes() == draw(catalog.get("caption"), "").tobytes()
    if name in ("det", "human_poses", "sam_instance"):
        drawn = np.asarray(draw(modality, empty, background=photograph))
        assert tuple(drawn[-1, -1]) == (10, 120, 200)
        assert (drawn[:20, :20] != (10, 120, 200)).any()


WILD = [-7.0, 0.5, 0.5, 1e9, float("nan"), float("inf")]


@pytest.mark.parametrize("corners", [WILD[:4], WILD[2:], [0.5] * 4, [0.9, 0.9, 0.1, 0.1], [float("-inf")] * 4])
def test_boxes_outside_the_picture_or_without_area_are_drawn_as_well_as_they_can_be(corners: list[float]) -> None:
    photograph = Image.new("RGB", (50, 30))
    mask = np.full((64, 64), float("nan"))
    values: dict[str, Any] = {
        "det": [{"boxes": corners, "class_name": "bed"}],
        "human_poses": [
            {"bbox": corners, "global_orient": [1e6, float("nan")] * 4 + [0], "keypoints": [WILD[:2]] * 17}
        ],
        "sam_instance": [{"point": corners[:2], "instances": [{"box": corners, "mask": m} for m in (mask, None)]}],
        "color_palette": [corners[:3]],
        "metadata": {"n_humans": corners[0], "entropy": corners[-1]},
    }
    for name, value in values.items():
        picture = draw(catalog.get(name), value, background=photograph)
        assert picture.mode == "RGB"
        assert picture.width >= 192


def test_void_is_black_and_classes_have_the_same_colours_wherever_void_is() -> None:
    plain, published = catalog.get("semseg@64"), catalog.get("semseg_coco@224")
    assert pixel(draw(published, np.zeros((4, 4), np.uint8))) == pixel(draw(plain, np.full((4, 4), -1))) == (0, 0, 0)
    assert pixel(draw(published, np.full((4, 4), 6))) == pixel(draw(plain, np.full((4, 4), 5)))


def test_ids_of_any_modality_are_drawn_as_tokens() -> None:
    ids = np.arange(40)
    for name in ("caption", "metadata", "tok_rgb@64", "det"):
        assert draw(catalog.get(name), ids).size == (16, 3)
    assert draw(catalog.get("caption"), ids[:0]).size == draw(catalog.get("caption"), "").size


def test_drawing_chooses_by_modality() -> None:
    value = plane(0, 0, 1, size=64)
    assert pixel(draw(catalog.get("rgb@64"), value)) == (0, 0, 255)
    assert pixel(draw(catalog.get("normal@64"), value)) == (128, 128, 255)
    assert draw(catalog.get("tok_rgb@64"), np.zeros(64, dtype=np.int64)).size == (8, 8)


def test_an_unknown_decoder_is_drawn_by_its_channels() -> None:
    heat = replace(catalog.get("canny@64"), decode="heat")
    assert pixel(draw(heat, plane(1.0))) == (255, 255, 255)


def test_a_missing_value_is_an_empty_card() -> None:
    assert draw(catalog.get("rgb@64"), None).mode == "RGB"


def test_a_value_of_the_wrong_shape_names_the_modality_and_the_shape() -> None:
    with pytest.raises(DataError, match=r"'normal@64'.*\(2, 4, 4\)"):
        draw(catalog.get("normal@64"), plane(0, 0))
