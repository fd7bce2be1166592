"""Labelers that need nothing but the pixels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.config import build
from fourm.data.decode import decode
from fourm.errors import ConfigError, DataError
from fourm.modality import Modality
from fourm.prepare.labelers import metadata as facts
from fourm.prepare.labelers.alpha import Alpha
from fourm.prepare.labelers.base import Origin, Photo
from fourm.prepare.labelers.canny import Canny
from fourm.prepare.labelers.configs import (
    AlphaConfig,
    CannyConfig,
    CropSettingsConfig,
    LabelerConfig,
    MetadataConfig,
    PaletteConfig,
)
from fourm.prepare.labelers.crop_settings import CropSettings
from fourm.prepare.labelers.file_configs import TextFileConfig
from fourm.prepare.labelers.metadata import Metadata
from fourm.prepare.labelers.palette import Palette, palettes
from fourm.prepare.labelers.text_file import TextFile
from tests.photographs import photograph, quadrants


def photo(image: Image.Image | None = None, **options: Any) -> Photo:
    pixels = np.asarray(image or photograph(0))
    return Photo("key", pixels, Origin("photo.jpg", 640, 480), **options)


def value(labeler: Any, config: LabelerConfig, taken: Photo) -> Any:
    """What a reader gets of the label."""
    return decode(labeler(config, "cpu").label([taken])[0], config.modality("label"), lambda: "")


def test_thresholds_of_edges_are_in_order() -> None:
    with pytest.raises(ConfigError, match="low is 200 and high is 100; expected low <= high"):
        build(CannyConfig, {"low": 200, "high": 100})
    assert build(CannyConfig, {"low": 100, "high": 100}).high == 100


def test_edges_are_where_the_color_changes() -> None:
    edges = value(Canny, CannyConfig(), photo(quadrants(80, 60)))
    assert edges.shape == (60, 80)
    assert set(np.unique(edges)) == {0, 255}
    rows, columns = np.nonzero(edges)
    assert (np.minimum(np.abs(rows - 30), np.abs(columns - 40)) <= 2).all()
    assert not value(Canny, CannyConfig(), photo(Image.new("RGB", (80, 60), "red"))).any()


def test_palettes_hold_the_colors_of_an_image() -> None:
    found = value(Palette, PaletteConfig(), photo(quadrants()))
    assert sorted(found) == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(found[4]) == [(0, 0, 255), (0, 255, 0), (255, 0, 0), (255, 255, 255)]
    assert all(len(colors) == size for size, colors in found.items())


def test_palettes_begin_with_the_most_frequent_color() -> None:
    image = Image.new("RGB", (40, 40), (10, 20, 30))
    image.paste((240, 200, 10), (0, 0, 40, 10))
    assert palettes(np.asarray(image), 2)["2"] == [[10, 20, 30], [240, 200, 10]]
    assert palettes(np.asarray(image), 1)["1"] == [[68, 65, 25]]


def test_more_colors_never_fit_worse() -> None:
    pixels = np.asarray(photograph(5)).reshape(-1, 3).astype(float)
    errors = [
        ((pixels[:, None] - np.array(colors)) ** 2).sum(-1).min(1).mean()
        for colors in palettes(np.asarray(photograph(5)), 7).values()
    ]
    assert all(later <= earlier * 1.05 for earlier, later in pairwise(errors))
    assert errors[-1] < 0.3 * errors[0]


def test_a_palette_is_about_as_good_as_one_searched_for_longer(rng: np.random.Generator) -> None:
    pixels = np.asarray(photograph(6)).reshape(-1, 3).astype(float)
    centers = pixels[rng.choice(len(pixels), 7, replace=False)]
    for _ in range(50):
        nearest = ((pixels[:, None] - centers) ** 2).sum(-1).argmin(1)
        centers = np.stack([pixels[nearest == k].mean(0) if (nearest == k).any() else centers[k] for k in range(7)])
    searched = ((pixels[:, None] - centers) ** 2).sum(-1).min(1).mean()
    ours = ((pixels[:, None] - np.array(palettes(np.asarray(photograph(6)), 7)["7"])) ** 2).sum(-1).min(1).mean()
    assert ours < 1.3 * searched


def test_facts_of_pixels_against_their_definitions() -> None:
    image = np.asarray(photograph(7))
    red, green, blue = image.reshape(-1, 3).astype(float).T
    found = facts.of_pixels(image)
    across, along = red - green, (red + green) / 2 - blue
    colorful = np.hypot(across.std(), along.std()) + 0.3 * np.hypot(across.mean(), along.mean())
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    largest, least = image.max(2).ravel().astype(float), image.min(2).ravel().astype(float)
    assert found["colorfulness"] == pytest.approx(colorful, rel=1e-9)
    assert found["brightness"] == pytest.approx(grey.mean(), abs=0.5)
    assert found["contrast"] == pytest.approx(grey.std(), abs=0.5)
    assert found["saturation"] == pytest.approx((255 * (largest - least) / np.maximum(largest, 1)).mean(), abs=0.5)


def test_facts_of_plain_images() -> None:
    black = facts.of_pixels(np.zeros((20, 20, 3), np.uint8))
    assert black == {"colorfulness": 0, "brightness": 0, "contrast": 0, "saturation": 0, "entropy": 0}
    half = np.zeros((20, 20, 3), np.uint8)
    half[:10] = 255
    assert facts.of_pixels(half)["entropy"] == pytest.approx(1)
    assert facts.of_pixels(half)["contrast"] == pytest.approx(127.5)


def test_facts_of_other_labels() -> None:
    labels = {
        "caption": b'"A dog runs. It is fast!"',
        "det": b'{"instances": [{"boxes": [0, 0, 1, 1], "class_name": "person", "score": 0.9},'
        b'{"boxes": [0, 0, 1, 1], "class_name": "dog", "score": 0.9},'
        b'{"boxes": [0, 0, 1, 1], "class_name": "cat", "score": 0.2}]}',
    }
    modalities = {"caption": _catalog("caption"), "det": _catalog("det")}
    found = value(Metadata, MetadataConfig(), photo(labels=labels, modalities=modalities))
    assert found["original_width"], found["original_height"] == (640, 480)
    assert (found["caption_n_chars"], found["caption_n_words"], found["caption_n_sentences"]) == (23, 6, 2)
    assert (found["n_humans"], found["n_coco_instances"], found["coco_instance_diversity"]) == (1, 2, 2)


@pytest.mark.parametrize(
    ("text", "sentences"), [("", 0), ("a dog", 1), ("A dog.", 1), ("A dog... A cat", 2), ("v1.5 is out!", 1)]
)
def test_sentences(text: str, sentences: int) -> None:
    assert facts.of_caption(text)["caption_n_sentences"] == sentences


def test_facts_of_a_label_map() -> None:
    modality = _catalog("semseg_coco@224")
    names = list(modality.classes)
    ids = np.full((10, 10), names.index("grass") + 1)
    ids[:5] = names.index("dog") + 1
    ids[0] = 0
    found = facts.of_classes(ids, modality)
    assert found == {"walkability": 0.5, "objectness": 0.4, "semantic_diversity": 2}


def test_facts_of_geometry() -> None:
    flat = np.full((8, 8, 3), (128, 128, 255), np.uint8)
    assert facts.geometric_complexity(flat) == pytest.approx(0, abs=1e-3)
    corner = flat.copy()
    corner[:, 4:] = (255, 128, 128)
    assert facts.geometric_complexity(corner) == pytest.approx(1 - np.sqrt(0.5), abs=0.01)
    depth = np.ones((10, 10), np.float32)
    assert facts.occlusion_score(depth) == 0
    depth[:, 5:] = 2
    assert facts.occlusion_score(depth) == pytest.approx(0.1)


def test_crops_are_a_function_of_the_key() -> None:
    config = CropSettingsConfig(num_crops=4)
    first, again = (value(CropSettings, config, photo()) for _ in range(2))
    assert (first == again).all()
    assert first[0].tolist() == [0, 15, 90, 90, 0]
    other = decode(
        CropSettings(config, "cpu").label([Photo("other", photo().image, photo().origin)])[0], config.modality("c"), str
    )
    assert (other[0] == first[0]).all()
    assert (other[1:] != first[1:]).any()


def test_masks_of_cut_out_photographs() -> None:
    alpha = np.zeros((90, 120), np.uint8)
    alpha[10:20, 30:50] = 255
    mask = value(Alpha, AlphaConfig(), photo(alpha=alpha))
    assert (mask == (alpha > 0)).all()
    assert value(Alpha, AlphaConfig(), photo()).all()
    with pytest.raises(DataError, match="opaque"):
        value(Alpha, AlphaConfig(opaque=False), photo())


@pytest.mark.parametrize(
    ("lines", "expected"),
    [("all", "A bee. Fleurs"), ("first", "A bee."), ("alternatives", ["A bee.", "Fleurs"])],
)
def test_text_beside_a_photograph(lines: Any, expected: str | Sequence[str]) -> None:
    config = TextFileConfig(lines=lines)
    beside = {"{path}.txt": "\ufeffA bee.\r\n\r\nFleurs\n".encode()}
    assert json.loads(TextFile(config, "cpu").label([photo(beside=beside)])[0]) == expected
    with pytest.raises(DataError, match="UTF-8"):
        TextFile(config, "cpu").label([photo(beside={"{path}.txt": b"\xff\xfe"})])


@pytest.mark.parametrize(("lines", "expected"), [("all", "A bee. Fleurs"), ("alternatives", ["A bee.", "Fleurs"])])
def test_text_beside_a_photograph_has_no_control_characters(lines: Any, expected: str | Sequence[str]) -> None:
    beside = {"{path}.txt": b"A \x1bbee.\x00\n\x07\nFleurs"}
    assert json.loads(TextFile(TextFileConfig(lines=lines), "cpu").label([photo(beside=beside)])[0]) == expected


def _catalog(name: str) -> Modality:
    from fourm.catalog import get

    return get(name)
