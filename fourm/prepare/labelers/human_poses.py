"""People: their boxes, their key points by ViTPose (Xu et al. 2022), and their bodies (4M-21, Bachmann et al. 2024)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.bodies import BodyModel
from fourm.prepare.labelers.feature_configs import PosesConfig
from fourm.prepare.labelers.network import TransformersNetwork

_PERSON = "person"
_DIGITS = 5


class HumanPoses(TransformersNetwork):
    """Photographs with boxes of people to JSON, as `fourm.data.facts.poses` reads it."""

    what = "pose estimator"
    model_class = "VitPoseForPoseEstimation"

    def __init__(self, config: PosesConfig, device: str) -> None:
        self._bodies = BodyModel(config.smpl, config.pose_tokenizer, device) if config.smpl else None
        super().__init__(config, device)

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        boxes = [self._boxes(photo) for photo in photos]
        joints = self._keypoints(photos, boxes)
        files = []
        for photo, people, points in zip(photos, boxes, joints, strict=True):
            facts: dict[str, Any] = {"bbox_xyxy": people, "keypoints": points}
            if self._bodies is not None and len(people):
                facts |= self._bodies(photo.image, people)
            files.append(json.dumps(_plain(facts)).encode())
        return files

    def _boxes(self, photo: Photo) -> NDArray[np.float32]:
        """(n, 4) x1, y1, x2, y2 in pixels."""
        height, width = photo.image.shape[:2]
        found = [
            instance["boxes"]
            for instance in photo.label(self.config.det) or ()
            if instance["class_name"] == _PERSON and instance.get("score", 1.0) >= self.config.min_score
        ]
        boxes = np.array(found, np.float32).reshape(-1, 4) * np.array([width, height] * 2, np.float32)
        boxes = boxes.clip(0, [width, height] * 2)
        return boxes[(boxes[:, 2:] - boxes[:, :2] >= 1).all(1)]

    def _keypoints(self, photos: Sequence[Photo], boxes: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """For each photograph (n, 17, 3): x, y in pixels, and a score."""
        corners = [np.concatenate([rows[:, :2], rows[:, 2:] - rows[:, :2]], 1) for rows in boxes]  # x, y, width, height
        with_people = [n for n, rows in enumerate(corners) if len(rows)]
        found = [np.zeros((0, 17, 3), np.float32) for _ in photos]
        if not with_people:
            return found
        cuts: Tensor = self.processor(
            images=[Image.fromarray(photos[n].image) for n in with_people],
            boxes=[corners[n].tolist() for n in with_people],
            return_tensors="pt",
        )["pixel_values"]
        heatmaps = torch.cat([self._heatmaps(part) for part in cuts.split(self.config.batch_size)])
        people = np.concatenate(corners)
        poses = self.processor.post_process_pose_estimation(
            SimpleNamespace(heatmaps=heatmaps), boxes=people[None].tolist()
        )[0]
        rows = np.array([np.concatenate([p["keypoints"], p["scores"].reshape(-1, 1)], 1) for p in poses], np.float32)
        ends = np.cumsum([0, *(len(boxes) for boxes in corners)])
        return [rows[start:end] for start, end in pairwise(ends)]

    def _heatmaps(self, cuts: Tensor) -> Tensor:
        # ViTPose+ has an expert for each data set it learned; the first is COCO's.
        experts = getattr(self.model.config.backbone_config, "num_experts", 1) > 1
        options = {"dataset_index": torch.zeros(len(cuts), dtype=torch.long, device=self.device)} if experts else {}
        with torch.inference_mode(), self._precision():
            return self.model(pixel_values=cuts.to(self.device), **options).heatmaps.float().cpu()


def _plain(value: Any) -> Any:
    """Arrays as nested lists of rounded numbers."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return np.round(value.astype(np.float64), _DIGITS).tolist() if value.dtype.kind == "f" else value.tolist()
