"""The JSON of COCO's annotations (Lin et al. 2014): images, annotations and categories, joined by their ids."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fourm.errors import ConfigError

Entry = dict[str, Any]
COMMON = frozenset(
    {"images", "annotations", "categories", "id", "file_name", "width", "height", "image_id", "category_id", "name"}
)
"""The keys that every use of such a file needs."""


def read(path: Path, wanted: Collection[str]) -> dict[str, Any]:
    """The parts of a JSON file under some keys. The others are dropped while it is read, since files are large.

    Raises:
        ConfigError: if it cannot be read, or holds no object.
    """

    def keep(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: _compact(value) if key == "segmentation" else value for key, value in entry.items() if key in wanted
        }

    try:
        content = json.loads(path.read_bytes(), object_hook=keep)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not in COCO's form: expected images, annotations and categories")
    return content


def plain_id(given: Any) -> Any:
    """An id; a whole number that is written as text counts as the number, unless it begins with zeros."""
    is_number = isinstance(given, str) and re.fullmatch("0|[1-9][0-9]{,17}", given)
    return int(given) if is_number else given


def by_id(entries: Iterable[Entry], name: str, path: Path) -> dict[Any, Entry]:
    """Images or categories by their id.

    Raises:
        ConfigError: if two have the same, so that annotations do not tell which is meant.
    """
    found: dict[Any, Entry] = {}
    for entry in entries:
        other = found.setdefault(plain_id(entry["id"]), entry)
        if other is not entry:
            raise ConfigError(
                f"{path}: '{other[name]}' and '{entry[name]}' both have the id {entry['id']!r}. Give each its own"
            )
    return found


def by_image(annotations: Sequence[Entry], images: Mapping[Any, Entry], path: Path) -> dict[Any, list[Entry]]:
    """Annotations by the id of their image.

    Raises:
        ConfigError: if there is no such image.
    """
    found: dict[Any, list[Entry]] = defaultdict(list)
    for annotation in annotations:
        found[plain_id(annotation["image_id"])].append(annotation)
    lost = [number for number in found if number not in images]
    if lost:
        count = sum(len(found[number]) for number in lost)
        raise ConfigError(
            f"{path}: {count:,} of its {len(annotations):,} annotations have an image_id that none of its "
            f"{len(images):,} images has, such as {lost[0]!r}. Add the images, or remove these annotations"
        )
    return found


def _compact(segmentation: Any) -> Any:
    """Polygons in an eighth of the memory."""
    try:
        return (
            [np.asarray(outline, np.float32) for outline in segmentation]
            if isinstance(segmentation, list)
            else segmentation
        )
    except (TypeError, ValueError):  # told of where it is used
        return segmentation
