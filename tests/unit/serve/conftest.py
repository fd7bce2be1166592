"""A tiny model over every kind of modality behind the page's parts."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourm.serve.fields import Field, input_fields
from fourm.serve.worker import Worker
from tests.unit.generate.conftest import bundle, modalities, model, wordpiece
from tests.unit.generate.toy import ToyBundle

__all__ = ["bundle", "modalities", "model", "wordpiece"]


@pytest.fixture
def fields(bundle: ToyBundle) -> dict[str, Field]:
    return {field.name: field for field in input_fields(bundle)}


@pytest.fixture
def worker(bundle: ToyBundle, tmp_path: Path) -> Worker:
    (tmp_path / "results").mkdir()
    return Worker(bundle, tmp_path / "results")


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def photo() -> bytes:
    return encoded(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
