from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fourm.errors import DataError
from fourm.report.colors import palette
from fourm.serve.drawing import drawing_file, painting_files, pencils
from fourm.serve.fields import Field
from fourm.serve.limits import Limits
from tests.unit.generate.toy import image
from tests.unit.serve.conftest import encoded


def drawn(field: Field, pixels: np.ndarray) -> np.ndarray:
    data = drawing_file(field, encoded(pixels), Limits())
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)))


def canvas(*color: int) -> np.ndarray:
    """4 x 4, its left half of this colour, the rest untouched."""
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, :2] = color
    return pixels


def test_colours_lie_on_white_paper(fields: dict[str, Field]) -> None:
    picture = drawn(fields["rgb"], canvas(200, 10, 10, 255))
    assert picture[0, 0].tolist() == [200, 10, 10]
    assert picture[0, 3].tolist() == [255, 255, 255]


def test_a_map_holds_the_class_of_the_nearest_pencil_and_void_elsewhere(fields: dict[str, Field]) -> None:
    red, green, blue = (int(c) for c in palette(16)[6])
    ids = drawn(fields["semseg"], canvas(red + 3, green, blue - 3, 255))
    assert ids[0].tolist() == [6, 6, 255, 255]
    assert pencils(fields["semseg"])[6] == f"#{red:02x}{green:02x}{blue:02x}"


def test_lines_are_bright_on_black() -> None:
    edges = Field("edges", image("edges@16"), is_text=False)
    assert drawn(edges, canvas(0, 0, 0, 255))[0].tolist() == [255, 255, 0, 0]


def test_an_empty_canvas_gives_nothing(fields: dict[str, Field]) -> None:
    assert drawing_file(fields["rgb"], encoded(np.zeros((4, 4, 4), np.uint8)), Limits()) is None


@pytest.mark.parametrize("cut", [0, 40])
def test_a_damaged_drawing_is_refused(fields: dict[str, Field], cut: int) -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8))[:cut]
    with pytest.raises(DataError, match="drawing of rgb"):
        drawing_file(fields["rgb"], data, Limits())


def pixels(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)))


def test_an_image_that_is_painted_over_is_known_elsewhere(fields: dict[str, Field]) -> None:
    below = np.full((4, 4, 4), 255, np.uint8)
    below[..., 0] = 80
    below[0] = 0  # around an image of another shape
    image, mask = painting_files(fields["rgb"], encoded(below), encoded(canvas(200, 10, 10, 255)), Limits())
    assert pixels(image)[1, 0].tolist() == [80, 255, 255]  # the strokes are no part of it
    assert pixels(mask).tolist() == [[0] * 4, *[[0, 0, 255, 255]] * 3]


def test_an_image_that_is_not_painted_over_is_known_whole(fields: dict[str, Field]) -> None:
    below = encoded(np.full((4, 4, 4), 255, np.uint8))
    assert painting_files(fields["rgb"], below, None, Limits())[1] is None
    assert painting_files(fields["rgb"], below, encoded(np.zeros((4, 4, 4), np.uint8)), Limits())[1] is None


@pytest.mark.parametrize(
    ("below", "strokes", "message"),
    [
        (b"no picture", None, "painting of rgb: this is not an image"),
        (encoded(np.zeros((4, 4, 4), np.uint8)), b"no picture", "painting of rgb: this is not an image"),
        (encoded(np.zeros((4, 4, 4), np.uint8)), encoded(np.zeros((2, 4, 4), np.uint8)), "strokes of .4, 2. pixels"),
    ],
)
def test_a_painting_that_is_none_is_named(
    below: bytes, strokes: bytes | None, message: str, fields: dict[str, Field]
) -> None:
    with pytest.raises(DataError, match=message):
        painting_files(fields["rgb"], below, strokes, Limits())
