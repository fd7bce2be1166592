"""Mask R-CNN and Cascade Mask R-CNN on the maps of any backbone, of torchvision's parts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from fourm.errors import ConfigError
from fourm.rng import torch_seed
from fourm.transfer.cascade import BoxPredictor, CascadeRoIHeads, Stage
from fourm.transfer.detector_config import NUM_MAPS, DetectorConfig
from fourm.transfer.pyramid import ChannelNorm

_BOX_PIXELS, _MASK_PIXELS = 7, 14


class Maps(nn.Module):
    """The maps of a backbone and one more, the coarsest at half its size, on which the largest things are looked for.

    Args:
        backbone: images (B, C, H, W) -> "0" to "3" -> (B, out_channels, h, w), finest first.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = int(backbone.out_channels)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """ "0" to "4"."""
        maps = self.backbone(images)
        coarsest = next(reversed(maps.values()))
        return OrderedDict([*maps.items(), (str(len(maps)), F.max_pool2d(coarsest, 1, 2))])


class Detector(nn.Module):
    """Finds the instances of classes in images, with boxes and masks.

    Args:
        backbone: see `Maps`.
        classes: their names, in the order of their labels from 1.
        config: sizes and options.
        stride: pixels per place of the finest map, for anchors.
        mean, std: of each channel; images in [0, 1] are normalised with them.
        seed: of the weights of the heads.

    Raises:
        ConfigError: if there are no classes.
    """

    def __init__(
        self,
        backbone: nn.Module,
        classes: Sequence[str],
        config: DetectorConfig,
        *,
        stride: float,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not classes:
            raise ConfigError("a detector needs at least one class")
        self.classes, self.config = tuple(classes), config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, "detector"))
            self.rcnn = _rcnn(Maps(backbone), len(classes) + 1, config, stride, mean, std)

    def forward(self, images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]] | None = None) -> Any:
        """Losses in training mode, detections otherwise.

        Args:
            images: (C, H, W) each, in [0, 1]; in training all of `config.size`.
            targets: in training: `boxes` (n, 4), `labels` (n,) and `masks` (n, H, W) of each.

        Returns:
            in training: name of `config.loss_names` -> mean over the images. Otherwise of each image `boxes` (n, 4) in
            its own pixels, `labels`, `scores` (n,), best first, and `masks` (n, 1, H, W) in [0, 1].
        """
        found = self.rcnn(list(images), None if targets is None else list(targets))
        if not self.training:
            return found
        return {name: found[f"loss_{name}"] for name in self.config.loss_names}


def _rcnn(
    maps: Maps, num_classes: int, config: DetectorConfig, stride: float, mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """torchvision's detector with the parts that the config asks for."""
    channels = maps.out_channels
    sizes = config.anchors or tuple(8 * stride * 2**level for level in range(NUM_MAPS))
    pool = partial(MultiScaleRoIAlign, [str(level) for level in range(NUM_MAPS - 1)], sampling_ratio=2)
    options: dict[str, Any] = {
        "min_size": config.size,
        "max_size": config.size,
        "size_divisible": config.size,  # so that every image is padded to size x size
        "image_mean": list(mean),
        "image_std": list(std),
        "_skip_resize": True,  # in training, where the data has the size already
        "rpn_anchor_generator": AnchorGenerator(tuple((s,) for s in sizes), (tuple(config.ratios),) * NUM_MAPS),
        "rpn_pre_nms_top_n_train": config.num_proposals_train[0],
        "rpn_post_nms_top_n_train": config.num_proposals_train[1],
        "rpn_pre_nms_top_n_test": config.num_proposals_test[0],
        "rpn_post_nms_top_n_test": config.num_proposals_test[1],
        "rpn_batch_size_per_image": config.rpn_samples,
        "box_score_thresh": config.score_threshold,
        "box_nms_thresh": config.nms_iou,
        "box_detections_per_img": config.max_detections,
        "box_batch_size_per_image": config.box_samples,
        "box_positive_fraction": config.box_positives,
        "box_roi_pool": pool(output_size=_BOX_PIXELS),
        "box_head": _box_head(channels, config),
        "box_predictor": FastRCNNPredictor(config.box_dim, num_classes),
    }
    masks: dict[str, Any] = {}
    if config.masks:
        dim = config.mask_dim
        masks = {
            "mask_roi_pool": pool(output_size=_MASK_PIXELS),
            "mask_head": MaskRCNNHeads(channels, (dim,) * 4, 1, norm_layer=_norm(config)),
            "mask_predictor": MaskRCNNPredictor(dim, dim, num_classes),
        }
    rcnn = MaskRCNN(maps, **options, **masks) if masks else FasterRCNN(maps, **options)
    if config.cascade is not None:
        c = config.cascade
        rcnn.roi_heads = CascadeRoIHeads(
            options["box_roi_pool"],
            [
                Stage(_box_head(channels, config), BoxPredictor(config.box_dim, num_classes), *stage)
                for stage in zip(c.ious, c.weights, c.box_weights)
            ],
            box_samples=config.box_samples,
            box_positives=config.box_positives,
            score_threshold=config.score_threshold,
            nms_iou=config.nms_iou,
            max_detections=config.max_detections,
            **masks,
        )
    return rcnn


def _box_head(channels: int, config: DetectorConfig) -> nn.Module:
    if config.box_head == "mlp":
        return TwoMLPHead(channels * _BOX_PIXELS**2, config.box_dim)
    return FastRCNNConvFCHead(
        (channels, _BOX_PIXELS, _BOX_PIXELS),
        [channels] * 4,
        [config.box_dim],
        norm_layer=partial(ChannelNorm, eps=1e-6),
    )


def _norm(config: DetectorConfig) -> Any:
    return partial(ChannelNorm, eps=1e-6) if config.box_head == "conv" else None


@torch.no_grad()
def detect(detector: Detector, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """What a detector finds, with masks as (n, H, W) bool."""
    detector.eval()
    found: list[dict[str, Tensor]] = detector(images)
    for one in found:
        if "masks" in one:
            one["masks"] = one["masks"][:, 0] > 0.5
    return found
