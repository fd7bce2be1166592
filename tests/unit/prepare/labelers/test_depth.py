"""Depth by networks of the transformers library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from transformers import (
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessor,
    GLPNConfig,
    GLPNForDepthEstimation,
    GLPNImageProcessor,
)

from fourm.data.decode import decode
from fourm.data.encode import png
from fourm.errors import ConfigError
from fourm.prepare.labelers.base import Origin, Photo
from fourm.prepare.labelers.configs import MetadataConfig
from fourm.prepare.labelers.depth import Depth, turned
from fourm.prepare.labelers.metadata import Metadata
from fourm.prepare.labelers.network_configs import DepthConfig


def depth_anything(folder: Path, kind: str = "relative", max_depth: int = 1) -> Path:
    torch.manual_seed(0)
    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2,
        out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, patch_size=14, neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8, head_hidden_size=4, depth_estimation_type=kind, max_depth=max_depth,
    )  # fmt: skip
    model = DepthAnythingForDepthEstimation(config)
    for parameter in model.parameters():
        parameter.data.mul_(2)
    model.head.conv3.bias.data.fill_(0.1)
    model.save_pretrained(folder)
    size = {"height": 42, "width": 42}
    DPTImageProcessor(size=size, keep_aspect_ratio=True, ensure_multiple_of=14).save_pretrained(folder)
    return folder


def values(labeler: Depth, photos: list[Photo]) -> list[np.ndarray]:
    modality = labeler.config.modality("depth")
    return [decode(data, modality, lambda: "depth") for data in labeler.label(photos)]


def computed(labeler: Depth, photo: Photo) -> np.ndarray:
    """What the library makes of a photograph."""
    with torch.no_grad():
        outputs = labeler.model(**labeler.prepare(photo))
    size = photo.image.shape[:2]
    return labeler.processor.post_process_depth_estimation(outputs, target_sizes=[size])[0]["predicted_depth"].numpy()


def test_relative_depth_is_inverse_depth_turned_round_over_the_full_scale(tmp_path: Path, photos: list[Photo]) -> None:
    labeler = Depth(DepthConfig(weights=depth_anything(tmp_path)), "cpu")

    for photo, found in zip(photos, values(labeler, photos)):
        inverse = computed(labeler, photo)
        assert np.ptp(inverse) > 0
        assert (found.min(), found.max()) == (0, 1)
        assert found.flat[inverse.argmax()] == 0  # the nearest
        np.testing.assert_allclose(found, (inverse.max() - inverse) / np.ptp(inverse), atol=1e-3)


def test_metric_depth_is_metres_up_to_the_largest(tmp_path: Path, photos: list[Photo]) -> None:
    weights = depth_anything(tmp_path, "metric", max_depth=80)
    labeler = Depth(DepthConfig(weights=weights, scale="metric", value_range=(0.25, 40)), "cpu")

    for photo, found in zip(photos, values(labeler, photos)):
        metres = computed(labeler, photo)
        np.testing.assert_allclose(found, np.clip(metres, 0, 40), atol=0.02)

    assert labeler.config.modality("depth").value_range == (0.25, 40)


def test_networks_for_metres_give_relative_depth_too(tmp_path: Path, photos: list[Photo]) -> None:
    labeler = Depth(DepthConfig(weights=depth_anything(tmp_path, "metric", max_depth=80)), "cpu")

    (found,) = values(labeler, photos[:1])

    np.testing.assert_allclose(found, turned(1 / computed(labeler, photos[0])), atol=1e-3)


def test_relative_networks_know_no_metres(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scale is metric, but the depth network .* gives relative depth"):
        Depth(DepthConfig(weights=depth_anything(tmp_path), scale="metric"), "cpu")


def test_each_photograph_has_depth_of_its_size_whatever_else_is_in_the_batch(
    tmp_path: Path, photos: list[Photo]
) -> None:
    labeler = Depth(DepthConfig(weights=depth_anything(tmp_path)), "cpu")

    for photo, found in zip(photos, values(labeler, photos)):
        assert found.shape == photo.image.shape[:2]
        np.testing.assert_allclose(found, values(labeler, [photo])[0], atol=1e-4)


def test_other_networks_for_metres_are_known_as_such(tmp_path: Path, photos: list[Photo]) -> None:
    config = GLPNConfig(
        depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8,
        mlp_ratios=[1, 1, 1, 1], max_depth=10,
    )  # fmt: skip
    GLPNForDepthEstimation(config).save_pretrained(tmp_path)
    GLPNImageProcessor().save_pretrained(tmp_path)

    labeler = Depth(DepthConfig(weights=tmp_path, scale="metric"), "cpu")

    found = values(labeler, photos[:1])[0]
    np.testing.assert_allclose(found, computed(labeler, photos[0]), atol=0.01)
    assert 0 < found.min() < found.max() < 10


def test_the_config_says_what_a_network_gives_where_its_own_does_not(tmp_path: Path) -> None:
    labeler = Depth(DepthConfig(weights=depth_anything(tmp_path), scale="metric", gives="metres"), "cpu")

    assert labeler.gives == "metres"


def test_occlusions_in_relative_depth_are_jumps_of_the_depth_behind_it() -> None:
    modality, pixels = DepthConfig().modality("depth"), np.zeros((32, 32, 3), np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 0.5, 32, dtype=np.float32), (32, 32))
    step = np.where(np.arange(32) < 16, ramp, 0.9)

    def score(depth: np.ndarray) -> float:
        file = png(np.rint(depth * 65535).astype(np.uint16))
        photo = Photo("a", pixels, Origin("a.png", 32, 32), {"depth": file}, {"depth": modality})
        return json.loads(Metadata(MetadataConfig(), "cpu").label([photo])[0])["occlusion_score"]

    assert score(ramp) == 0
    assert score(step) == pytest.approx(1 / 32, abs=1e-6)


def test_a_photograph_of_one_depth_is_all_near() -> None:
    np.testing.assert_array_equal(turned(np.full((2, 3), 7, np.float32)), np.zeros((2, 3)))


def test_values_that_are_no_numbers_are_an_error(tmp_path: Path, photos: list[Photo]) -> None:
    labeler = Depth(DepthConfig(weights=depth_anything(tmp_path)), "cpu")
    labeler.model.head.conv3.bias.data.fill_(float("inf"))

    with pytest.raises(ValueError, match="not finite"):
        labeler.label(photos[:1])


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (2.0, 1.0)])
def test_ranges_of_metres_have_to_rise_from_above_zero(wrong: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="value_range"):
        DepthConfig(value_range=wrong)
