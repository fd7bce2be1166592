"""Mask R-CNN and Cascade Mask R-CNN on the maps of a backbone, of torchvision's parts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from fourm.errors import ConfigError
from fourm.modality import COLOUR_STATISTICS
from fourm.transfer.cascade import BoxPredictor, CascadeRoIHeads, Stage
from fourm.transfer.detector_config import NUM_MAPS, CascadeMaskRCNNConfig, MaskRCNNConfig
from fourm.transfer.pyramid import ChannelNorm

_BOX_PIXELS, _MASK_PIXELS = 7, 14
_NORMALIZATIONS = {
    "half": ((0.5,) * 3, (0.5,) * 3),
    **COLOUR_STATISTICS,
    "none": ((0.0,) * 3, (1.0,) * 3),
}
Maps = OrderedDict[str, Tensor]


class _Channels(nn.Module):
    """All that torchvision asks of a backbone when a detector is built."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels


class DetectorHead(nn.Module):
    """Finds the instances of classes, with boxes and masks, in the maps of a backbone.

    Args:
        config: sizes and options; of a cascade or not.
        backbone: with a pyramid and an image size, reading photographs.
        num_outputs: classes, the background not counted.
        dense: must be false.

    Raises:
        ConfigError: if it cannot read this backbone.
    """

    def __init__(self, config: MaskRCNNConfig, backbone: Any, num_outputs: int, dense: bool = False) -> None:
        super().__init__()
        self.modality, self.size, mean, std = _check(backbone, dense)
        self.config = config
        channels, num_classes = int(backbone.out_channels), num_outputs + 1
        stride = backbone.patch_size / 4
        sizes = config.anchors or tuple(8 * stride * 2**level for level in range(NUM_MAPS))
        pool = partial(MultiScaleRoIAlign, [str(level) for level in range(NUM_MAPS - 1)], sampling_ratio=2)
        options: dict[str, Any] = {
            "min_size": self.size,
            "max_size": self.size,
            "size_divisible": self.size,  # so that every image is padded to size x size
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
            dim, norm = config.mask_dim, _norm() if config.box_head == "conv" else None
            masks = {
                "mask_roi_pool": pool(output_size=_MASK_PIXELS),
                "mask_head": MaskRCNNHeads(channels, (dim,) * 4, 1, norm_layer=norm),
                "mask_predictor": MaskRCNNPredictor(dim, dim, num_classes),
            }
        built = (MaskRCNN if masks else FasterRCNN)(_Channels(channels), **options, **masks)
        self.transform, self.rpn, self.roi_heads = built.transform, built.rpn, built.roi_heads
        if isinstance(config, CascadeMaskRCNNConfig):
            self.roi_heads = CascadeRoIHeads(
                options["box_roi_pool"],
                [
                    Stage(_box_head(channels, config), BoxPredictor(config.box_dim, num_classes), *stage)
                    for stage in zip(config.ious, config.stage_weights, config.box_weights)
                ],
                box_samples=config.box_samples,
                box_positives=config.box_positives,
                score_threshold=config.score_threshold,
                nms_iou=config.nms_iou,
                max_detections=config.max_detections,
                **masks,
            )

    def forward(
        self,
        backbone: Callable[[Any], Maps],
        inputs: Mapping[str, Sequence[Tensor]],
        present: Mapping[str, Tensor] | None = None,
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> Any:
        """Losses in training mode, detections otherwise.

        Args:
            backbone: images (B, 3, size, size) -> "0" to "3" -> (B, out_channels, h, w), finest first.
            inputs: `self.modality` -> images (3, H, W) in [0, 1]; in training all of the backbone's size.
            present: not used.
            targets: in training: `boxes` (n, 4), `labels` (n,) from 1 and `masks` (n, H, W) of each.

        Returns:
            in training: name of `config.loss_names` -> mean over the images. Otherwise of each image `boxes` (n, 4) in
            its own pixels, `labels`, `scores` (n,), best first, and `masks` (n, H, W) bool.
        """
        given = list(inputs[self.modality])
        sizes = [(image.shape[-2], image.shape[-1]) for image in given]
        wanted = None if targets is None else [dict(target) for target in targets]
        images, wanted = self.transform(given, wanted)
        maps = backbone(images.tensors)
        # One more map, on which the largest things are looked for.
        maps[str(len(maps))] = F.max_pool2d(next(reversed(maps.values())), 1, 2)
        proposals, proposal_losses = self.rpn(images, maps, wanted)
        found, losses = self.roi_heads(maps, proposals, images.image_sizes, wanted)
        if self.training:
            losses = {**proposal_losses, **losses}
            return {name: losses[f"loss_{name}"] for name in self.config.loss_names}
        found = self.transform.postprocess(found, images.image_sizes, sizes)
        for one in found:
            if "masks" in one:
                one["masks"] = one["masks"][:, 0] > 0.5
        return found


def _check(backbone: Any, dense: bool) -> tuple[str, int, Sequence[float], Sequence[float]]:
    """Name of what is looked at, pixels per side, and what its channels are normalised with."""
    if dense:
        raise ConfigError("head.kind mask_rcnn and cascade_mask_rcnn are for objective.kind detection")
    config = backbone.config
    if config.pyramid is None or config.image_size is None:
        raise ConfigError(
            "a detector needs maps of four strides and one size of images: set backbone.pyramid: simple and "
            "backbone.image_size, for instance 1024"
        )
    modalities = list(backbone.modalities.values())
    first = modalities[0]
    if len(modalities) > 1 or first.decode != "image" or first.normalization not in _NORMALIZATIONS:
        raise ConfigError(
            f"a detector looks at photographs alone, but backbone.modalities is {', '.join(m.name for m in modalities)}"
        )
    return first.name, int(config.image_size), *_NORMALIZATIONS[first.normalization]


def _box_head(channels: int, config: MaskRCNNConfig) -> nn.Module:
    if config.box_head == "mlp":
        return TwoMLPHead(channels * _BOX_PIXELS**2, config.box_dim)
    return FastRCNNConvFCHead(
        (channels, _BOX_PIXELS, _BOX_PIXELS), [channels] * 4, [config.box_dim], norm_layer=_norm()
    )


def _norm() -> Callable[..., nn.Module]:
    return partial(ChannelNorm, eps=1e-6)
