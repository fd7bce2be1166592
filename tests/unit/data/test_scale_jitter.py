"""Boxes and masks stay on what they mark, however an image is scaled, cropped, padded and mirrored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fourm.data.coco import Instances
from fourm.data.coco_config import ScaleJitterConfig
from fourm.data.scale_jitter import scale_jitter
from fourm.errors import ConfigError
from fourm.rng import generator


def scene(height: int = 48, width: int = 64) -> Instances:
    """Two bright rectangles on black: red, and green."""
    image = np.zeros((height, width, 3), np.uint8)
    masks = np.zeros((2, height, width), bool)
    masks[0, 8:24, 8:32] = True
    masks[1, 32:40, 40:60] = True
    image[masks[0], 0] = 255
    image[masks[1], 1] = 255
    boxes = np.array([[8, 8, 32, 24], [40, 32, 60, 40]], np.float32)
    area = masks.sum((1, 2)).astype(np.float32)
    return Instances(image, boxes, np.array([1, 2]), masks, np.array([False, True]), area, 5)


def test_at_full_size_nothing_but_the_padding_is_new() -> None:
    found = scale_jitter(scene(), 64, ScaleJitterConfig(scale=(1, 1), hflip=0), generator(0))
    before = scene()
    assert (found.image[:48] == before.image).all()
    assert (found.image[48:] == 128).all()
    assert found.boxes.tolist() == before.boxes.tolist()
    assert found.masks is not None
    assert before.masks is not None
    assert (found.masks[:, :48] == before.masks).all()
    assert not found.masks[:, 48:].any()


def test_mirroring_mirrors_image_boxes_and_masks() -> None:
    found = scale_jitter(scene(64, 64), 64, ScaleJitterConfig(scale=(1, 1), hflip=1), generator(0))
    assert found.boxes.tolist() == [[32, 8, 56, 24], [4, 32, 24, 40]]
    assert (found.image == scene(64, 64).image[:, ::-1]).all()


@pytest.mark.parametrize("number", range(40))
def test_masks_and_boxes_lie_on_their_colours(number: int) -> None:
    found = scale_jitter(scene(), 64, ScaleJitterConfig(scale=(0.3, 3)), generator("jitter", number))
    assert found.image.shape == (64, 64, 3)
    assert found.masks is not None
    for label, box, mask in zip(found.labels, found.boxes, found.masks):
        colour = found.image[..., label - 1].astype(int) - found.image[..., 2 - label]
        disagree = (colour > 127) != mask
        assert disagree.sum() <= 2 * (mask.shape[0] + mask.shape[1])  # interpolation at the borders alone
        assert np.abs(colour[mask] > 127).mean() > 0.6
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert box.tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("number", range(20))
def test_without_masks_boxes_are_moved_and_cut(number: int) -> None:
    config = ScaleJitterConfig(scale=(0.5, 2))
    whole = scale_jitter(scene(), 64, config, generator("boxes", number))
    boxes = scale_jitter(replace(scene(), masks=None), 64, config, generator("boxes", number))
    assert boxes.masks is None
    for label, box in zip(whole.labels, whole.boxes):
        assert np.abs(boxes.boxes[boxes.labels == label] - box).max() <= 1.01


def test_what_is_cropped_away_is_dropped_with_all_it_has() -> None:
    config = ScaleJitterConfig(scale=(4, 4), hflip=0)
    counts = set()
    for number in range(60):
        found = scale_jitter(scene(), 64, config, generator("crop", number))
        sizes = {len(found.boxes), len(found.labels), len(found.crowd), len(found.area)}
        assert found.masks is not None
        assert sizes == {len(found.masks)}
        counts.add(len(found.boxes))
    assert 0 in counts
    assert len(counts) > 1


def test_instances_of_which_little_is_left_can_be_dropped() -> None:
    def smallest(share: float) -> float:
        config = ScaleJitterConfig(scale=(2, 2), hflip=0, min_visible=share)
        areas = [scale_jitter(scene(), 64, config, generator("cut", n)) for n in range(60)]
        return min(float((f.boxes[:, 2:] - f.boxes[:, :2]).prod(1)[f.labels == 1].min(initial=9e9)) for f in areas)

    whole = 24 * 16 * 4
    assert smallest(0.0) < 0.5 * whole <= smallest(0.5)


def test_the_same_generator_gives_the_same_picture() -> None:
    one, two = (scale_jitter(scene(), 64, ScaleJitterConfig(), generator(3)) for _ in range(2))
    assert (one.image == two.image).all()
    assert (one.boxes == two.boxes).all()


def test_scales_are_checked() -> None:
    with pytest.raises(ConfigError, match="scale"):
        ScaleJitterConfig(scale=(2, 1))
