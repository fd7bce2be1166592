"""The kind of input that a recipe's `input` means."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from fourm.data.folder import walk
from fourm.data.paths import is_pattern, natural
from fourm.data.remote import is_url
from fourm.data.tables import is_table
from fourm.prepare.photos.files import LocalFiles, RemoteFiles
from fourm.prepare.photos.inputs import FolderInputs, Inputs, Item, Piece
from fourm.prepare.photos.names import split
from fourm.prepare.photos.recipe import PhotosRecipe
from fourm.prepare.photos.streams import PIPE
from fourm.prepare.photos.tars import IMAGES, TarInputs, is_tar, read_tar


def open_inputs(recipe: PhotosRecipe) -> Inputs:
    """The photographs a recipe names.

    Raises:
        ConfigError: if a table of labels is not there; for a protocol that is not known, or whose package is not
            installed.
        DataError: if they are not there.
    """
    name, templates, tables = recipe.input, recipe.templates(), recipe.tables()
    is_folder = not is_url(name) and Path(name).is_dir()
    table = f"{name}/**/*.parquet" if is_folder and _holds_parquet(Path(name)) else name
    if is_table(table):
        from fourm.prepare.photos.rows import RowInputs

        return RowInputs(table, templates, recipe.image.column, recipe.shard_size)
    if not is_folder and (name.startswith(PIPE) or is_tar(name) or is_pattern(name) or glob.has_magic(name)):
        return TarInputs(name, templates)
    files = RemoteFiles(name) if is_url(name) else LocalFiles(Path(name))
    inside = [] if is_url(name) else [PurePath(os.path.relpath(table, name)).as_posix() for table in tables]
    return _FolderInputs(FolderInputs(files, templates, recipe.shard_size, inside, recipe.seed))


def _holds_parquet(folder: Path) -> bool:
    """Whether the photographs of a folder are in tables."""
    found = False
    for path in walk(folder):
        ending = path.suffix.lower()
        if ending[1:] in IMAGES or is_tar(path.name):
            return False
        found = found or ending == ".parquet"
    return found


class _FolderInputs:
    """A folder of photographs; or of tars, where it holds some and no images."""

    def __init__(self, loose: FolderInputs) -> None:
        self.loose = loose
        self.files = loose.files

    def size(self, piece: Piece) -> int | None:
        return None if "tar" in piece else self.loose.size(piece)

    def pieces(self, known: Sequence[Piece] = ()) -> Iterator[Piece]:
        held_tars = bool(known) and "tar" in known[0]
        tars = self._tars() if held_tars or not known else []
        if not tars and not held_tars:
            yield from self.loose.pieces(known)
            return
        yield from known
        before = {piece["tar"] for piece in known}
        yield from ({"tar": tar} for tar in tars if tar not in before)

    def _tars(self) -> list[str]:
        """Its tars in order; none if it holds images too."""
        tars = []
        for file in self.files.all():
            if is_tar(file):
                tars.append(file)
            elif split(file)[1].lower() in IMAGES:
                return []
        return sorted(tars, key=natural)

    def read(self, piece: Piece) -> Iterator[Item]:
        if "tar" in piece:
            yield from read_tar(piece["tar"], self.files.where(piece["tar"]), self.loose.templates)
        else:
            yield from self.loose.read(piece)
