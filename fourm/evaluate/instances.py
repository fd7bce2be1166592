"""Instances that a model writes at points: precision of their masks (4M-21, Bachmann et al. 2024, table 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fourm.data.coco import mask_of
from fourm.data.instances import INSTANCE_SIZE
from fourm.errors import ConfigError, DataError
from fourm.evaluate.detections import DetectionScore
from fourm.evaluate.predict import Given, Predictor, greedy
from fourm.generate import outputs
from fourm.modality import Modality
from fourm.report.instances import stretched
from fourm.tokenizers.structured.sam import NOTHING, sam_to_text

KEY = "sam_instance"
Mask = NDArray[np.bool_]
_SIZE = (INSTANCE_SIZE, INSTANCE_SIZE)


def masks_of(crop: Mapping[str, NDArray[Any]]) -> list[Mask]:
    """The masks of a crop's outlines, drawn as COCO's own tools do; those without a pixel are left out.

    Args:
        crop: as `fourm.data.facts.sam` gives it.

    Returns:
        (224, 224) bool each.
    """
    ends = np.cumsum(crop["num_points"])
    outlines = [crop["points"][end - length : end] for end, length in zip(ends, crop["num_points"])]
    masks = [mask_of([outline.ravel()], _SIZE) for outline in outlines if len(outline) > 2]
    return [mask for mask in masks if mask.any()]


def inner_point(mask: Mask) -> tuple[int, int]:
    """(x, y) the pixel of a mask that is nearest to its centre of mass."""
    rows, columns = np.nonzero(mask)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return int(columns[nearest]), int(rows[nearest])


def question(point: tuple[int, int]) -> str:
    """The text in which a model writes what it sees at a point (x, y)."""
    x, y = point
    text = sam_to_text([{"point": (x / INSTANCE_SIZE, y / INSTANCE_SIZE)}])
    return f"{text.removesuffix(NOTHING)}[S_1]"


class InstanceScore:
    """Asks at a point of every true instance, and compares the masks.

    Args:
        predictor: the model, with a tokenizer of masks.
        batch_size: questions answered together.

    Raises:
        ConfigError: if the model writes no instances, or their masks cannot be decoded.
    """

    def __init__(self, predictor: Predictor, batch_size: int) -> None:
        self.modality: Modality = predictor.need(KEY, given=True, asked=True)
        if KEY not in predictor.tokenizers:
            raise ConfigError(
                f"the model writes {KEY}, but has no tokenizer of that name to decode its masks: name one under "
                f"`tokenizers` ({KEY}: folder) when the model is exported or trained"
            )
        self.predictor, self.batch_size = predictor, batch_size
        self.precision = DetectionScore(("instance",))
        self.overlaps: list[float] = []

    def add(self, crops: Sequence[Mapping[str, Any]], given: Given, start: int) -> None:
        """Ask about a batch.

        Args:
            crops: the true instances of each sample.
            given: what the samples are answered from.
            start: number of the first sample, which keys its draws.
        """
        truth = [masks_of(crop) for crop in crops]
        found: list[list[Mask]] = [[] for _ in crops]
        asked = [(n, mask) for n, masks in enumerate(truth) for mask in masks]
        for chunk, answers in self._answers(asked, given, start, len(crops)):
            for (n, mask), answer in zip(chunk, answers):
                self.overlaps.append(max((overlap(one, mask) for one in answer), default=0.0))
                found[n] += answer
        self.precision.add([_instances(masks, scored=True) for masks in found], [_instances(m) for m in truth])

    def _answers(
        self, asked: Sequence[tuple[int, Mask]], given: Given, start: int, count: int
    ) -> Iterator[tuple[Sequence[tuple[int, Mask]], list[list[Mask]]]]:
        """The masks that are written at a point of each."""
        seeds = self.predictor.seeds(start, count, "instances")
        for first in range(0, len(asked), self.batch_size):
            chunk = asked[first : first + self.batch_size]
            rows = torch.tensor([n for n, _ in chunk], device=seeds.device)
            facts = {name: {what: values[rows] for what, values in one.items()} for name, one in given.items()}
            facts |= self.predictor.give_texts(KEY, [question(inner_point(mask)) for _, mask in chunk])
            generated = self.predictor.run([greedy(self.modality)], facts, seeds[rows])
            points = outputs.decode(self.predictor.bundle, self.modality.name, generated)
            yield chunk, [pasted(one[0]["instances"] if one else ()) for one in points]

    def result(self) -> dict[str, float]:
        """`mask_ap`, `mask_ap50` without regard to classes, and `point_iou`.

        Raises:
            DataError: if no sample has an instance.
        """
        if not self.overlaps:
            raise DataError(f"no sample has an instance in {self.modality.source}: there is nothing to measure")
        values = self.precision.values()
        kept = {name: values[name] for name in ("mask_ap", "mask_ap50")}
        return {**kept, "point_iou": sum(self.overlaps) / len(self.overlaps)}


def pasted(instances: Sequence[Mapping[str, Any]]) -> list[Mask]:
    """Masks of instances over their boxes as (224, 224) bool; those that could not be decoded are left out."""
    masks = []
    for one in instances:
        left, top, right, bottom = (round(side * INSTANCE_SIZE) for side in one["box"])
        if one.get("mask") is None or right <= left or bottom <= top:
            continue
        mask = np.zeros(_SIZE, np.bool_)
        mask[top:bottom, left:right] = stretched(one["mask"], bottom - top, right - left)
        masks.append(mask)
    return masks


def overlap(mask: Mask, other: Mask) -> float:
    """Intersection over union; 0 of two empty masks."""
    return float((mask & other).sum() / max(int((mask | other).sum()), 1))


def _instances(masks: Sequence[Mask], scored: bool = False) -> dict[str, torch.Tensor]:
    """As `DetectionScore` takes them; text has no scores, so those written first count as surer."""
    stacked = torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, *_SIZE, dtype=torch.bool)
    boxes = torch.zeros(len(masks), 4)
    for n, mask in enumerate(stacked):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            boxes[n] = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    made = {"boxes": boxes, "labels": torch.ones(len(masks), dtype=torch.int64), "masks": stacked}
    return {**made, "scores": torch.linspace(1.0, 0.5, len(masks) + 1)[:-1]} if scored else made
