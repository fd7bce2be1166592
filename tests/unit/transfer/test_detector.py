"""Detectors on a backbone of maps: losses in training, detections in the pixels of each image otherwise."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality, ModalitySet
from fourm.transfer.detector import DetectorHead
from fourm.transfer.detector_config import CascadeMaskRCNNConfig, MaskRCNNConfig
from fourm.transfer.network import TransferNetwork

SMALL: dict[str, Any] = {
    "box_dim": 16,
    "mask_dim": 8,
    "num_proposals_train": (60, 60),
    "num_proposals_test": (60, 30),
}
KINDS = [CascadeMaskRCNNConfig, MaskRCNNConfig]
RGB = Modality("rgb", Grid(8, 8, 8), Continuous(192), "rgb", "image", channels=3, normalization="half")


class Pyramid(nn.Module):
    """Four maps of a convolution."""

    out_channels = 8
    patch_size = 8
    modalities = ModalitySet([RGB])
    config = SimpleNamespace(pyramid="simple", image_size=64)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        self.seen.append(images)
        x = self.conv(images)
        return OrderedDict((str(n), F.avg_pool2d(x, 2 ** (n + 1))) for n in range(4))


class Deep(Pyramid):
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


class Toy(TransferNetwork):
    """A detector of two classes that is called with images and targets."""

    def __init__(self, kind: Any = MaskRCNNConfig, backbone: Any = Pyramid, seed: int = 0, **options: Any) -> None:
        torch.manual_seed(0)
        super().__init__(backbone(), kind(**{**SMALL, **options}), 2, False, seed)

    def losses(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.train()({"rgb": images}, targets=targets)
        return losses

    @torch.no_grad()
    def find(self, *images: Tensor) -> list[dict[str, Tensor]]:
        found: list[dict[str, Tensor]] = self.eval()({"rgb": list(images)})
        return found


def target(count: int = 2) -> dict[str, Tensor]:
    boxes = torch.tensor([[4.0, 4, 24, 20], [30, 30, 60, 50]])[:count]
    masks = torch.zeros(count, 64, 64, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist()):
        mask[y1:y2, x1:x2] = 1
    return {"boxes": boxes, "labels": torch.tensor([1, 2])[:count], "masks": masks}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", ["mlp", "conv"])
def test_every_weight_learns_and_every_loss_has_its_name(kind: Any, head: str) -> None:
    model = Toy(kind, box_head=head)
    losses = model.losses([torch.rand(3, 64, 64)] * 2, [target(), target(0)])
    assert tuple(losses) == model.head_config.loss_names
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_without_masks_there_is_no_mask_loss() -> None:
    model = Toy(CascadeMaskRCNNConfig, masks=False)
    given = {name: value for name, value in target().items() if name != "masks"}
    assert "mask" not in model.losses([torch.rand(3, 64, 64)], [given])
    assert "masks" not in model.find(torch.rand(3, 64, 64))[0]


@pytest.mark.parametrize("kind", KINDS)
def test_detections_lie_in_the_pixels_of_each_image(kind: Any) -> None:
    found = Toy(kind, score_threshold=0.0).find(torch.rand(3, 30, 100), torch.rand(3, 17, 11))
    for one, (height, width) in zip(found, [(30, 100), (17, 11)]):
        assert len(one["boxes"])
        assert (one["boxes"] >= 0).all()
        assert (one["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert one["masks"].shape == (len(one["boxes"]), height, width)
        assert one["masks"].dtype == torch.bool
        assert one["scores"].tolist() == sorted(one["scores"].tolist(), reverse=True)


def test_the_backbone_sees_images_of_one_size_normalised_as_it_wants() -> None:
    model = Toy()
    model.find(torch.ones(3, 32, 64), torch.zeros(3, 200, 10))
    model.losses([torch.rand(3, 64, 64)], [target()])
    first, second = model.backbone.seen
    assert (tuple(first.shape), tuple(second.shape)) == ((2, 3, 64, 64), (1, 3, 64, 64))
    assert torch.allclose(first[0, :, :32], torch.ones(3, 32, 64))
    assert (first[0, :, 32:] == 0).all()  # grey
    assert torch.allclose(first[1, :, :, :3], -torch.ones(3, 64, 3))


def test_heads_are_drawn_from_their_seed_alone() -> None:
    one, same, other = Toy(seed=1), Toy(seed=1), Toy(seed=2)
    differ = [name for name, weight in one.state_dict().items() if not weight.equal(other.state_dict()[name])]
    assert all(weight.equal(same.state_dict()[name]) for name, weight in one.state_dict().items())
    assert any("box_predictor" in name for name in differ)


def test_backbones_without_a_pyramid_or_of_other_modalities_are_refused() -> None:
    backbone = Pyramid()
    with pytest.raises(ConfigError, match="are for objective.kind detection"):
        DetectorHead(MaskRCNNConfig(), backbone, 2, dense=True)
    backbone.config = SimpleNamespace(pyramid="simple", image_size=None)
    with pytest.raises(ConfigError, match="backbone.pyramid: simple and backbone.image_size"):
        DetectorHead(MaskRCNNConfig(), backbone, 2)
    backbone.config = SimpleNamespace(pyramid="simple", image_size=64)
    depth = Modality("depth", Grid(8, 8, 8), Continuous(64), "depth", "depth16", channels=1, normalization="log")
    backbone.modalities = ModalitySet([RGB, depth])
    with pytest.raises(ConfigError, match="photographs alone, but backbone.modalities is rgb, depth"):
        DetectorHead(MaskRCNNConfig(), backbone, 2)


def test_configs_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match="every stage needs one of each"):
        CascadeMaskRCNNConfig(ious=(0.5,))
    with pytest.raises(ConfigError, match="expected 5, one for each map"):
        MaskRCNNConfig(anchors=(8, 16))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_learns_to_find_one_picture_again(kind: Any) -> None:
    model = Toy(kind, Deep, box_dim=64, box_head="mlp")
    image = torch.full((3, 64, 64), 0.5)
    for channel, mask in enumerate(target()["masks"]):
        image[channel, mask.bool()] = 1.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    torch.manual_seed(0)
    for _ in range(250):
        optimizer.zero_grad()
        torch.stack(list(model.losses([image], [target()]).values())).sum().backward()
        optimizer.step()
    (found,) = model.find(image)
    for label, box, mask in zip(*(target()[name] for name in ("labels", "boxes", "masks"))):
        best = int(torch.where(found["labels"] == label, found["scores"], 0).argmax())
        assert found["scores"][best] > 0.5
        assert (found["boxes"][best] - box).abs().max() < 4
        both = (found["masks"][best] & mask.bool()).sum() / (found["masks"][best] | mask.bool()).sum()
        assert both > 0.6
