"""Cascade Mask R-CNN's heads (Cai and Vasconcelos 2018) on torchvision's parts.

Every stage corrects the boxes of the one before it and is trained on examples that overlap the truth more. Boxes are
corrected without regard to their class; at test time the scores of all stages, each on its own boxes, are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import _utils as detection
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import box_iou, clip_boxes_to_image

Size = tuple[int, int]


class Examples(NamedTuple):
    """Boxes to be scored, for each image.

    Args:
        boxes: (n, 4).
        matched: (n,) the true box that each overlaps most.
        labels: (n,) its class, or 0 where the overlap is too small.
    """

    boxes: list[Tensor]
    matched: list[Tensor]
    labels: list[Tensor]


class BoxPredictor(nn.Module):
    """Scores of all classes and one correction of the box.

    Args:
        dim: of the features.
        num_classes: with the background.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(dim, num_classes)
        self.correction = nn.Linear(dim, 4)
        for layer, std in ((self.scores, 0.01), (self.correction, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, dim) -> (N, classes) logits and (N, 4) corrections."""
        return self.scores(x), self.correction(x)


class Stage(nn.Module):
    """One head.

    Args:
        head: (N, C, h, w) -> (N, dim).
        predictor: see `BoxPredictor`.
        iou: overlap from which a box is an example of its class.
        weight: of its losses.
        box_weight: scale of its corrections of the centre; those of the size have half of it.
    """

    def __init__(self, head: nn.Module, predictor: nn.Module, iou: float, weight: float, box_weight: float) -> None:
        super().__init__()
        self.head, self.predictor, self.iou, self.weight = head, predictor, iou, weight
        self.coder = detection.BoxCoder((box_weight, box_weight, box_weight / 2, box_weight / 2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features of boxes -> logits and corrections."""
        scores, correction = self.predictor(self.head(x))
        return scores, correction

    def refine(self, boxes: Sequence[Tensor], corrections: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
        """The corrected boxes of each image, within it, without gradients."""
        with torch.no_grad():
            moved = self.coder.decode_single(corrections.detach().float(), torch.cat(list(boxes)))
            parts = moved.split([len(one) for one in boxes])
            return [clip_boxes_to_image(part, size) for part, size in zip(parts, sizes)]

    def loss(self, logits: Tensor, corrections: Tensor, examples: Examples, truth: Sequence[Tensor]) -> list[Tensor]:
        """Weighted cross-entropy, and smooth L1 of the corrections of examples of a class, over the number of boxes.

        Args:
            logits: (N, classes).
            corrections: (N, 4).
            examples: what these are of.
            truth: (t, 4) true boxes of each image.
        """
        matched = [
            boxes[index] if len(boxes) else torch.zeros_like(proposals)
            for boxes, index, proposals in zip(truth, examples.matched, examples.boxes)
        ]
        wanted = self.coder.encode(matched, examples.boxes)
        losses = fastrcnn_loss(logits, every_class(corrections, logits.shape[1]), examples.labels, list(wanted))
        return [self.weight * loss for loss in losses]


class CascadeRoIHeads(RoIHeads):
    """Takes the place of `roi_heads` in torchvision's Mask R-CNN.

    Args:
        box_roi_pool: maps and boxes -> features of boxes.
        stages: in order.
        box_samples: boxes of each image that are scored in training.
        box_positives: largest share of examples of a class among them.
        score_threshold, nms_iou, max_detections: see `DetectorConfig`.
        mask_roi_pool, mask_head, mask_predictor: as in torchvision; None: no masks.
    """

    def __init__(
        self,
        box_roi_pool: nn.Module,
        stages: Sequence[Stage],
        *,
        box_samples: int,
        box_positives: float,
        score_threshold: float,
        nms_iou: float,
        max_detections: int,
        mask_roi_pool: nn.Module | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: nn.Module | None = None,
    ) -> None:
        first = stages[0].iou
        super().__init__(
            box_roi_pool, None, None, first, first, box_samples, box_positives, None, score_threshold, nms_iou,
            max_detections, mask_roi_pool, mask_head, mask_predictor,
        )  # fmt: skip
        self.stages = nn.ModuleList(stages)
        self.box_coder = stages[-1].coder  # of the boxes that `postprocess_detections` decodes

    def forward(  # type: ignore[override]  # mypy does not know torchvision's types
        self,
        features: Mapping[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[Size],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's.

        Args:
            features: name -> map (B, C, h, w).
            proposals: (n, 4) for each image.
            image_shapes: (height, width) of each.
            targets: `boxes`, `labels` and `masks` of each, in training.

        Returns:
            `boxes`, `labels`, `scores` and `masks` (n, 1, h, w) of each image, and in training the losses.
        """
        if not self.training:
            return self.detect(features, proposals, image_shapes), {}
        assert targets is not None
        return [], self.losses(features, proposals, image_shapes, targets)

    def losses(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        sizes: list[Size],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Losses of all stages and of the masks of the examples of the first one."""
        truth = [target["boxes"].to(proposals[0].dtype) for target in targets]
        labels = [target["labels"] for target in targets]
        first = self.sample(proposals, truth, labels)
        boxes = first.boxes
        losses: dict[str, Tensor] = {}
        for n, stage in enumerate(self.stages):
            assert isinstance(stage, Stage)
            examples = match(boxes, truth, labels, stage.iou) if n else first
            logits, corrections = stage(self.box_roi_pool(features, examples.boxes, sizes))
            names = (f"loss_classifier_{n}", f"loss_box_reg_{n}")
            losses |= zip(names, stage.loss(logits, corrections, examples, truth))
            boxes = stage.refine(examples.boxes, corrections, sizes)
        if self.has_mask():
            losses["loss_mask"] = self._mask_loss(features, first, sizes, targets)
        return losses

    def sample(self, proposals: Sequence[Tensor], truth: Sequence[Tensor], labels: Sequence[Tensor]) -> Examples:
        """Examples of the first stage: some of the proposals and of the true boxes."""
        stage = self.stages[0]
        assert isinstance(stage, Stage)
        found = match([torch.cat([p, t]) for p, t in zip(proposals, truth)], truth, labels, stage.iou)
        chosen = self.subsample(found.labels)
        return Examples(*([one[index] for one, index in zip(column, chosen)] for column in found))

    def detect(
        self, features: Mapping[str, Tensor], proposals: list[Tensor], sizes: list[Size]
    ) -> list[dict[str, Tensor]]:
        """What is found in each image."""
        scores: Any = 0.0
        boxes = refined = proposals
        for stage in self.stages:
            assert isinstance(stage, Stage)
            boxes = refined
            logits, corrections = stage(self.box_roi_pool(features, boxes, sizes))
            scores = scores + F.softmax(logits.float(), -1) / len(self.stages)
            refined = stage.refine(boxes, corrections, sizes)
        # Given the logarithm of the mean as logits, its softmax is the mean.
        found = self.postprocess_detections(
            scores.clamp(min=1e-12).log(), every_class(corrections.float(), scores.shape[1]), boxes, sizes
        )
        results = [{"boxes": b, "scores": s, "labels": k} for b, s, k in zip(*found)]
        if self.has_mask():
            pooled = self.mask_roi_pool(features, [one["boxes"] for one in results], sizes)
            logits = self.mask_predictor(self.mask_head(pooled))
            for one, mask in zip(results, maskrcnn_inference(logits, [one["labels"] for one in results])):
                one["masks"] = mask
        return results

    def _mask_loss(
        self,
        features: Mapping[str, Tensor],
        examples: Examples,
        sizes: list[Size],
        targets: Sequence[Mapping[str, Tensor]],
    ) -> Tensor:
        """Binary cross-entropy of the masks of the examples of a class; 0 where there are none."""
        chosen = [labels > 0 for labels in examples.labels]
        boxes, matched = ([one[c] for one, c in zip(column, chosen)] for column in examples[:2])
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, sizes)))
        masks, labels = ([target[name] for target in targets] for name in ("masks", "labels"))
        loss: Tensor = maskrcnn_loss(logits, boxes, masks, labels, matched)
        return loss


def match(boxes: Sequence[Tensor], truth: Sequence[Tensor], labels: Sequence[Tensor], iou: float) -> Examples:
    """Each box gets the class of the true box that it overlaps most, the background's where that is less than `iou`.

    Args:
        boxes: (n, 4) of each image.
        truth: (t, 4) of each image; t may be 0.
        labels: (t,) from 1.
        iou: smallest overlap.
    """
    matched, given = [], []
    for one, true, names in zip(boxes, truth, labels):
        if not len(true):
            matched.append(torch.zeros(len(one), dtype=torch.int64, device=one.device))
            given.append(matched[-1])
            continue
        overlap, index = box_iou(true, one).max(0)
        matched.append(index)
        given.append(torch.where(overlap >= iou, names[index], 0))
    return Examples(list(boxes), matched, given)


def every_class(corrections: Tensor, num_classes: int) -> Tensor:
    """(N, 4) corrections as (N, 4 * classes), the same for every class."""
    return corrections.repeat(1, num_classes)
