"""The baselines of rendered rooms, computed from the training set in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fourm.evaluate import metrics
from fourm.evaluate.baselines import FrequentObjects, PixelMean, PixelMode
from fourm.evaluate.linear import Ridge, hard_labels, predict, soft_labels, thumbnail
from fourm.evaluate.samples import Batch, Samples
from fourm.evaluate.scores import IoUScore, MeanScore, PsnrScore, Score

STRUCTURE = ("floor", "wall", "ceiling")
"""Classes of the room itself: captions do not name them."""

LINEAR_TASKS = ("depth", "normal", "semseg")
_MAX_HELD_OUT = 256
_BLOCK = 2  # pixels per side of what the linear model labels at once


def score_of(task: str, num_classes: int) -> tuple[str, Score]:
    """The metric of a dense task: its key in `metrics.json`, and a fresh sum."""
    if task == "depth":
        return "abs_rel", MeanScore(metrics.abs_rel)
    if task == "normal":
        return "mean_angle", MeanScore(metrics.mean_angle)
    return ("miou", IoUScore(num_classes)) if task == "semseg" else ("psnr", PsnrScore())


def visible_names(labels: Tensor, classes: tuple[str, ...], share: float) -> list[set[str]]:
    """The objects a caption of each image should name.

    Args:
        labels: (B, H, W) class ids.
        classes: names by id.
        share: smallest share of the image that a class must cover.
    """
    smallest = share * labels[0].numel()
    counts = torch.stack([(labels == c).sum((1, 2)) for c in range(len(classes))], 1)
    return [
        {name for name, count in zip(classes, row, strict=True) if count >= smallest and name not in STRUCTURE}
        for row in counts.tolist()
    ]


def box_names(instances: list[list[dict[str, object]]]) -> list[set[str]]:
    """The classes of the boxes of each image."""
    return [{str(instance["class_name"]) for instance in one} for one in instances]


@dataclass
class References:
    """What the baselines predict.

    Args:
        images: task -> the same answer for every image, (C, H, W) or (H, W) labels.
        linear: task -> weights and bias of the ridge regression.
        strengths: task -> its chosen ridge strength.
        objects: what every caption names.
        boxes: the classes of the boxes in every image.
        num_classes: of label maps.
        size: (height, width) of the images.
    """

    images: dict[str, Tensor]
    linear: dict[str, tuple[Tensor, Tensor]]
    strengths: dict[str, float]
    objects: frozenset[str]
    boxes: frozenset[str]
    num_classes: int
    size: tuple[int, int]

    def constant(self, task: str, count: int) -> Tensor:
        """(count, ...) the answer that ignores the input."""
        return self.images[task].expand(count, *self.images[task].shape)

    def from_thumbnail(self, task: str, rgb: Tensor) -> Tensor:
        """The answer of the ridge regression for (B, 3, H, W) images."""
        return _shaped(task, predict(thumbnail(rgb), *self.linear[task]), self.num_classes, self.size)


def compute(samples: Samples, *, named_share: float, batch_size: int = 256) -> References:
    """Read a training set once and compute all baselines.

    The ridge strengths are chosen on the first samples (at most a fifth of them), which then join the others.

    Args:
        samples: with `rgb` and any of `depth`, `normal`, `semseg`, `canny`, `det`.
        named_share: see `visible_names`.
        batch_size: samples read together.
    """
    from rich.progress import track

    num_held_out = min(_MAX_HELD_OUT, len(samples) // 5)
    held_out: Batch = samples.read(range(num_held_out)) if num_held_out else {}
    sums = _Sums(samples, named_share)
    for start in track(range(0, len(samples), batch_size), "baselines", transient=True):
        batch = samples.read(range(start, min(start + batch_size, len(samples))))
        sums.add_constant(batch)
        sums.add_linear({name: values[max(0, num_held_out - start) :] for name, values in batch.items()})
    return sums.finish(held_out)


class _Sums:
    """Everything that is summed up over a training set."""

    def __init__(self, samples: Samples, named_share: float) -> None:
        self.classes = samples.modalities["semseg"].classes if "semseg" in samples.modalities else ()
        self.named_share = named_share
        names: list[str] = list(samples.modalities)
        self.linear = [name for name in LINEAR_TASKS if name in names]
        self.means = {name: PixelMean() for name in ("depth", "normal", "canny") if name in names}
        self.mode = PixelMode(len(self.classes)) if self.classes else None
        self.objects, self.boxes, self.ridge = FrequentObjects(), FrequentObjects(), Ridge()

    def add_constant(self, batch: Batch) -> None:
        """Add a batch to what ignores the input."""
        for name, mean in self.means.items():
            mean.add(batch[name])
        if self.mode is not None:
            self.mode.add(batch["semseg"])
            self.objects.add(visible_names(batch["semseg"], self.classes, self.named_share))
        if "det" in batch:
            self.boxes.add(box_names(batch["det"]))

    def add_linear(self, batch: Batch) -> None:
        """Add a batch to the regression."""
        if not len(batch["rgb"]):
            return
        targets = {name: batch[name] for name in self.linear}
        if "semseg" in targets:
            targets["semseg"] = soft_labels(batch["semseg"], len(self.classes), _BLOCK)
        self.ridge.add(thumbnail(batch["rgb"]), targets)

    def finish(self, held_out: Batch) -> References:
        """Choose the ridge strengths on held-out samples, add these, and solve."""
        images: dict[str, Tensor] = {name: mean.image(unit=name == "normal") for name, mean in self.means.items()}
        if self.mode is not None:
            images["semseg"] = self.mode.labels()
        height, width = next(iter(images.values())).shape[-2:]
        found = References(images, {}, {}, self.objects.best(), self.boxes.best(), len(self.classes), (height, width))
        for task in self.linear:
            found.strengths[task] = _choose(self.ridge, task, held_out, found)
        if held_out:
            self.add_linear(held_out)
        found.linear.update({task: self.ridge.weights(task, found.strengths[task]) for task in self.linear})
        return found


def _choose(ridge: Ridge, task: str, held_out: Batch, shape: References) -> float:
    """The strength with the best metric on held-out samples; a middling one if there are none."""
    if not held_out:
        return 1e-2

    def badness(predicted: Tensor) -> float:
        score = score_of(task, shape.num_classes)[1]
        score.add(_shaped(task, predicted, shape.num_classes, shape.size), held_out[task])
        return -score.value() if task == "semseg" else score.value()

    return ridge.best_strength(task, thumbnail(held_out["rgb"]), badness)


def _shaped(task: str, predicted: Tensor, num_classes: int, size: tuple[int, int]) -> Tensor:
    height, width = size
    if task == "semseg":
        return hard_labels(predicted.reshape(len(predicted), num_classes, height // _BLOCK, width // _BLOCK), size)
    return predicted.reshape(len(predicted), -1, height, width)
