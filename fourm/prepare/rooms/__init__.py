"""Rooms: rendered furnished rooms with exactly aligned rgb, depth, normals, semantic labels, boxes, captions and edges.

`layout` furnishes a room from the pieces of `furniture` and `decor`, `camera` finds a view of it, `shading` renders that view with
the rays of `rays`, `caption` describes it, `encode` turns it into files and `writer` fills shards with them.
"""

from fourm.prepare.rooms.classes import CLASSES, OBJECTS, SOURCES
from fourm.prepare.rooms.writer import render

__all__ = ["CLASSES", "OBJECTS", "SOURCES", "render"]
