"""Crop and mirror what has a place in an image, and draw what training sees of it: boxes, people, points, palettes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.data.geometry import Geometry

MIN_VISIBLE = 0.1
"""Boxes of which a crop shows less than this share are dropped."""
NUM_POINTS = 7
"""Points at which a sample asks for instances (4M-21, Bachmann et al. 2024)."""
INSTANCE_SIZE = 224
"""Pixels of the crop in which instances are stored."""
_MIRRORED = np.array([1, -1, -1, -1, 1, 1, -1, 1, 1], np.float64)
"""M R M with M = diag(-1, 1, 1), number by number: a rotation as it is seen in a mirror."""

_OTHER_SIDE = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
"""COCO's key point that each one is in a mirror: the left wrist is a right one."""

Corners = tuple[float, float, float, float]


def crop_boxes(instances: list[dict[str, Any]], geometry: Geometry) -> list[dict[str, Any]]:
    """Boxes of a crop, in shares of the crop. Instances that it shows less than `MIN_VISIBLE` of are dropped."""
    cut = [(instance, _cut(instance["boxes"], geometry)) for instance in instances]
    return [{**instance, "boxes": list(box)} for instance, box in cut if box is not None]


def crop_people(people: Sequence[Mapping[str, Any]], geometry: Geometry) -> list[dict[str, Any]]:
    """People of a crop, whose boxes come in pixels of the image and leave as shares of the crop.

    Dropped as `crop_boxes` drops; mirrored as `mirror_person` does. The camera is that of the whole box, also where the
    crop cuts it.
    """
    height, width = geometry.image_size
    kept = []
    for person in people:
        x1, y1, x2, y2 = person["bbox"]
        box = _cut((x1 / width, y1 / height, x2 / width, y2 / height), geometry)
        if box is not None:
            seen = {**person}
            if "keypoints" in person:
                seen["keypoints"] = _crop_keypoints(person["keypoints"], geometry)
            kept.append({**(_mirror_body(seen) if geometry.hflip else seen), "bbox": box})
    return kept


def _crop_keypoints(keypoints: Any, geometry: Geometry) -> list[list[float]]:
    """Rows x, y, score in pixels of the image as shares of the box; the score of those outside it becomes 0."""
    rows = np.array(keypoints, np.float64)
    rows[:, :2] = (rows[:, :2] - (geometry.left, geometry.top)) / (geometry.width, geometry.height)
    rows[((rows[:, :2] < 0) | (rows[:, :2] > 1)).any(1), 2] = 0
    return rows.tolist()


def mirror_person(person: Mapping[str, Any]) -> dict[str, Any]:
    """A person as a mirrored image shows them: box, rotation and the camera's x; the shape stays.

    The ids of a pose cannot be mirrored without their tokenizer: those under `mirrored_pose_tokens` take their place,
    and without these there are none.
    """
    x1, y1, x2, y2 = person["bbox"]
    return {**_mirror_body(person), "bbox": (1 - x2, y1, 1 - x1, y2)}


def _mirror_body(person: Mapping[str, Any]) -> dict[str, Any]:
    seen = {**person}
    ids, mirrored = seen.pop("pose_tokens", None), seen.pop("mirrored_pose_tokens", None)
    seen.pop("body_pose", None)  # its ids stand for it
    if mirrored is not None:
        seen |= {"pose_tokens": mirrored} | ({} if ids is None else {"mirrored_pose_tokens": ids})
    if "global_orient" in seen:
        seen["global_orient"] = (np.asarray(seen["global_orient"], np.float64).ravel() * _MIRRORED).tolist()
    if "camera" in seen:
        scale, x, y = seen["camera"]
        seen["camera"] = [scale, -x, y]
    if "keypoints" in seen:
        rows = np.array(seen["keypoints"], np.float64)[_OTHER_SIDE]
        rows[:, 0] = 1 - rows[:, 0]
        seen["keypoints"] = rows.tolist()
    return seen


def _cut(box: Sequence[float], geometry: Geometry) -> Corners | None:
    """What a crop shows of a box, in shares of the crop; None where it is too little. `box` is in shares of the image.

    A box without area counts as visible nowhere.
    """
    top, left, height, width = geometry.relative_box
    x1, x2 = ((min(max(x, left), left + width) - left) / width for x in (box[0], box[2]))
    y1, y2 = ((min(max(y, top), top + height) - top) / height for y in (box[1], box[3]))
    area = (box[2] - box[0]) * (box[3] - box[1])
    visible = (x2 - x1) * width * (y2 - y1) * height
    if visible <= 0 or visible < MIN_VISIBLE * area:
        return None
    return (1 - x2, y1, 1 - x1, y2) if geometry.hflip else (x1, y1, x2, y2)


def draw_palette(
    palettes: Mapping[int, list[tuple[int, int, int]]], rng: np.random.Generator
) -> list[tuple[int, int, int]]:
    """One of the palettes of a file, each size equally often."""
    sizes = sorted(palettes)
    return palettes[sizes[int(rng.integers(len(sizes)))]]


def draw_points(crop: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Random points of a crop, and the instances that each lies in, in shares of the crop.

    Args:
        crop: its instances, as `facts.sam` gives them.
        rng: draws `NUM_POINTS` pixels.
    """
    points = rng.integers(0, INSTANCE_SIZE, (NUM_POINTS, 2))
    inside = contains(crop["points"], crop["num_points"], points)
    boxes = crop["box"] / INSTANCE_SIZE
    return [
        {
            "point": (float(x) / INSTANCE_SIZE, float(y) / INSTANCE_SIZE),
            "instances": [
                {"box": tuple(boxes[i].tolist()), "token_ids": crop["token_ids"][i].tolist()}
                for i in np.flatnonzero(hit)
            ],
        }
        for (x, y), hit in zip(points, inside.T)
    ]


def contains(outlines: NDArray[Any], lengths: NDArray[Any], points: NDArray[Any]) -> NDArray[np.bool_]:
    """Which polygons points lie in or on: a line from there to the right crosses the outline an odd number of times.

    Args:
        outlines: (n, 2) x, y of all corners, one polygon after the other.
        lengths: (polygons,) corners of each, at least one.
        points: (k, 2) x, y.

    Returns:
        (polygons, k).
    """
    if not len(lengths):
        return np.zeros((0, len(points)), np.bool_)
    starts = np.cumsum(lengths) - lengths
    following = np.arange(1, len(outlines) + 1)
    following[starts + lengths - 1] = starts
    (x1, y1), (x2, y2) = outlines.T[..., None], outlines[following].T[..., None]
    x, y = points.T
    side = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1)
    crosses = ((y1 > y) != (y2 > y)) & ((side > 0) == (y2 > y1))
    on = (side == 0) & (np.abs(2 * x - x1 - x2) <= np.abs(x2 - x1)) & (np.abs(2 * y - y1 - y2) <= np.abs(y2 - y1))
    return (np.add.reduceat(crosses, starts, dtype=np.int64) % 2 == 1) | np.logical_or.reduceat(on, starts)
