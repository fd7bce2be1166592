"""Subjects with transparency are put on other grounds and into other frames; nothing else is changed or drawn."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from fourm.data.subjects import opacity, vary
from fourm.errors import ConfigError
from tests.unit.data.test_interleaved import dataset, write_lines

SIZE = 8


def cut_out(mode: str = "RGBA") -> tuple[bytes, np.ndarray]:
    """A red square in the middle of something green, which is transparent."""
    pixels = np.zeros((SIZE, SIZE, 4), np.uint8)
    pixels[..., 1] = 200
    pixels[2:6, 2:6] = (255, 0, 0, 255)
    file = io.BytesIO()
    Picture.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue(), pixels[..., :3]


def test_only_transparency_makes_a_subject() -> None:
    data, pixels = cut_out("RGB")
    assert opacity(data) is None
    rng = np.random.default_rng(0)
    assert vary(data, pixels, 1.0, 0.5, rng) is pixels
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn


def test_the_ground_becomes_one_colour_and_the_subject_stays() -> None:
    data, pixels = cut_out()
    grounds = set()
    for seed in range(20):
        found = vary(data, pixels, 1.0, 1.0, np.random.default_rng(seed))
        assert (found[2:6, 2:6] == (255, 0, 0)).all()
        around = {tuple(colour) for colour in found.reshape(-1, 3).tolist()} - {(255, 0, 0)}
        assert len(around) == 1
        grounds |= around
    assert len(grounds) == 20


def test_what_is_half_transparent_is_mixed() -> None:
    file = io.BytesIO()
    Picture.new("RGBA", (2, 2), (200, 100, 0, 51)).save(file, "PNG")
    pixels = np.full((2, 2, 3), (200, 100, 0), np.uint8)
    found = vary(file.getvalue(), pixels, 1.0, 1.0, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    rng.random()
    expected = np.round(0.2 * pixels + 0.8 * rng.integers(0, 256, 3))
    np.testing.assert_array_equal(found, expected)


def test_grey_subjects_get_a_grey_ground() -> None:
    data, pixels = cut_out("LA")
    found = vary(data, pixels[..., 0], 1.0, 1.0, np.random.default_rng(0))
    assert found.shape == (SIZE, SIZE)
    assert (found[2:6, 2:6] == 255).all()
    assert len({*found.flatten().tolist()}) == 2
    assert found[0, 0] != pixels[0, 0, 0]


def test_backgrounds_are_as_frequent_as_asked() -> None:
    data, pixels = cut_out()
    changed = [vary(data, pixels, 0.3, 1.0, np.random.default_rng(seed))[0, 0, 1] != 200 for seed in range(500)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.06)


def test_crops_have_the_shape_of_the_whole_and_at_least_the_share() -> None:
    pixels = np.arange(40 * 80 * 3, dtype=np.uint32).reshape(40, 80, 3).astype(np.uint8)
    file = io.BytesIO()
    Picture.new("RGBA", (80, 40), (0, 0, 0, 0)).save(file, "PNG")
    shapes = [vary(file.getvalue(), pixels, 0.0, 0.25, np.random.default_rng(seed)).shape for seed in range(200)]
    assert all(abs(2 * height - width) <= 2 and height >= 20 and width >= 40 for height, width, _ in shapes)
    assert min(height for height, _, _ in shapes) < 23
    assert max(height for height, _, _ in shapes) > 38


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """A subject and the picture that is asked, which is cut out too."""
    for name in ("subject", "target"):
        (tmp_path / f"{name}.png").write_bytes(cut_out()[0])
    (tmp_path / "plain.png").write_bytes(cut_out("RGB")[0])
    given = [{"image": f"{name}.png", "asked": False} for name in ("subject", "plain")]
    write_lines(tmp_path / "docs.jsonl", {"parts": ["w", *given, {"image": "target.png"}]})
    return tmp_path


def images(path: Path, seed: int, **rules: Any) -> list[np.ndarray]:
    ((row,),) = (dataset(path, loss_on="last_image", **rules).sample(0, np.random.default_rng(seed)),)
    return [segment.value for segment in row if segment.modality == "image"]


def test_rows_change_subjects_that_are_given_and_nothing_else(documents: Path) -> None:
    usual = images(documents, 3)
    subject, plain, target = images(documents, 3, subject_background=1.0, subject_crop=0.5)
    assert not np.array_equal(subject, usual[0])
    np.testing.assert_array_equal(plain, usual[1])
    np.testing.assert_array_equal(target, usual[2])
    again = images(documents, 3, subject_background=1.0, subject_crop=0.5)
    np.testing.assert_array_equal(subject, again[0])
    assert not np.array_equal(subject, images(documents, 4, subject_background=1.0, subject_crop=0.5)[0])


@pytest.mark.parametrize("rules", [{"subject_crop": 0.0}, {"subject_crop": 1.5}, {"subject_background": 2}])
def test_shares_are_shares(documents: Path, rules: Any) -> None:
    with pytest.raises(ConfigError, match=next(iter(rules))):
        dataset(documents, **rules)
