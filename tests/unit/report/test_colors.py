"""Palettes and colour scales."""

from __future__ import annotations

import numpy as np
import pytest

from fourm.report.colors import class_color, color_scale, palette, text_color


@pytest.mark.parametrize("num_classes", [2, 16, 40])
def test_classes_keep_their_colours_when_more_are_added(num_classes: int) -> None:
    np.testing.assert_array_equal(palette(num_classes), palette(300)[:num_classes])


def test_the_colours_of_a_typical_label_map_differ_clearly() -> None:
    colors = palette(16).astype(float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 1000 * np.eye(16)
    assert distances.min() > 40


def test_the_palette_cannot_be_changed_by_a_caller() -> None:
    with pytest.raises(ValueError, match="read-only"):
        palette(4)[0] = 0


def test_a_class_has_its_palette_colour_and_an_unknown_one_a_stable_colour() -> None:
    assert class_color("bed", ("sofa", "bed")) == tuple(palette(2)[1])
    assert class_color("piano") == class_color("piano", ("sofa", "bed"))


def test_the_depth_scale_darkens_steadily() -> None:
    luminance = color_scale("inferno_r", 16) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) < 0).all()


@pytest.mark.parametrize(
    ("background", "bright"), [((0, 0, 0), True), ((255, 255, 255), False), ((250, 222, 74), False)]
)
def test_letters_contrast_with_their_background(background: tuple[int, int, int], bright: bool) -> None:
    assert (sum(text_color(background)) > 382) == bright
