"""Decoders of values with structure: boxes, metadata, palettes, people, instances. JSON files may be gzipped.

Like those in `decode`, each takes the bytes of one file and its modality. Nothing from a file is ever unpickled.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.data.unpack import read_npz, unzip
from fourm.modality import Modality

NUM_CODES = 1024
"""Codes of the tokenizers of poses and masks (4M-21, Bachmann et al. 2024)."""
_MASK_TOKENS = 16
_OF_A_PERSON = {
    "global_orient": ("global_orient", 9),
    "betas": ("betas", 10),
    "pred_cam": ("camera", 3),
    "pose_tokenized": ("pose_tokens", 8),
    "pose_tokenized_mirrored": ("mirrored_pose_tokens", 8),
    "keypoints": ("keypoints", 51),
    "body_pose": ("body_pose", 207),
}
_INSTANCE_ARRAYS = ("points", "num_points", "bbox", "token_ids", "num_instances")


def boxes(data: bytes, modality: Modality) -> list[dict[str, Any]]:
    """Instances, JSON `{"instances": [{"boxes": [x1, y1, x2, y2], "class_name", "score"}]}`, coordinates in [0, 1]."""
    value = json.loads(unzip(data))
    if not isinstance(value, dict) or not isinstance(value.get("instances"), list):
        raise ValueError('expected {"instances": [...]}')
    for instance in value["instances"]:
        corners = [float(corner) for corner in instance["boxes"]]
        if len(corners) != 4 or not all(map(math.isfinite, corners)):
            raise ValueError(f"an instance has box {instance['boxes']}; expected x1, y1, x2, y2")
        if not isinstance(instance["class_name"], str):
            raise ValueError(f"an instance has class_name {instance['class_name']!r}; expected text")
        if not math.isfinite(float(instance.get("score", 1.0))):
            raise ValueError(f"an instance has score {instance['score']}; expected a number")
    return value["instances"]


def metadata(data: bytes, modality: Modality) -> dict[str, float]:
    """Facts about an image, JSON name -> number; null where one is not known."""
    value = json.loads(unzip(data))
    if not isinstance(value, dict):
        raise ValueError('expected {"name": number, ...}')
    found = {name: number for name, number in value.items() if number is not None}
    for name, number in found.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{name} is {number!r}; expected a finite number")
    return found


def palette(data: bytes, modality: Modality) -> dict[int, list[tuple[int, int, int]]]:
    """Palettes of several sizes, JSON `{"1": [[r, g, b]], "2": ...}` or a list of one such -> size -> its colours."""
    value = json.loads(unzip(data))
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict) or not value:
        raise ValueError('expected {"1": [[r, g, b]], "2": [[r, g, b], [r, g, b]], ...}')
    found = {}
    for size, colors in value.items():
        levels = _whole(np.rint(_finite(colors, f"palette '{size}'")), 256, f"palette '{size}'")
        if not size.isascii() or not size.isdigit() or not 0 < int(size) * 3 == levels.size:
            raise ValueError(f"palette '{size}' has {levels.size / 3:g} colours; expected as many as its name says")
        found[int(size)] = [(int(r), int(g), int(b)) for r, g, b in levels.reshape(-1, 3)]
    return found


def poses(data: bytes, modality: Modality) -> list[dict[str, Any]]:
    """People, JSON with one entry per person in each list, or empty -> one mapping per person.

    `bbox_xyxy` in pixels of the image; `pred_smpl_params` with `global_orient` (3 x 3) and `betas` (10); `pred_cam`
    (3); `pose_tokenized` (8 ids); and, optionally, `pose_tokenized_mirrored`, the ids of the mirrored body, and
    `keypoints`, COCO's 17 rows of x, y in pixels and a score. All but the boxes may be missing. What ids stand for is
    measured against `body_pose` (23 x 3 x 3); in any other form that is passed over, since nothing is trained on it.
    """
    value = json.loads(unzip(data))
    if not value and isinstance(value, list | dict):
        return []
    if not isinstance(value, dict) or "bbox_xyxy" not in value:
        raise ValueError('expected {"bbox_xyxy": [...], "pred_smpl_params": {...}, ...}')
    body = value.get("pred_smpl_params") or {}
    if not isinstance(body, dict):
        raise ValueError(f"pred_smpl_params is {type(body).__name__}; expected names and numbers")
    facts = {**value, **body}
    people: list[dict[str, Any]] = [{"bbox": box.tolist()} for box in _rows(value["bbox_xyxy"], 4, "bbox_xyxy")]
    for name, (key, count) in _OF_A_PERSON.items():
        if facts.get(name) is None:
            continue
        rows = _finite(facts[name], name)
        if rows.size != len(people) * count and name == "body_pose":
            continue
        if rows.size != len(people) * count:
            raise ValueError(f"{name} has {rows.size} numbers; expected {count} for each of {len(people)} people")
        rows = rows.reshape(len(people), count)
        for person, row in zip(people, _whole(rows, NUM_CODES, name) if name.startswith("pose_tokenized") else rows):
            person[key] = row.reshape(-1, 3).tolist() if name == "keypoints" else row.tolist()
    return people


def sam(data: bytes, modality: Modality) -> list[dict[str, NDArray[Any]]]:
    """Instances of every stored crop, JSON or npz; coordinates are pixels of a crop of 224 x 224.

    JSON: a list with `points` (an outline [[x, y], ...] per instance), `bbox` ([ymin, xmin, ymax, xmax]) and
    `token_ids` (16 ids) for each crop. npz: the same, all crops in a row: `points` (n, 2), `num_points` of every
    instance, `bbox` (instances, 4), `token_ids` (instances, 16), `num_instances` of every crop.

    Returns:
        for each crop `points` (n, 2) of all its outlines in a row, `num_points` (instances,), `box` (instances, 4) as
        xmin, ymin, xmax, ymax, and `token_ids` (instances, 16).
    """
    if data[:6] == b"\x93NUMPY":
        raise ValueError(
            "this is an npy file, in which instances are pickled objects, and nothing is unpickled. "
            "Convert it to json or npz where it can be trusted, as docs/data.md shows"
        )
    if data[:2] == b"PK":
        arrays: dict[str, Any] = {**read_npz(data, _INSTANCE_ARRAYS)}
        if missing := set(_INSTANCE_ARRAYS) - arrays.keys():
            raise ValueError(f"there is no array {', '.join(sorted(missing))}")
    else:
        arrays = _from_json(json.loads(unzip(data)))
    return _by_crop(*(arrays[name] for name in _INSTANCE_ARRAYS))


def _from_json(crops: Any) -> dict[str, Any]:
    if not isinstance(crops, list) or not all(isinstance(crop, dict) for crop in crops):
        raise ValueError('expected a list with {"points": [...], "bbox": [...], "token_ids": [...]} for every crop')
    outlines = [_rows(outline, 2, "points") for crop in crops for outline in crop["points"]]
    return {
        "points": np.concatenate([np.zeros((0, 2)), *outlines]),
        "num_points": [len(outline) for outline in outlines],
        "bbox": [box for crop in crops for box in crop["bbox"]],
        "token_ids": [ids for crop in crops for ids in crop["token_ids"]],
        "num_instances": [len(crop["points"]) for crop in crops],
    }


def _by_crop(points: Any, num_points: Any, bbox: Any, token_ids: Any, num_instances: Any) -> list[dict[str, Any]]:
    outlines = _rows(points, 2, "points")
    lengths, sizes = (_whole(_finite(n, "counts"), 2**31, "counts").ravel() for n in (num_points, num_instances))
    sides = np.trunc(_rows(bbox, 4, "bbox"))
    ids = _whole(_rows(token_ids, _MASK_TOKENS, "token_ids"), NUM_CODES, "token_ids")
    if not len(lengths) == len(sides) == len(ids) == sizes.sum() or not len(sizes):
        raise ValueError(
            f"{len(lengths)} outlines, {len(sides)} boxes and {len(ids)} rows of token_ids for {sizes.sum()} instances "
            f"in {len(sizes)} crops"
        )
    if (lengths < 1).any() or lengths.sum() != len(outlines):
        raise ValueError(f"{len(outlines)} points for outlines of {lengths.tolist()[:9]} ... points")
    ends, last = np.cumsum(sizes), np.cumsum(np.concatenate([[0], lengths]))
    crops = []
    for start, end in zip(ends - sizes, ends):
        crops.append(
            {
                "points": outlines[last[start] : last[end]],
                "num_points": lengths[start:end],
                "box": sides[start:end, [1, 0, 3, 2]],
                "token_ids": ids[start:end],
            }
        )
    return crops


def _rows(values: Any, columns: int, what: str) -> NDArray[np.float64]:
    array = _finite(values, what)
    if array.size % columns:
        raise ValueError(f"{what}: {array.size} numbers; expected rows of {columns}")
    return array.reshape(-1, columns)


def _finite(values: Any, what: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: expected numbers, as many in every row") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: values that are not finite, NaN or infinity")
    return array


def _whole(values: NDArray[np.float64], below: int, what: str) -> NDArray[np.int64]:
    if (values != np.trunc(values)).any() or (values < 0).any() or (values >= below).any():
        raise ValueError(f"{what}: expected whole numbers from 0 to {below - 1}")
    return values.astype(np.int64)
