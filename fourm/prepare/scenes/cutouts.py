"""Photographs that were cut out, by class, and photographs to put behind them: those that Tux Paint brings along."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from fourm.errors import DataError
from fourm.rng import generator

Split = Literal["all", "train", "val"]
STAMPS = Path("/usr/share/tuxpaint/stamps")
BACKGROUNDS = Path("/usr/share/tuxpaint/templates")
PACKAGES = "Debian: apt-get install tuxpaint-stamps-default tuxpaint-data"

FOLDERS: dict[str, tuple[str, ...]] = {
    "bird": ("animals/birds",),
    "mammal": ("animals/mammals",),
    "fruit": ("food/fruit",),
    "vegetable": ("food/vegetables",),
    "flower": ("plants/flowers",),
    "vehicle": ("vehicles/auto", "vehicles/emergency", "vehicles/masstransit", "vehicles/race", "vehicles/ship"),
    "instrument": ("hobbies/music",),
    "coin": ("symbols/money/canadian", "symbols/money/euro", "symbols/money/us"),
}
"""Class -> folders below the stamps."""

CLASSES = tuple(FOLDERS)
_DRAWN = {"cartoon", "toys", "plastic"}  # folders of what is no photograph of the thing itself
_CROWDED = {"sheep"}  # backgrounds that show things of these classes
_HELD_OUT = 5  # every so many photographs of a class, and backgrounds, are for validation


class Photographs(NamedTuple):
    """Files.

    Args:
        cutouts: class -> photographs with transparency.
        backgrounds: photographs without.
    """

    cutouts: dict[str, list[Path]]
    backgrounds: list[Path]


def find_photographs(stamps: Path, backgrounds: Path, split: Split) -> Photographs:
    """The photographs of a split; those of `train` and `val` are disjoint, those of `all` are both.

    Raises:
        DataError: if there are none.
    """
    cutouts = {name: _below(stamps, folders) for name, folders in FOLDERS.items()}
    behind = sorted(path for path in backgrounds.glob("*.jp*g") if path.stem not in _CROWDED)
    missing = next((name for name, files in cutouts.items() if not files), None)
    if missing is not None or not behind:
        what = (
            f"cut-out photographs of the class '{missing}' in {stamps}" if missing else f"photographs in {backgrounds}"
        )
        raise DataError(f"there are no {what}. They come with Tux Paint ({PACKAGES})")
    chosen = {name: _part(files, name, split) for name, files in cutouts.items()}
    return Photographs(chosen, _part(behind, "background", split))


def _below(root: Path, folders: tuple[str, ...]) -> list[Path]:
    found = (path for folder in folders for path in (root / folder).rglob("*.png"))
    return sorted(path for path in found if not _DRAWN & set(path.relative_to(root).parts))


def _part(files: list[Path], name: str, split: Split) -> list[Path]:
    """Every fifth file in a fixed random order is for validation."""
    if split == "all":
        return files
    order = generator("scenes", "split", name).permutation(len(files))
    held_out = {int(n) for n in order[::_HELD_OUT]}
    return [path for n, path in enumerate(files) if (n in held_out) == (split == "val")]
