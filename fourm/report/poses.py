"""People: where they are, how their bodies are turned, and their joints where these are known.

The shape of a body needs SMPL (Loper et al. 2015), whose licence forbids to ship it. What is drawn without it is what
the numbers say by themselves: the box, and the directions of the body's own axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from fourm.report.arrays import to_array
from fourm.report.canvas import canvas, dot, nothing, numbers, outline, place, rectangle, stroke, tag
from fourm.report.colors import Color, instance_color

_COCO = ((0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10), (5, 11), (6, 12), (11, 12), (11, 13),
         (13, 15), (12, 14), (14, 16))  # fmt: skip
_SMPL_PARENTS = (0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
_LIMBS = {17: _COCO, 24: tuple((parent, child) for child, parent in enumerate(_SMPL_PARENTS, 1))}
"""Number of joints -> the pairs that a bone connects: COCO's key points, and SMPL's joints."""

_AXES: tuple[tuple[str, Color], ...] = (("left", (214, 39, 40)), ("up", (44, 150, 44)), ("front", (31, 90, 220)))
"""SMPL's axes x, y and z: where the left hand, the head and the face of a body at rest point."""


def poses(people: Sequence[Mapping[str, Any]], background: Image.Image | None = None) -> Image.Image:
    """People as numbered boxes with the axes of their bodies, and with their joints.

    Args:
        people: mappings with `bbox` (x1, y1, x2, y2 as shares of width and height); `global_orient`, the 9 numbers of
            the rotation from the body's axes to the camera's (x right, y down, z away from the viewer); and, if known,
            `keypoints` (K, 2 or 3): x and y as shares, and whether the joint is seen (above 0).
        background: picture below.
    """
    if not people:
        return nothing(background)
    sheet = canvas(background)
    for number, person in enumerate(people):
        outline(sheet, person["bbox"], instance_color(number))
    turned = False
    for number, person in enumerate(people):
        if person.get("keypoints") is not None:
            _joints(sheet, person["keypoints"], instance_color(number))
        if person.get("global_orient") is not None:
            turned = True
            _axes(sheet, person["bbox"], numbers(person["global_orient"], 9))
    for number, person in enumerate(people):
        left, top, _, _ = rectangle(sheet, person["bbox"])
        tag(sheet, str(number + 1), left, top, instance_color(number))
    if turned:
        _explain(sheet)
    return sheet


def _axes(sheet: Image.Image, corners: Any, rotation: list[float]) -> None:
    """Arrows from the middle of a box along the body's axes; those towards the viewer lie on top."""
    left, top, right, bottom = rectangle(sheet, corners)
    middle = ((left + right) / 2, (top + bottom) / 2)
    length = max(min(sheet.size) / 14, 0.45 * min(right - left, bottom - top))
    directions = np.clip(np.array(rotation).reshape(3, 3), -1, 1).T
    for axis in np.argsort(-directions[:, 2], kind="stable"):
        x, y, _ = directions[axis] * length
        _arrow(sheet, middle, (middle[0] + x, middle[1] + y), _AXES[axis][1])


def _arrow(sheet: Image.Image, start: tuple[float, float], end: tuple[float, float], color: Color) -> None:
    """An arrow with a light rim; one that points at the viewer or away is a dot."""
    pen, width = ImageDraw.Draw(sheet), stroke(sheet)
    (x1, y1), (x2, y2) = start, end
    length = float(np.hypot(x2 - x1, y2 - y1))
    head = 3.0 * width
    if length < head:
        pen.ellipse((x1 - width, y1 - width, x1 + width, y1 + width), fill=color, outline=(255, 255, 255))
        return
    along = np.array([x2 - x1, y2 - y1]) / length
    across = np.array([-along[1], along[0]])
    tip, neck = np.array(end), np.array(end) - head * along
    pen.line((x1, y1, *neck), fill=(255, 255, 255), width=width + 2)
    pen.line((x1, y1, *neck), fill=color, width=width)
    corners = (tip, neck - head / 2 * across, neck + head / 2 * across)
    pen.polygon([(float(x), float(y)) for x, y in corners], fill=color, outline=(255, 255, 255))


def _joints(sheet: Image.Image, keypoints: Any, color: Color) -> None:
    """Joints as dots, with bones between them where their number says which body they are of."""
    joints = np.nan_to_num(to_array(keypoints).astype(np.float64))
    if joints.ndim != 2 or joints.shape[1] not in (2, 3):
        raise ValueError(f"keypoints of shape {joints.shape}; expected (joints, 2 or 3)")
    seen = joints[:, 2] > 0 if joints.shape[1] == 3 else np.ones(len(joints), dtype=bool)
    pen = ImageDraw.Draw(sheet)
    for a, b in _LIMBS.get(len(joints), ()):
        if seen[a] and seen[b]:
            pen.line((*place(sheet, joints[a, :2]), *place(sheet, joints[b, :2])), fill=color, width=stroke(sheet))
    for joint in joints[seen]:
        dot(sheet, joint[:2], color)


def _explain(sheet: Image.Image) -> None:
    """The names of the axes in their colours, along the lower border."""
    x = 0
    for name, color in _AXES:
        x = tag(sheet, name, x, sheet.height, color)
