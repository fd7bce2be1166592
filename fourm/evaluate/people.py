"""People that a model writes: who is found, and how far their joints are off (4M-21, Bachmann et al. 2024, table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from fourm.data.unpack import read_npz
from fourm.errors import ConfigError, DataError
from fourm.evaluate.predict import Predictor

KEY = "human_poses"
Array = NDArray[np.float64]
Person = Mapping[str, Any]
_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
"""The joint that each of SMPL's 24 hangs on."""
_SAME = 0.5
_ROTATIONS = ("global_orient", "body_pose")


@dataclass(frozen=True)
class Skeleton:
    """Joints of SMPL's body at rest (Loper et al. 2015), which its licence forbids to ship.

    Args:
        joints: (24, 3) metres, of the mean shape.
        shapes: (24, 3, 10) how they move with the numbers of the shape.
    """

    joints: Array
    shapes: Array

    def posed(self, person: Person) -> Array:
        """(24, 3) joints of a person, from the pelvis, in metres.

        Args:
            person: `global_orient` (9 numbers), `body_pose` (207), and `betas` (10), which may be missing.
        """
        rest = self.joints + self.shapes @ np.asarray(person.get("betas", np.zeros(10)), np.float64)
        turns = rotations(person)
        placed, turned = np.zeros_like(rest), np.empty_like(turns)
        for joint, parent in enumerate(_PARENTS):
            if parent < 0:
                turned[joint] = turns[joint]
                continue
            placed[joint] = placed[parent] + turned[parent] @ (rest[joint] - rest[parent])
            turned[joint] = turned[parent] @ turns[joint]
        return placed


def load_skeleton(path: Path) -> Skeleton:
    """The skeleton in an npz file with `joints` (24, 3) and `shapes` (24, 3, 10).

    Of SMPL's arrays, `joints` is J_regressor @ v_template and `shapes` is J_regressor applied to shapedirs.

    Raises:
        ConfigError: if the file is missing, damaged or of another form.
    """
    try:
        arrays = read_npz(path.read_bytes(), ("joints", "shapes"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"skeleton: cannot read {path}: {error}. Make it of SMPL as docs/evaluation.md shows"
        ) from None
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != {"joints": (24, 3), "shapes": (24, 3, 10)}:
        raise ConfigError(
            f"skeleton: {path} holds {shapes or 'nothing'}; expected joints (24, 3) and shapes (24, 3, 10)"
        )
    return Skeleton(arrays["joints"].astype(np.float64), arrays["shapes"].astype(np.float64))


def pose_score(predictor: Predictor, skeleton: Path | None) -> PoseScore:
    """The score of a model's people.

    Raises:
        ConfigError: if their poses cannot be decoded, or the skeleton cannot be read.
    """
    predictor.need(KEY, asked=True)
    if KEY not in predictor.tokenizers:
        raise ConfigError(
            f"the model writes {KEY}, but has no tokenizer of that name to decode the poses: name one under "
            f"`tokenizers` ({KEY}: folder) when the model is exported or trained"
        )
    return PoseScore(None if skeleton is None else load_skeleton(skeleton))


class PoseScore:
    """Compares people with the true ones whose boxes they overlap by half or more.

    Args:
        skeleton: gives joints their places; None: only their turns are compared.
    """

    def __init__(self, skeleton: Skeleton | None = None) -> None:
        self.skeleton, self.count = skeleton, 0
        self.errors: dict[str, list[float]] = {"joint_angle": [], "body_angle": []}
        if skeleton is not None:
            self.errors |= {"mpjpe": [], "pa_mpjpe": []}

    def add(self, found: Sequence[Sequence[Person]], truth: Sequence[Sequence[Person]]) -> None:
        """People of each sample, as `fourm.data.facts.poses` and `decode_codes` give them."""
        for some, true in zip(found, truth, strict=True):
            known = [person for person in true if _has_pose(person)]
            self.count += len(known)
            whole = [person for person in some if _has_pose(person)]
            for own, other in pairs(whole, known):
                self._compare(whole[own], known[other])

    def _compare(self, person: Person, true: Person) -> None:
        off = angles(rotations(person), rotations(true))
        self.errors["body_angle"].append(float(off[0]))
        self.errors["joint_angle"].append(float(off[1:].mean()))
        if self.skeleton is not None:
            own, other = self.skeleton.posed(person), self.skeleton.posed(true)
            for name, moved in (("mpjpe", own), ("pa_mpjpe", procrustes(own, other))):
                self.errors[name].append(1000 * float(np.linalg.norm(moved - other, axis=1).mean()))

    def result(self) -> dict[str, float]:
        """`found`, the share of people; and of those, if there are any, the mean over people: `joint_angle` and
        `body_angle` in degrees, and with a skeleton `mpjpe` and `pa_mpjpe` in millimetres.

        Raises:
            DataError: if no sample has a person whose pose is known.
        """
        if not self.count:
            raise DataError("no sample has a person with body_pose and global_orient: there is nothing to measure")
        means = {name: float(np.mean(values)) for name, values in self.errors.items() if values}
        return {"found": len(self.errors["body_angle"]) / self.count, **means}


def rotations(person: Person) -> Array:
    """(24, 3, 3) the turn of the body and of each joint, made proper: written numbers are rounded.

    Of all rotations these are nearest to what is given.
    """
    given = np.concatenate([np.asarray(person[name], np.float64).reshape(-1, 3, 3) for name in _ROTATIONS])
    left, _, right = np.linalg.svd(given)
    left[..., -1] *= np.sign(np.linalg.det(left @ right))[:, None]
    proper: Array = left @ right
    return proper


def angles(turns: Array, others: Array) -> Array:
    """(N,) degrees between rotations (N, 3, 3)."""
    cosine = (np.einsum("nij,nij->n", turns, others) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def procrustes(points: Array, like: Array) -> Array:
    """Points (N, 3) moved, turned and scaled to lie as near to others as they can (Gower 1975)."""
    centre, goal = points.mean(0), like.mean(0)
    own, other = points - centre, like - goal
    left, sizes, right = np.linalg.svd(other.T @ own)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    scale = (sizes * sign).sum() / max(float((own**2).sum()), 1e-12)
    moved: Array = scale * own @ (left * sign @ right).T + goal
    return moved


def pairs(found: Sequence[Person], truth: Sequence[Person]) -> list[tuple[int, int]]:
    """(person, true person) whose boxes overlap by half or more, those that overlap most first, each at most once."""
    if not found or not truth:
        return []
    boxes = [torch.tensor([list(one["bbox"]) for one in side], dtype=torch.float64) for side in (found, truth)]
    shared = box_iou(*boxes)
    chosen = []
    while float(shared.max()) >= _SAME:
        own, other = divmod(int(shared.argmax()), len(truth))
        chosen.append((own, other))
        shared[own], shared[:, other] = -1.0, -1.0
    return chosen


def _has_pose(person: Person) -> bool:
    return all(person.get(name) is not None for name in _ROTATIONS)
