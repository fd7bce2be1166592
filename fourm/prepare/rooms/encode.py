"""Room number i of a seed as files: a pure function of (seed, i, size)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.prepare.rooms.caption import Seen, describe, visible_objects
from fourm.prepare.rooms.classes import MAX_DEPTH_METRES
from fourm.prepare.rooms.layout import furnish
from fourm.prepare.rooms.rays import tracer
from fourm.prepare.rooms.room import Room
from fourm.prepare.rooms.shapes import build
from fourm.prepare.rooms.view import View, label_view, render_view
from fourm.prepare.rooms.viewpoint import find_view
from fourm.rng import generator

_BOXED_SHARE = 1 / 512
_CANNY_THRESHOLDS = (100, 200)


def view_of_room(seed: int, index: int, size: int) -> tuple[Room, View]:
    """Furnish room `index` of `seed` and render a view of it."""
    rng = generator("rooms", seed, index)
    room = furnish(rng)
    mesh = build(room.placed)
    rays = tracer(mesh)
    return room, render_view(rng, room, mesh, rays, find_view(rng, room, mesh, rays), size)


def labels_of_room(seed: int, index: int, size: int) -> tuple[Room, View]:
    """The same without its light, in a small part of the time: its picture is black."""
    rng = generator("rooms", seed, index)
    room = furnish(rng)
    mesh = build(room.placed)
    rays = tracer(mesh)
    return room, label_view(room, mesh, rays, find_view(rng, room, mesh, rays), size)


def sample(seed: int, index: int, size: int) -> dict[str, bytes]:
    """All files of one room, source -> bytes.

    Args:
        seed, index: which room.
        size: pixels per side.
    """
    room, view = view_of_room(seed, index, size)
    seen = look(room, view)
    captions = describe(generator("rooms", seed, index, "caption"), seen, visible_objects(view.semseg))
    instances = [{"boxes": list(item.box), "class_name": item.kind, "score": 1.0} for item in seen]
    return {
        "rgb": _png(view.rgb[..., ::-1]),
        "depth": _png(np.round(view.depth / MAX_DEPTH_METRES * 65535).astype(np.uint16)),
        "normal": _png(np.round((view.normal[..., ::-1] + 1) / 2 * 255).astype(np.uint8)),
        "semseg": encode_labels(view.semseg),
        "canny": _png(_edges(view.rgb)),
        "det": _json({"instances": instances}),
        "caption": _json(captions),
    }


def look(room: Room, view: View) -> list[Seen]:
    """The visible objects, largest first; those that cover less than 1/512 of the image are left out."""
    size = view.semseg.shape[0]
    found = []
    for index, mask in masks_of(room, view):
        share = float(mask.mean())
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        x1, y1, x2, y2 = (float(corner) / size for corner in corners)
        piece = room.placed[index].piece
        found.append(Seen(piece.kind, piece.colour, share, (x1, y1, x2, y2), float(np.median(view.depth[mask]))))
    return sorted(found, key=lambda item: -item.share)


def masks_of(room: Room, view: View) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Index into `room.placed` and mask (S, S) of every object that covers at least 1/512 of the image."""
    for index in np.unique(view.piece[view.piece >= room.num_shell]):
        mask = view.piece == index
        if float(mask.mean()) >= _BOXED_SHARE:
            yield int(index), mask


def encode_labels(labels: NDArray[np.uint8]) -> bytes:
    """A label map as it is stored."""
    return _png(labels)


def _edges(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Canny edges of the grey picture, 0 or 255."""
    import cv2

    return np.asarray(cv2.Canny(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), *_CANNY_THRESHOLDS), np.uint8)


def _png(image: NDArray[Any]) -> bytes:
    """PNG of (H, W) grey or (H, W, 3) blue-green-red."""
    import cv2

    done, data = cv2.imencode(".png", np.ascontiguousarray(image))
    assert done, "PNG encoding in memory cannot fail"
    return bytes(data)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(", ", ": ")).encode()
