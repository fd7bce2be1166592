"""`fourm prepare scenes`."""

from __future__ import annotations

from pathlib import Path

from fourm.prepare.scenes.compose import Composer
from fourm.prepare.scenes.cutouts import CLASSES, Split, find_photographs
from fourm.prepare.scenes.writer import write_scenes

VERSION = 1
"""Scenes of another version look different even with the same seed."""


def prepare_scenes(
    out: Path, *, num: int, size: int, seed: int, split: Split, stamps: Path, backgrounds: Path, workers: int
) -> None:
    """Compose scenes of cut-out photographs into a data set in COCO's form.

    Args:
        out: folder of the data set.
        num: scenes.
        size: pixels per side.
        seed: another seed, or another split, gives other scenes.
        split: which photographs they are made of.
        stamps, backgrounds: folders of the photographs.
        workers: processes; the files are the same for any number.

    Raises:
        DataError: if there are no photographs, or the folder holds something else or cannot be written.
    """
    photographs = find_photographs(stamps, backgrounds, split)
    settings = {"made_by": "fourm prepare scenes", "size": size, "seed": seed, "split": split, "version": VERSION}
    composer = Composer(photographs, seed, size, split)
    write_scenes(out, composer, num=num, classes=CLASSES, settings=settings, workers=workers)
