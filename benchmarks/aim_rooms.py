"""Rendered rooms in the study of AIM's prefix: probes ask what each patch shows, how far it is and where it faces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from aim_probes import Features, features, ridge
from aim_setting import Row, Setting, percent
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multilabel_average_precision

from fourm.catalog import MODALITIES, ROOM_CLASSES
from fourm.data.configs import DatasetConfig
from fourm.data.dataset import build_dataset
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality, ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.prepare.rooms.writer import render
from fourm.rng import generator

SIDE = 64
RGB, LABELS, DEPTH, NORMALS = READ = ("rgb@64", "semseg@64", "depth@64", "normal@64")
TEST_SEED = 2
"""The quick start's own rooms are those of seeds 0 and 1."""
BUILDING = 3
"""Classes that nearly every room shows: floor, wall, ceiling. The others are things."""
VISIBLE = 16
"""Pixels from which on a thing counts as there."""


class Answers(NamedTuple):
    """What is asked of n rooms with N patches each.

    Args:
        label: (n, N) most frequent class of a patch.
        depth: (n, N, 1) mean logarithm of its depth, up to a factor and a constant.
        normal: (n, N, 3) its mean normal.
        things: (n, T) 1 for each kind of thing that is there.
    """

    label: Tensor
    depth: Tensor
    normal: Tensor
    things: Tensor


class Rooms(NamedTuple):
    """Args:
    train: (2 n, 3, H, W) rooms, and then the same mirrored.
    train_answers: of the n that are not mirrored.
    test: (m, 3, H, W) rooms.
    test_answers: of these.
    """

    train: Tensor
    train_answers: Answers
    test: Tensor
    test_answers: Answers


ROWS = {
    "last label": percent("class of a patch, last block"),
    "label": percent("class of a patch"),
    "early label": percent("class of an early patch"),
    "late label": percent("class of a late patch"),
    "last depth": Row("depth of a patch, last block"),
    "depth": Row("depth of a patch"),
    "early depth": Row("depth of an early patch"),
    "late depth": Row("depth of a late patch"),
    "last normal": Row("normal of a patch, last block"),
    "normal": Row("normal of a patch"),
    "early normal": Row("normal of an early patch"),
    "late normal": Row("normal of a late patch"),
    "last things": percent("things in the room, last block"),
    "things": percent("things in the room"),
}


@dataclass(frozen=True)
class RoomsSetting(Setting):
    """Args:
    num_train: rooms, each of which is trained on as it is and mirrored.
    """

    dim: int = 64
    depth: int = 4
    num_heads: int = 2
    patch_size: int = 8
    steps: int = 2000
    batch: int = 16
    lr: float = 2e-3
    num_train: int = 4000
    num_probe: int = 4000
    num_test: int = 1000

    source: ClassVar[Path] = Path("outputs/quickstart/rooms/train")

    @property
    def rows(self) -> Mapping[str, Row]:
        blocks = range(1, self.depth + 1)
        return {**ROWS, **{f"block {n} label": percent(f"class of a patch, block {n} as it is") for n in blocks}}

    @property
    def modality(self) -> Modality:
        side = SIDE // self.patch_size
        return replace(
            MODALITIES[RGB], layout=Grid(side, side, self.patch_size), content=Continuous(3 * self.patch_size**2),
            direction="both", positions="sincos_xy",
        )  # fmt: skip

    def photographs(self, source: Path, output: Path) -> Rooms:
        render(output / "rooms", num=self.num_test, size=SIDE, seed=TEST_SEED, workers=1, progress=False)
        train, train_answers = read(source, self.num_train, self.patch_size)
        test, test_answers = read(output / "rooms", self.num_test, self.patch_size)
        return Rooms(torch.cat([train, train.flip(-1)]), train_answers, test, test_answers)

    def probes(self, model: Multimodal, data: Rooms, causal: bool) -> dict[str, float]:
        fitted = data._replace(
            train=data.train[: self.num_probe],
            train_answers=Answers(*(answers[: self.num_probe] for answers in data.train_answers)),
        )
        last, blocks = (features(model, fitted, layers, causal) for layers in (None, self.probed))
        told = dense(last, fitted)
        each = [features(model, fitted, [block], causal) for block in range(self.depth)]
        return {
            **{f"last {key}": told[key] for key in ("label", "depth", "normal")},
            **dense(blocks, fitted),
            "last things": things(last, fitted),
            "things": things(blocks, fitted),
            **{f"block {n} label": dense(block, fitted)["label"] for n, block in enumerate(each, 1)},
        }


def read(folder: Path, number: int, patch_size: int) -> tuple[Tensor, Answers]:
    """The first rooms of a folder of `fourm prepare rooms`: photographs (n, 3, H, W), and what is asked of them."""
    config = DatasetConfig(path=str(folder), max_samples=number)
    dataset = build_dataset("rooms", config, ModalitySet([MODALITIES[name] for name in READ]))
    samples: list[dict[str, Any]] = [dataset.sample(n, generator(0, "rooms", n)) for n in range(len(dataset))]
    rgb, depth, normals = (
        torch.stack([torch.as_tensor(room[name]) for room in samples]) for name in (RGB, DEPTH, NORMALS)
    )
    labels = torch.stack([torch.as_tensor(room[LABELS]) for room in samples])
    return rgb, answers(labels, depth, normals, patch_size)


def answers(labels: Tensor, depth: Tensor, normals: Tensor, patch_size: int) -> Answers:
    """What is asked of rooms, by their maps.

    Args:
        labels: (n, H, W) classes.
        depth: (n, 1, H, W), normalised.
        normals: (n, 3, H, W).
        patch_size: pixels.
    """
    shares = patches(F.one_hot(labels, len(ROOM_CLASSES)).movedim(-1, 1).float(), patch_size)
    seen = (shares.sum(1) * patch_size**2).round() >= VISIBLE
    return Answers(shares.argmax(-1), patches(depth, patch_size), patches(normals, patch_size), seen[:, BUILDING:])


def patches(maps: Tensor, patch_size: int) -> Tensor:
    """Means (n, N, C) over the patches of maps (n, C, H, W), row by row."""
    return F.avg_pool2d(maps, patch_size).flatten(2).mT


def dense(of: Features, data: Rooms) -> dict[str, float]:
    """Ridge regression on single patches, one for each place: what is usual there is known to all of them.

    Returns:
        `label`: accuracy; `depth` and `normal`: share of the variance that is explained; `early` and `late` ones: the
        same of the first and of the second half of the places.
    """
    asked = data.train_answers
    wanted = torch.cat([F.one_hot(asked.label, len(ROOM_CLASSES)), asked.depth, asked.normal], -1)
    found = torch.stack([ridge(of.train[:, n], wanted[:, n], of.test[:, n]) for n in range(of.train.shape[1])], 1)
    label, depth, normal = found.split([len(ROOM_CLASSES), 1, 3], -1)
    right, half = data.test_answers, of.test.shape[1] // 2
    told = {}
    for part, places in (("", slice(None)), ("early ", slice(half)), ("late ", slice(half, None))):
        hits = label[:, places].argmax(-1) == right.label[:, places]
        told[f"{part}label"] = hits.double().mean().item()
        told[f"{part}depth"] = explained(depth[:, places], right.depth[:, places])
        told[f"{part}normal"] = explained(normal[:, places], right.normal[:, places])
    return told


def explained(found: Tensor, right: Tensor) -> float:
    """R2 of answers (n, N, k): 1 less the squared error over the squared distance from the means of what is right, one
    for each place.
    """
    found, right = found.double(), right.double()
    return 1 - ((found - right).square().sum() / (right - right.mean(0)).square().sum()).item()


def things(of: Features, data: Rooms) -> float:
    """Mean average precision of ridge regression on the mean patch, over the kinds of things."""
    found = ridge(of.train.mean(1), data.train_answers.things, of.test.mean(1))
    shown = data.test_answers.things
    some = shown.any(0)  # a kind that no room shows has no precision
    return multilabel_average_precision(found[:, some].sigmoid(), shown[:, some].long(), int(some.sum())).item()
