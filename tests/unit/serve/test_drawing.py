from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fourm.errors import DataError
from fourm.report.colors import palette
from fourm.serve.drawing import drawing_file, pencils
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
