"""Rooms: rendered furnished rooms with exactly aligned rgb, depth, normals, semantic labels, boxes, captions and edges.

`layout` furnishes a `room` with the pieces of `furniture` and `decor` (made of `shapes`), `viewpoint` finds a `camera`,
`view` and `shading` render it with the rays of `rays` and the light of `light`, `caption` describes it, `encode` turns
it into files and `writer` fills shards with them.
"""

from fourm.prepare.rooms.classes import CLASSES, OBJECTS, SOURCES
from fourm.prepare.rooms.writer import render

__all__ = ["CLASSES", "OBJECTS", "SOURCES", "render"]
