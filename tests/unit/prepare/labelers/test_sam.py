"""Masks of Segment Anything as edges, and as instances of every stored crop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourm import catalog
from fourm.config import build
from fourm.data.decode import decode
from fourm.data.encode import npy
from fourm.data.instances import contains
from fourm.errors import CheckpointError, ConfigError
from fourm.prepare.labelers.base import Origin, Photo
from fourm.prepare.labelers.configs import CropSettingsConfig
from fourm.prepare.labelers.feature_configs import SamEdgeConfig, SamInstanceConfig
from fourm.prepare.labelers.sam_edge import SamEdge
from fourm.prepare.labelers.sam_instance import SamInstance
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.configs import VQVAEConfig
from fourm.tokenizers.vqvae import VQVAE

transformers = pytest.importorskip("transformers")
pytest.importorskip("cv2")

ALL = {"points_per_side": 4, "min_iou": 0.0, "min_stability": 0.0, "max_overlap": 1.0, "precision": "fp32"}
"""Options that keep the masks of a network that has learned nothing."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SAM, as `save_pretrained` writes it."""
    path = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 8, "window_size": 4, "global_attn_indexes": [0], "num_pos_feats": 8,
            "initializer_range": 0.5,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16, "iou_head_depth": 2,
        },
    )  # fmt: skip
    model = transformers.SamModel(config)
    for parameter in model.mask_decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(path)
    square, quarter = {"height": 64, "width": 64}, {"height": 16, "width": 16}
    transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size=square, mask_size={"longest_edge": 16}, mask_pad_size=quarter
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def mask_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("masks"), "sam_mask")


def save_tokenizer(path: Path, modality: str, codebook_size: int = 64) -> Path:
    torch.manual_seed(1)
    networks = {"kind": "vit", "patch_size": 16, "dim": 16, "depth": 1, "num_heads": 2}
    quantizer = {"kind": "ema", "codebook_size": codebook_size, "dim": 8}
    config = build(VQVAEConfig, {"encoder": networks, "decoder": networks, "quantizer": quantizer})
    VQVAE(catalog.get(modality), config).eval().save(path)
    return path


def photo(height: int = 48, width: int = 80, crops: list[list[int]] | None = None, seed: int = 0) -> Photo:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = {} if crops is None else {"crop_settings": npy(np.array(crops, np.int32))}
    settings = CropSettingsConfig().modality("crop_settings")
    return Photo("a", image, Origin("a.jpg", width, height), labels, {"crop_settings": settings})


def rectangles(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Masks of boxes top, left, bottom, right."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def read(data: bytes, config: Any, source: str) -> Any:
    return decode(data, config.modality(source), lambda: "here")


def test_edges_lie_where_masks_end(folder: Path) -> None:
    edges = SamEdge(SamEdgeConfig(name=str(folder), **ALL), "cpu").edges(rectangles((40, 40), (10, 10, 30, 20)))

    assert set(np.unique(edges)) == {0, 255}
    distance = np.abs(np.argwhere(edges)[:, 0] - 19.5), np.abs(np.argwhere(edges)[:, 1] - 14.5)
    on_border = np.maximum(distance[0] - 10, distance[1] - 5)
    assert np.abs(on_border).max() <= 1
    assert edges[15:25, 13:17].sum() == 0


def test_a_photograph_becomes_a_grey_picture_of_edges(folder: Path) -> None:
    config = SamEdgeConfig(name=str(folder), **ALL)
    photos = [photo(), photo(50, 30, seed=1)]
    network = SamEdge(config, "cpu")

    files = network.label(photos)

    shapes = [read(data, config, "sam_edge").shape for data in files]
    assert shapes == [(48, 80), (50, 30)]
    assert len(network.masks(photos[0].image)) > 1
    assert read(files[0], config, "sam_edge").any()
    assert files == [network.label([one])[0] for one in photos]


def test_bf16_finds_much_the_same(folder: Path) -> None:
    exact, rounded = (
        SamEdge(SamEdgeConfig(name=str(folder), **{**ALL, "precision": precision}), "cpu").masks(photo().image)
        for precision in ("fp32", "bf16")
    )

    assert abs(float(exact.any(0).mean()) - float(rounded.any(0).mean())) < 0.05


@pytest.mark.skipif(not hasattr(transformers, "Sam2Model"), reason="this version of transformers has no SAM 2")
def test_sam_2_is_asked_in_the_same_way(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=16, num_attention_heads=1, image_size=[64, 64], patch_kernel_size=[7, 7], patch_stride=[4, 4],
        patch_padding=[3, 3], blocks_per_stage=[1, 1, 1, 1], embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[8, 4, 4, 2],
        window_positional_embedding_background_size=[4, 4], global_attention_blocks=[],
    )  # fmt: skip
    config = transformers.Sam2Config(
        vision_config=transformers.Sam2VisionConfig(
            backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=32,
            backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        ),
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16, "iou_head_depth": 2,
        },
    )  # fmt: skip
    transformers.Sam2Model(config).save_pretrained(tmp_path)
    square, quarter = {"height": 64, "width": 64}, {"height": 16, "width": 16}
    transformers.Sam2ImageProcessor(size=square, mask_size=quarter).save_pretrained(tmp_path)

    masks = SamEdge(SamEdgeConfig(name=str(tmp_path), **ALL), "cpu").masks(photo().image)

    assert masks.shape == (48, 48, 80)  # three masks at each of 16 points
    assert masks.any()


def test_filters_may_leave_nothing(folder: Path, mask_tokenizer: Path) -> None:
    strict = {"name": str(folder), "points_per_side": 2, "min_iou": 1.0, "precision": "fp32"}
    edge = SamEdgeConfig(**strict)
    instance = SamInstanceConfig(**strict, mask_tokenizer=mask_tokenizer)

    assert not read(SamEdge(edge, "cpu").label([photo()])[0], edge, "sam_edge").any()
    (crop,) = read(SamInstance(instance, "cpu").label([photo()])[0], instance, "sam_instance")
    assert len(crop["num_points"]) == 0


def test_instances_are_where_their_masks_are_in_each_crop(
    folder: Path, mask_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SamInstanceConfig(name=str(folder), mask_tokenizer=mask_tokenizer, **ALL)
    network = SamInstance(config, "cpu")
    monkeypatch.setattr(network, "masks", lambda image: rectangles((112, 224), (28, 70, 56, 84), (0, 0, 112, 20)))
    crops = [[0, 56, 112, 112, 0], [0, 56, 112, 112, 1], [0, 0, 112, 224, 0]]

    plain, mirrored, whole = read(network.label([photo(112, 224, crops)])[0], config, "sam_instance")

    # The second mask lies outside the first two crops.
    np.testing.assert_allclose(plain["box"], [[28, 56, 56, 112]], atol=1)
    np.testing.assert_allclose(mirrored["box"], [[168, 56, 196, 112]], atol=1)
    np.testing.assert_allclose(whole["box"], [[70, 56, 84, 112], [0, 0, 20, 224]], atol=1)
    points = np.array([[42, 80], [100, 80], [182, 80], [77, 80]])
    assert contains(plain["points"], plain["num_points"], points).tolist() == [[True, False, False, False]]
    assert contains(mirrored["points"], mirrored["num_points"], points).tolist() == [[False, False, True, False]]
    assert contains(whole["points"], whole["num_points"], points)[0].tolist() == [False, False, False, True]


def test_the_ids_of_a_mask_are_those_of_its_picture_in_the_box(
    folder: Path, mask_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SamInstanceConfig(name=str(folder), mask_tokenizer=mask_tokenizer, **ALL)
    network = SamInstance(config, "cpu")
    corner = rectangles((224, 224), (0, 0, 64, 64), (0, 0, 128, 32))
    shape = corner[:1] & ~corner[1:]  # the right half of the box, so that the box is full
    halves = rectangles((224, 224), (32, 32, 96, 96)) & ~rectangles((224, 224), (32, 64, 64, 96))
    monkeypatch.setattr(network, "masks", lambda image: np.concatenate([shape, halves]))

    (crop,) = read(network.label([photo(224, 224)])[0], config, "sam_instance")

    full, cut = np.ones((64, 64), np.float32), np.ones((64, 64), np.float32)
    cut[:32, 32:] = 0
    tokenizer = load_tokenizer(mask_tokenizer)
    expected = tokenizer.encode(torch.from_numpy(np.stack([full, cut]))[:, None]).flatten(1)
    assert crop["box"].tolist() == [[32, 0, 64, 64], [32, 32, 96, 96]]
    assert crop["token_ids"].tolist() == expected.tolist()


def test_small_instances_are_dropped_and_of_parts_the_largest_is_outlined(
    folder: Path, mask_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SamInstanceConfig(name=str(folder), mask_tokenizer=mask_tokenizer, min_area=30, **ALL)
    network = SamInstance(config, "cpu")
    parts = rectangles((224, 224), (10, 10, 14, 14), (100, 100, 140, 140)).any(0, keepdims=True)
    tiny = rectangles((224, 224), (10, 10, 15, 15))
    monkeypatch.setattr(network, "masks", lambda image: np.concatenate([tiny, parts]))

    (crop,) = read(network.label([photo(224, 224)])[0], config, "sam_instance")

    assert crop["box"].tolist() == [[10, 10, 140, 140]]
    assert crop["points"].min() == 100


def test_instances_of_a_batch_do_not_change_each_other(folder: Path, mask_tokenizer: Path) -> None:
    config = SamInstanceConfig(name=str(folder), mask_tokenizer=mask_tokenizer, **ALL)
    network = SamInstance(config, "cpu")
    photos = [photo(crops=[[0, 0, 48, 48, 0], [0, 30, 40, 44, 1]]), photo(60, 60, seed=1)]

    files = network.label(photos)

    assert [len(read(data, config, "sam_instance")) for data in files] == [2, 1]
    assert sum(len(crop["num_points"]) for crop in read(files[0], config, "sam_instance")) > 0
    assert files == [network.label([one])[0] for one in photos]


def test_the_tokenizer_has_to_be_one_of_masks(folder: Path, tmp_path: Path, mask_tokenizer: Path) -> None:
    config = SamInstanceConfig(name=str(folder), mask_tokenizer=mask_tokenizer, **ALL)
    edges = save_tokenizer(tmp_path / "canny", "canny@64")
    large = save_tokenizer(tmp_path / "large", "sam_mask", 2048)

    with pytest.raises(
        ConfigError, match=r"mask_tokenizer is .*, a tokenizer of 'canny@64'; expected one of 'sam_mask'"
    ):
        SamInstance(replace(config, mask_tokenizer=edges), "cpu")
    with pytest.raises(ConfigError, match=r"16 codes out of 2048; expected 16 codes out of at most 1024"):
        SamInstance(replace(config, mask_tokenizer=large), "cpu")
    with pytest.raises(CheckpointError, match="is not a saved tokenizer"):
        SamInstance(replace(config, mask_tokenizer=tmp_path), "cpu")
    assert replace(config, mask_tokenizer=edges).identity() != config.identity()


def test_weights_that_cannot_be_had_name_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"mask generator '.*': its weights cannot be loaded.* set `weights`"):
        SamEdge(SamEdgeConfig(name=str(tmp_path)), "cpu")
