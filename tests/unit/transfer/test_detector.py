"""Detectors on a backbone of maps: losses in training, detections in the pixels of each image otherwise."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.transfer.detector import Detector, Maps, detect
from fourm.transfer.detector_config import CascadeConfig, DetectorConfig

SMALL = {"size": 64, "box_dim": 16, "mask_dim": 8, "num_proposals_train": (60, 60), "num_proposals_test": (60, 30)}
KINDS = [CascadeConfig(), None]


class Pyramid(nn.Module):
    """Four maps of a convolution."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        self.sizes.append(tuple(images.shape))
        x = self.conv(images)
        return OrderedDict((str(n), F.avg_pool2d(x, 2 ** (n + 1))) for n in range(4))


class Deep(nn.Module):
    """Four maps of a small convolutional network, each level with a wider view."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(n, 32, 3, 2, 1), nn.GroupNorm(4, 32), nn.ReLU()) for n in (3, 32, 32, 32)
        )

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        maps = OrderedDict()
        for n, level in enumerate(self.levels):
            maps[str(n)] = x = level(x)
        return maps


def detector(
    cascade: CascadeConfig | None = None, *, seed: int = 0, backbone: type[nn.Module] = Pyramid, **options: object
) -> Detector:
    config = DetectorConfig(cascade=cascade, **{**SMALL, **options})  # type: ignore[arg-type]
    torch.manual_seed(0)
    return Detector(backbone(), ["disc", "square"], config, stride=2, mean=[0.5] * 3, std=[0.25] * 3, seed=seed)


def target(count: int = 2) -> dict[str, Tensor]:
    boxes = torch.tensor([[4.0, 4, 24, 20], [30, 30, 60, 50]])[:count]
    masks = torch.zeros(count, 64, 64, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    return {"boxes": boxes, "labels": torch.tensor([1, 2])[:count], "masks": masks}


@pytest.mark.parametrize("cascade", KINDS)
@pytest.mark.parametrize("head", ["mlp", "conv"])
def test_every_weight_learns_and_every_loss_has_its_name(cascade: CascadeConfig | None, head: str) -> None:
    model = detector(cascade, box_head=head).train()
    losses = model([torch.rand(3, 64, 64)] * 2, [target(), target(0)])
    assert tuple(losses) == model.config.loss_names
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_without_masks_there_is_no_mask_loss() -> None:
    model = detector(CascadeConfig(), masks=False).train()
    given = {name: value for name, value in target().items() if name != "masks"}
    assert "mask" not in model([torch.rand(3, 64, 64)], [given])
    assert "masks" not in detect(model, [torch.rand(3, 64, 64)])[0]


@pytest.mark.parametrize("cascade", KINDS)
def test_detections_lie_in_the_pixels_of_each_image(cascade: CascadeConfig | None) -> None:
    model = detector(cascade, score_threshold=0.0)
    found = detect(model, [torch.rand(3, 30, 100), torch.rand(3, 17, 11)])
    for one, (height, width) in zip(found, [(30, 100), (17, 11)]):
        assert len(one["boxes"])
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert one["masks"].shape == (len(one["boxes"]), height, width)
        assert one["scores"].tolist() == sorted(one["scores"].tolist(), reverse=True)


def test_the_backbone_sees_one_size() -> None:
    model = detector()
    detect(model, [torch.rand(3, 30, 100), torch.rand(3, 200, 11)])
    model.train()([torch.rand(3, 64, 64)], [target()])
    assert model.rcnn.backbone.backbone.sizes == [(2, 3, 64, 64), (1, 3, 64, 64)]


def test_heads_are_drawn_from_their_seed_alone() -> None:
    one, same, other = detector(seed=1), detector(seed=1), detector(seed=2)
    differ = [name for name, weight in one.state_dict().items() if not weight.equal(other.state_dict()[name])]
    assert all(weight.equal(same.state_dict()[name]) for name, weight in one.state_dict().items())
    assert any("box_predictor" in name for name in differ)


def test_the_coarsest_map_is_halved_once_more() -> None:
    maps = Maps(Pyramid())(torch.rand(1, 3, 64, 64))
    assert [m.shape[-1] for m in maps.values()] == [32, 16, 8, 4, 2]


def test_a_detector_without_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one class"):
        Detector(Pyramid(), [], DetectorConfig(**SMALL), stride=2, mean=[0.5] * 3, std=[0.5] * 3)  # type: ignore[arg-type]


def test_configs_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match="every stage needs one of each"):
        CascadeConfig(ious=(0.5,))
    with pytest.raises(ConfigError, match="expected 5, one for each map"):
        DetectorConfig(anchors=(8, 16))


@pytest.mark.slow
@pytest.mark.parametrize("cascade", KINDS)
def test_a_detector_learns_to_find_one_picture_again(cascade: CascadeConfig | None) -> None:
    model = detector(cascade, backbone=Deep, box_dim=64, box_head="mlp")
    image = torch.full((3, 64, 64), 0.5)
    for channel, mask in enumerate(target()["masks"]):
        image[channel, mask.bool()] = 1.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(0)
    for _ in range(200):
        optimizer.zero_grad()
        torch.stack(list(model.train()([image], [target()]).values())).sum().backward()
        optimizer.step()
    found = detect(model, [image])[0]
    for label, box, mask in zip(*(target()[name] for name in ("labels", "boxes", "masks"))):
        best = int(torch.where(found["labels"] == label, found["scores"], 0).argmax())
        assert found["scores"][best] > 0.5
        assert (found["boxes"][best] - box).abs().max() < 4
        both = (found["masks"][best] & mask.bool()).sum() / (found["masks"][best] | mask.bool()).sum()
        assert both > 0.6
