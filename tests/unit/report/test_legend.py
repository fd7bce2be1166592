"""Colours of label maps and their names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fourm import catalog
from fourm.report.colors import color_scale, palette
from fourm.report.legend import class_names, legend, scale_legend
from fourm.report.scale import Scale


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


def test_a_scale_shows_its_colours_from_low_to_high_with_ticks() -> None:
    picture = np.asarray(scale_legend("thermal", Scale((0.0, 120.0)), length=256)).astype(int)
    ramp = picture[8]
    start = int(np.flatnonzero((ramp == color_scale("inferno")[0]).all(-1))[0])
    assert (ramp[start : start + 256] == color_scale("inferno")).all()
    below = picture[20] - picture[20, 0]
    assert np.flatnonzero(below.any(-1)).tolist() == [start + place for place in (0, 64, 128, 191, 255)]


def test_the_name_and_the_numbers_of_a_scale_have_room() -> None:
    wide, short = (scale_legend(name, Scale((-12345.5, 12345.5))) for name in ("thermal, thermal (given)", "t"))
    assert wide.width > short.width + 80
    for picture in (wide, short):
        pixels = np.asarray(picture)
        assert (pixels[:, -1] == pixels[0, 0]).all()
