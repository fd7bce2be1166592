"""A tiny cascade that looks for squares, with all that is drawn while a detector is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fourm.data.coco import Instances
from fourm.data.coco_config import ScaleJitterConfig
from fourm.data.scale_jitter import scale_jitter
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.objectives.supervised_configs import DetectionConfig
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig
from fourm.transfer.detection import Detection, DetectionTask
from fourm.transfer.detector_config import CascadeMaskRCNNConfig
from fourm.transfer.network import TransferNetwork
from tests.unit.train.toy_data import Sixteen

SIDE = 32
RGB = Modality("rgb", Grid(4, 4, 8), Continuous(192), "rgb", "image", channels=3, normalization="half")
SQUARES = Modality("instances", Sequence(1), Discrete(2), "instances", "boxes", direction="input")
MODEL = MultimodalConfig(dim=16, encoder_depth=2, decoder_depth=1, num_heads=2, embedding_std=0.4)
HEAD = CascadeMaskRCNNConfig(
    anchors=(8, 12, 16, 20, 24), box_head="mlp", box_dim=16, mask_dim=8, num_proposals_train=(60, 40),
    rpn_samples=16, box_samples=8, box_positives=0.125,
)  # fmt: skip


class FirstOfEach:
    """Takes the first boxes of each sort, where torchvision's sampler draws them."""

    def __init__(self, number: int, positives: float) -> None:
        self.number, self.positives = number, int(number * positives)

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        taken: tuple[list[Tensor], list[Tensor]] = [], []
        for one in labels:
            left = self.number
            for mask, most, chosen in zip((one >= 1, one == 0), (self.positives, self.number), taken):
                kept = mask & (mask.cumsum(0) <= min(most, left))
                left -= int(kept.sum())
                chosen.append(kept)
        return taken


class Squares(Sixteen):
    """Sixteen images with a square each, made larger or smaller anew in every epoch."""

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> dict[str, Any]:
        image, mask = np.full((SIDE, SIDE, 3), 90, np.uint8), np.zeros((1, SIDE, SIDE), np.bool_)
        top, left, side, kind = n, (5 * n) % 16, 8 + n % 8, n % 2
        mask[0, top : top + side, left : left + side] = True
        image[mask[0], kind] = 255
        box = np.array([[left, top, left + side, top + side]], np.float32)
        scene = Instances(
            image=image, boxes=box, labels=np.array([kind + 1]), masks=mask, crowd=np.zeros(1, np.bool_),
            area=np.array([side**2], np.float32), key=n,
        )  # fmt: skip
        return {"scene": scale_jitter(scene, SIDE, ScaleJitterConfig((0.8, 1.0), 0.5), rng)}


def network(*, drawn: bool = True, drop_path: float = 0.0) -> TransferNetwork:
    """A fresh network, the same each time.

    Args:
        drawn: whether the boxes that are scored are drawn, by each rank itself.
        drop_path: of the encoder.
    """
    options: Any = {"image_size": SIDE, "pyramid": "simple", "out_channels": 8, "drop_path": drop_path}
    backbone = Backbone(ModalitySet([RGB]), MODEL, BackboneConfig(modalities=["rgb"], **options))
    made = TransferNetwork(backbone, HEAD, SQUARES.vocab_size, False)
    if not drawn:
        made.head.rpn.fg_bg_sampler = FirstOfEach(HEAD.rpn_samples, 0.5)
        made.head.roi_heads.fg_bg_sampler = FirstOfEach(HEAD.box_samples, HEAD.box_positives)
    return made


def objective(made: TransferNetwork) -> Detection:
    """All losses of the detector."""
    head: Any = made.head
    return Detection(DetectionTask(DetectionConfig(num_classes=2), SQUARES), head, RGB.num_tokens)
