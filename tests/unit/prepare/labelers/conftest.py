"""Photographs of several sizes, shared by the tests of labelers."""

from __future__ import annotations

import numpy as np
import pytest

from fourm import machine
from fourm.prepare.labelers.base import Origin, Photo

SIZES = {"a": (64, 48), "b": (48, 64), "c": (64, 48), "d": (100, 20)}


@pytest.fixture(autouse=True)
def float32_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of random weights are compared number by number, also where `precision: auto` would be bfloat16."""
    monkeypatch.setattr(machine, "has_bf16", lambda device: False)


@pytest.fixture
def photos(rng: np.random.Generator) -> list[Photo]:
    """Four photographs of noise: two of 64 x 48 pixels, one of 48 x 64, one of 100 x 20."""
    return [
        Photo(key, rng.integers(0, 256, (height, width, 3), np.uint8), Origin(f"{key}.png", width, height))
        for key, (width, height) in SIZES.items()
    ]
