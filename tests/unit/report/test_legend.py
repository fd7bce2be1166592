"""Colours of label maps and their names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fourm import catalog
from fourm.report.colors import palette
from fourm.report.legend import class_names, legend


def test_a_legend_shows_the_colours_of_the_present_classes_only() -> None:
    colors = set(map(tuple, np.asarray(legend(("floor", "wall", "bed"), present=[0, 2])).reshape(-1, 3).tolist()))
    first, second, third = map(tuple, palette(3).tolist())
    assert first in colors
    assert third in colors
    assert second not in colors


def test_every_class_of_a_label_map_has_a_name() -> None:
    rooms = catalog.get("semseg@64")
    assert class_names(rooms) == rooms.classes
    assert class_names(replace(rooms, classes=()))[7] == "class 7"


def test_void_is_no_class() -> None:
    """In the published form its id is 0; names may be those of the classes alone, or begin with void's."""
    names = tuple("abcdefghijklmno")
    published = replace(catalog.get("semseg@64"), decode="labels_void_first")
    assert class_names(replace(published, classes=names)) == names
    assert class_names(replace(published, classes=("void", *names))) == names
    assert len(class_names(catalog.get("semseg_coco@224"))) == 133
