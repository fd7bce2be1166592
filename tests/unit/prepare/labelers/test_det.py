"""Boxes by networks of the transformers library, and by torchvision's detectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("transformers")
pytest.importorskip("scipy")

from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessor,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
)

from fourm.catalog import COCO_THINGS
from fourm.data.decode import decode
from fourm.errors import CheckpointError, ConfigError
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.det import Det, box_names, boxes_file
from fourm.prepare.labelers.network_configs import DetConfig, TorchvisionDetConfig
from fourm.prepare.labelers.torchvision_det import TorchvisionDet

NAMES = {0: "N/A", 1: "person", 2: "wombat"}
TORCHVISION = "fasterrcnn_mobilenet_v3_large_320_fpn"


def detr(folder: Path) -> Path:
    """A DETR of three queries."""
    torch.manual_seed(0)
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=["stage4"])
    config = DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=3, id2label=NAMES, label2id={name: n for n, name in NAMES.items()},
    )  # fmt: skip
    model = DetrForObjectDetection(config)
    for parameter in model.parameters():
        parameter.data.mul_(3)
    model.save_pretrained(folder)
    DetrImageProcessor(size={"shortest_edge": 64, "longest_edge": 128}).save_pretrained(folder)
    return folder


def rt_detr(folder: Path) -> Path:
    torch.manual_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = RTDetrConfig(
        backbone_config=backbone, encoder_hidden_dim=16, encoder_in_channels=[8] * 3, encoder_ffn_dim=16,
        encoder_attention_heads=2, d_model=16, num_queries=10, decoder_in_channels=[16] * 3, decoder_ffn_dim=16,
        decoder_layers=1, decoder_attention_heads=2, num_denoising=0, id2label={0: "tree", 1: "wombat"},
        label2id={"tree": 0, "wombat": 1},
    )  # fmt: skip
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def always(labeler: Det, box: tuple[float, float, float, float], logits: list[float]) -> None:
    """Let every query see one box (middle, width, height) of these logits."""
    for layer, values in ((labeler.model.bbox_predictor.layers[-1], torch.logit(torch.tensor(box))),
                          (labeler.model.class_labels_classifier, torch.tensor(logits))):  # fmt: skip
        layer.weight.data.zero_()
        layer.bias.data.copy_(values)


def instances(labeler: Any, photos: list[Photo]) -> list[list[dict[str, Any]]]:
    modality = labeler.config.modality("det")
    return [decode(data, modality, lambda: "det") for data in labeler.label(photos)]


def arrays(found: list[dict[str, Any]]) -> tuple[list[str], np.ndarray]:
    rows = sorted((one["class_name"], *one["boxes"], one["score"]) for one in found)
    return [row[0] for row in rows], np.array([row[1:] for row in rows])


def assert_alike(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    assert arrays(first)[0] == arrays(second)[0]
    np.testing.assert_allclose(arrays(first)[1], arrays(second)[1], atol=1e-3)


def test_boxes_are_shares_of_each_photograph_with_class_and_score(tmp_path: Path, photos: list[Photo]) -> None:
    labeler = Det(DetConfig(weights=detr(tmp_path)), "cpu")
    always(labeler, (0.25, 0.5, 0.5, 0.4), [0.0, 0.0, 2.0, 0.0])
    score = float(np.exp(2) / (np.exp(2) + 3))

    for found in instances(labeler, photos):
        assert len(found) == 3
        for one in found:
            assert one["class_name"] == "wombat"
            np.testing.assert_allclose([*one["boxes"], one["score"]], [0, 0.3, 0.5, 0.7, score], atol=1e-4)


def test_boxes_below_the_threshold_and_without_a_class_are_left_out(tmp_path: Path, photos: list[Photo]) -> None:
    labeler = Det(DetConfig(weights=detr(tmp_path), threshold=0.72), "cpu")

    always(labeler, (0.5, 0.5, 0.5, 0.5), [0.0, 0.0, 2.0, 0.0])
    assert instances(labeler, photos[:1]) == [[]]
    always(labeler, (0.5, 0.5, 0.5, 0.5), [5.0, 0.0, 2.0, 0.0])
    assert instances(labeler, photos[:1]) == [[]]
    always(labeler, (0.5, 0.5, 0.5, 0.5), [0.0, 5.0, 2.0, 0.0])
    assert len(instances(labeler, photos[:1])[0]) == 3


@pytest.mark.parametrize("make", [detr, rt_detr])
def test_a_batch_gives_what_each_photograph_gives_alone(tmp_path: Path, photos: list[Photo], make: Any) -> None:
    labeler = Det(DetConfig(weights=make(tmp_path), threshold=0.0), "cpu")

    batch = instances(labeler, photos)

    assert all(batch)
    for photo, found in zip(photos, batch):
        assert_alike(found, instances(labeler, [photo])[0])
        assert [one["score"] for one in found] == sorted((one["score"] for one in found), reverse=True)


def test_boxes_end_at_the_rim_and_those_without_area_are_left_out() -> None:
    boxes = torch.tensor([[-0.2, 0.1, 0.5, 1.3], [0.4, 0.4, 0.4, 0.9], [1.1, 0.1, 1.2, 0.3]])
    data = boxes_file(boxes, torch.ones(3), torch.zeros(3), ["dog"])

    assert decode(data, DetConfig().modality("det"), lambda: "det") == [
        {"boxes": [0.0, 0.1, 0.5, 1.0], "class_name": "dog", "score": 1.0}
    ]


def test_scores_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        boxes_file(torch.rand(1, 4), torch.tensor([float("nan")]), torch.zeros(1), ["dog"])


def test_cocos_classes_have_the_catalogs_names() -> None:
    other = {"airplane": "aeroplane", "couch": "sofa", "tv": "tvmonitor", "dining table": "diningtable"}
    names = ["N/A", *(other.get(name, name) for name in COCO_THINGS)]

    assert box_names(names) == [None, *COCO_THINGS]
    assert box_names(["N/A", "sofa", "wombat"]) == [None, "sofa", "wombat"]


@pytest.fixture(scope="module")
def faster_rcnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a random detector, but for its class scores, which are far apart."""
    from torchvision import models

    torch.manual_seed(0)
    model = models.get_model(TORCHVISION, weights=None, weights_backbone=None)
    model.roi_heads.box_predictor.cls_score.weight.data.mul_(300)
    path = tmp_path_factory.mktemp("torchvision") / "detector.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_detectors_of_torchvision_give_the_same_kind_of_boxes(faster_rcnn: Path, photos: list[Photo]) -> None:
    labeler = TorchvisionDet(TorchvisionDetConfig(name=TORCHVISION, weights=faster_rcnn, threshold=0.1), "cpu")

    batch = instances(labeler, photos[:3])

    assert all(batch)
    for photo, found in zip(photos, batch):
        with torch.no_grad():
            (raw,) = labeler.model([labeler.prepare(photo)["pixels"][0]])
        height, width = photo.image.shape[:2]
        top = max(found, key=lambda one: one["score"])
        expected = raw["boxes"][0].numpy() / [width, height, width, height]
        np.testing.assert_allclose([*top["boxes"], top["score"]], [*expected, float(raw["scores"][0])], atol=1e-3)
        assert {one["class_name"] for one in found} <= set(COCO_THINGS)
        assert all(one["score"] >= 0.1 for one in found)


def test_unknown_detectors_of_torchvision_are_named() -> None:
    with pytest.raises(ConfigError, match="no detector of torchvision.*Did you mean 'fasterrcnn_resnet50_fpn'"):
        TorchvisionDet(TorchvisionDetConfig(name="fasterrcnn_resnet50"), "cpu")


def test_weights_of_another_detector_are_an_error(faster_rcnn: Path) -> None:
    with pytest.raises(CheckpointError, match="detector 'ssdlite320_mobilenet_v3_large'.*local copy of https://"):
        TorchvisionDet(TorchvisionDetConfig(name="ssdlite320_mobilenet_v3_large", weights=faster_rcnn), "cpu")
