"""What rooms hold, by name; free of heavy imports, so that recipes and metrics can use it anywhere."""

from __future__ import annotations

from fourm.catalog import MAX_DEPTH_METRES, ROOM_CLASSES
from fourm.words import names_in

__all__ = [
    "CLASSES",
    "MAX_DEPTH_METRES",
    "MIN_SIZE",
    "NAMED_SHARE",
    "OBJECTS",
    "SOURCES",
    "VOID",
    "objects_in",
]

CLASSES: tuple[str, ...] = ROOM_CLASSES
"""Names by class id. The first three are the room itself."""

OBJECTS: tuple[str, ...] = CLASSES[3:]
"""What captions name and boxes enclose."""

MIN_SIZE = 16
"""Fewest pixels per side of a view."""

VOID = 255
NAMED_SHARE = 1 / 34
"""Captions name the objects whose class covers at least this share of the image (about 120 pixels of 64 x 64)."""

SOURCES: dict[str, str] = {
    "rgb": "png", "depth": "png", "normal": "png", "semseg": "png", "canny": "png", "det": "json", "caption": "json",
}  # fmt: skip
"""Source -> extension of its members."""


def objects_in(text: str) -> set[str]:
    """The object classes a caption names: `objects_in("two beds and a rug")` is `{"bed", "rug"}`."""
    return set(names_in(text, OBJECTS))
