"""`fourm prepare coco`: rooms as a data set in COCO's form, with the exact mask of every piece of furniture.

Rooms on disk have boxes, but no masks that tell two chairs apart. A room is a pure function of its seed, so it is
rendered once more, and what is rendered is compared with what is stored.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fourm.data.source import Source, open_source
from fourm.errors import DataError
from fourm.prepare.rooms.classes import OBJECTS
from fourm.prepare.rooms.rays import check_installed
from fourm.prepare.rooms.writer import MANIFEST
from fourm.prepare.scenes.writer import Picture, write_scenes


@dataclass(frozen=True)
class RoomScenes:
    """Room of a number as a picture.

    Args:
        root: folder of the rooms.
        seed, size: as they were rendered.
    """

    root: Path
    seed: int
    size: int

    def __call__(self, number: int) -> Picture:
        from fourm.prepare.rooms.encode import encode_labels, masks_of, view_of_room

        stored = self._source.read(number)
        room, view = view_of_room(self.seed, int(self._source.key(number)), self.size)
        if encode_labels(view.semseg) != stored["semseg"]:
            raise DataError(
                f"{self._source.where(number, 'semseg')} is not what this version of fourm renders for room {number} "
                f"of seed {self.seed}: render the rooms again with `fourm prepare rooms`, into another folder"
            )
        instances = [(OBJECTS.index(room.placed[n].piece.kind) + 1, mask) for n, mask in masks_of(room, view)]
        return Picture(stored["rgb"], (self.size, self.size), instances)

    @cached_property
    def _source(self) -> Source:
        return open_source(str(self.root), ["rgb", "semseg"])


def export_rooms(root: Path, out: Path, *, workers: int) -> None:
    """Write the rooms below `root` in COCO's form.

    Raises:
        DataError: if `root` holds no complete set of rooms, or `out` something else.
        MissingExtraError: if what renders rooms is not installed.
    """
    check_installed()
    try:
        manifest = json.loads((root / MANIFEST).read_bytes())
        num, seed, size = (int(manifest[key]) for key in ("num", "seed", "size"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{root} holds no complete set of rooms ({MANIFEST}: {error}). Run `fourm prepare rooms {root}` first"
        ) from None
    settings = {"made_by": "fourm prepare coco", "rooms": {key: manifest[key] for key in ("seed", "size", "version")}}
    write_scenes(out, RoomScenes(root, seed, size), num=num, classes=OBJECTS, settings=settings, workers=workers)
