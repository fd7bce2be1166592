"""Maps as pictures: exact colours for known inputs."""

from __future__ import annotations

import numpy as np
import pytest

from fourm.report.colors import VOID_COLOR, color_scale, palette
from fourm.report.maps import image, labels, measured, normals, tokens
from fourm.report.scale import Scale
from tests.unit.report.pixels import pixel, plane


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [((0, 0.5, 1), (0, 128, 255)), ((-3, 7, 0.25), (0, 255, 64)), ((float("nan"), 0, 0), (0, 0, 0))],
)
def test_rgb_is_scaled_and_clipped(rgb: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert pixel(image(plane(*rgb))) == expected


def test_grey_values_become_equal_channels() -> None:
    assert pixel(image(plane(1.0)[0])) == (255, 255, 255)


def test_bytes_are_drawn_as_they_are_with_channels_first_or_last() -> None:
    value = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    np.testing.assert_array_equal(np.asarray(image(value)), value)
    np.testing.assert_array_equal(np.asarray(image(value.transpose(2, 0, 1))), value)


def test_a_torch_tensor_is_drawn_like_an_array() -> None:
    torch = pytest.importorskip("torch")
    value = plane(0.1, 0.2, 0.9)
    tensor = torch.from_numpy(value.copy())[None].to(torch.bfloat16).requires_grad_()
    assert pixel(image(tensor)) == pytest.approx(pixel(image(value)), abs=1)


@pytest.mark.parametrize(
    ("normal", "expected"),
    [((0, 0, 1), (128, 128, 255)), ((1, 0, 0), (255, 128, 128)), ((0, -1, 0), (128, 0, 128))],
)
def test_normals_are_drawn_in_the_usual_colours(normal: tuple[float, ...], expected: tuple[int, ...]) -> None:
    assert pixel(normals(plane(*normal))) == expected


def test_depth_goes_from_bright_to_dark_over_a_fixed_logarithmic_range() -> None:
    scale = color_scale("inferno_r")
    value = np.array([[0.1, 0.25, 2.0, 16.0, 99.0, np.nan]])
    picture = measured(value, Scale((0.25, 16.0), log=True, colors="inferno_r"))
    colors = [pixel(picture, x) for x in range(6)]
    assert colors[0] == colors[1] == tuple(scale[0])
    assert colors[2] == tuple(scale[128])  # 2 m is the geometric middle of 1/4 m and 16 m
    assert colors[3] == colors[4] == tuple(scale[255])
    assert colors[5] == (0, 0, 0)


def test_temperatures_go_from_dark_to_bright_in_equal_steps() -> None:
    scale = color_scale("inferno")
    picture = measured(np.array([[-40.0, -20.0, 20.0, 60.0, 99.0, np.inf]]), Scale((-20.0, 60.0)))
    expected = [scale[0], scale[0], scale[128], scale[255], scale[255], (0, 0, 0)]
    assert [pixel(picture, x) for x in range(6)] == [tuple(color) for color in expected]


def test_depth_without_a_range_uses_all_colours() -> None:
    scale = color_scale("inferno_r")
    picture = measured(np.linspace(-2, 2, 1000)[None], Scale(None, colors="inferno_r"))
    assert pixel(picture, 0) == tuple(scale[0])
    assert pixel(picture, 999) == tuple(scale[255])


def test_labels_are_drawn_in_the_palette_and_void_in_black() -> None:
    picture = labels(np.array([[0, 3, 255, -1]]), num_classes=4)
    assert [pixel(picture, x) for x in range(4)] == [tuple(palette(4)[0]), tuple(palette(4)[3]), VOID_COLOR, VOID_COLOR]


def test_a_token_map_has_a_pixel_per_token() -> None:
    ids = np.arange(12)
    picture = tokens(ids, (3, 4), vocab_size=512)
    assert picture.size == (4, 3)
    assert pixel(picture, 2, 1) == tuple(palette(512)[6])
    assert tokens(ids).size == (16, 1)
