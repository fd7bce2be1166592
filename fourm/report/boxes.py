"""Boxes with their class names, on a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from fourm.report.canvas import canvas, nothing, numbers, outline, rectangle, tag
from fourm.report.colors import class_color

Box = Mapping[str, Any]


def boxes(
    instances: Mapping[str, Any] | Sequence[Box],
    background: Image.Image | None = None,
    *,
    classes: tuple[str, ...] = (),
) -> Image.Image:
    """Boxes with their class names.

    Args:
        instances: mappings with `boxes` (x1, y1, x2, y2 as shares of the width and height) and `class_name`, or a
            mapping that holds them under `instances`.
        background: picture below the boxes; it is enlarged so that names are legible. Without it, a light sheet.
        classes: class names in palette order.
    """
    found = instances.get("instances", ()) if isinstance(instances, Mapping) else instances
    if not found:
        return nothing(background)
    sheet = canvas(background)
    # Large boxes first, each with its name, so that small ones stay visible.
    for instance in sorted(found, key=_area, reverse=True):
        name = str(instance.get("class_name", ""))
        outline(sheet, instance["boxes"], class_color(name, classes))
        if name:
            left, top, _, _ = rectangle(sheet, instance["boxes"])
            tag(sheet, name, left, top, class_color(name, classes))
    return sheet


def _area(instance: Box) -> float:
    x1, y1, x2, y2 = numbers(instance["boxes"], 4)
    return abs(x2 - x1) * abs(y2 - y1)
