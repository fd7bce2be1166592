"""Scales of measured values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fourm import catalog
from fourm.report.scale import Scale, scale_of


@pytest.mark.parametrize(
    ("scale", "values"),
    [
        (Scale((0, 120)), "0 30 60 90 120"),
        (Scale((-60, 60)), "-60 -30 0 30 60"),
        (Scale((250, 350)), "250 275 300 325 350"),
        (Scale((-273.15, 200)), "-273.15 -150 -37 82 200"),
        (Scale((0, 1)), "0 0.25 0.5 0.75 1"),
        (Scale((0.25, 16), log=True), "0.25 0.7 2 6 16"),
        (Scale((0, 64), log=True), "1 3 8 20 64"),
    ],
)
def test_ticks_are_short_numbers_at_about_even_places(scale: Scale, values: str) -> None:
    places, texts = zip(*scale.ticks(), strict=True)
    assert " ".join(texts) == values
    assert places == pytest.approx(scale.shares(np.array([float(text) for text in texts])))
    assert places == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=0.05)


def test_depth_of_its_own_scale_is_near_or_far() -> None:
    assert scale_of(catalog.get("depth@224")).ticks() == ((0, "near"), (1, "far"))


def test_only_depth_is_logarithmic_and_bright_where_it_is_low() -> None:
    metres = catalog.get("depth@64")
    assert scale_of(metres) == Scale((0.25, 16.0), log=True, colors="inferno_r")
    for normalization in ("half", "none"):
        warm = replace(metres, normalization=normalization, value_range=(0.0, 120.0))
        assert scale_of(warm) == Scale((0.0, 120.0))
    assert scale_of(replace(metres, normalization="half", value_range=None)) == Scale((0.0, 1.0))
