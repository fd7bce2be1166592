"""Files that say something of many photographs: where they are, and which entry is of which photograph."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fourm.errors import ConfigError, DataError

if TYPE_CHECKING:
    from fourm.prepare.labelers.base import Photo


def find_table(file: str, folder: str) -> Path:
    """The file a recipe means: within the input where it is there, otherwise from where the command runs.

    Args:
        file: its name.
        folder: the input of the recipe.

    Raises:
        ConfigError: if it is in neither place.
    """
    for path in (Path(folder) / file, Path(file)):
        if path.is_file():
            return path
    raise ConfigError(f"file is '{file}', but there is no such file in {folder}, nor in {Path.cwd()}")


class Names:
    """Which name in a table is that of a photograph.

    Args:
        names: as the table has them.
        table: its file, for errors.
    """

    def __init__(self, names: Iterable[str], table: str) -> None:
        self.table = table
        self._whole: dict[str, str] = {}
        self._last: dict[str, list[str]] = {}
        for name in names:
            plain = plain_name(name)
            if plain not in self._whole:
                self._last.setdefault(plain.rpartition("/")[2], []).append(name)
            self._whole.setdefault(plain, name)

    def find(self, photo: Photo) -> str | None:
        """The table's name of a photograph; None if it has none.

        Raises:
            DataError: if only the last part of its name is there, and others share that.
        """
        file = photo.origin.file
        if file in self._whole:
            return self._whole[file]
        last = file.rpartition("/")[2]
        found = self._last.get(last, ())
        if not found:
            return None
        if len(found) > 1 or photo.namesake:
            others = f"it names {found[0]} and {found[1]}" if len(found) > 1 else "other photographs are called so too"
            raise DataError(
                f"{self.table} does not name {file}, and '{last}' alone does not tell which is meant: {others}. Give "
                "names with their folders in it"
            )
        return found[0]

    def unknown(self, photo: Photo) -> DataError:
        """What to say of a photograph that the table does not name."""
        some = next(iter(self._whole), None)
        held = f"its {len(self._whole):,} names are such as '{some}'" if some is not None else "it names none"
        return DataError(
            f"{self.table} does not name {photo.origin.file}; {held}. missing: empty takes photographs without it"
        )


def plain_name(name: str) -> str:
    """A name as photographs have it: with `/` between folders, from within the input."""
    return name.replace("\\", "/").removeprefix("./")
