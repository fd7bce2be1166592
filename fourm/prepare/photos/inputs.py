"""Where photographs come from: pieces, each of which becomes one shard."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any, Protocol

from fourm.errors import ConfigError, DataError
from fourm.prepare.photos.files import Files
from fourm.prepare.photos.names import beside, check_template, matcher, safe_key, split
from fourm.rng import generator

# Endings of files that often lie among photographs. They are looked into too, but do not fill shards.
_NO_IMAGES = {
    *("txt", "md", "html", "pdf", "svg", "json", "jsonl", "csv", "tsv", "xml", "yaml", "yml", "ini", "py", "dat", "db"),
    *("mp3", "ogg", "wav", "mp4", "mov", "avi", "mkv", "zip", "tar", "gz", "npy", "npz", "pkl"),
}  # fmt: skip

ORPHAN = "there is no photograph that it belongs to"

Piece = dict[str, Any]
"""What becomes one shard, in plain values that JSON holds: what `Inputs.read` needs to find its files."""


@dataclass(frozen=True)
class Item:
    """One file of the user's that may be a photograph.

    Args:
        file: its name within the input, as reports give it.
        key: of the sample it becomes.
        data: its bytes.
        beside: the user's other files that go with it: template -> content.
        namesake: a file in another folder has, or may have, the same name.
        reason: why it cannot be taken, where that is known before it is decoded.
    """

    file: str
    key: str
    data: bytes = b""
    beside: dict[str, bytes] = field(default_factory=dict)
    namesake: bool = False
    reason: str = ""


class Inputs(Protocol):
    """A collection of photographs."""

    def pieces(self, known: Sequence[Piece] = ()) -> Iterator[Piece]:
        """All pieces in order. The same collection gives the same pieces.

        Args:
            known: those of an earlier run, which come first as they are; what is new follows in pieces of its own.
        """

    def size(self, piece: Piece) -> int | None:
        """Files in a piece; None where only reading it tells."""

    def read(self, piece: Piece) -> Iterator[Item]:
        """The files of a piece in order."""


class FolderInputs:
    """All files below a folder, but for hidden ones and those that belong to photographs.

    Args:
        files: of the folder.
        templates: of files that labelers read beside the photographs.
        shard_size: photographs per piece.
        tables: files that say something of many photographs, and are none themselves.
        seed: photographs are shuffled once, so that every shard holds all kinds; None: they stay in their order.

    Raises:
        ConfigError: for a template without a place.
    """

    def __init__(
        self,
        files: Files,
        templates: Sequence[str],
        shard_size: int,
        tables: Collection[str] = (),
        seed: int | None = None,
    ) -> None:
        for template in templates:
            check_template(template)
        self.files = files
        self.templates = templates
        self.is_label = matcher(templates)
        self.shard_size = shard_size
        self.seed = seed
        self.tables = tables

    def size(self, piece: Piece) -> int | None:
        return len(piece["files"])

    def pieces(self, known: Sequence[Piece] = ()) -> Iterator[Piece]:
        yield from known
        before = {file for piece in known for file in piece["files"]}
        files = [*self.files.all()]
        if not files and not known:
            raise DataError(f"{self.files.name} holds no files; expected photographs in it or in its subfolders")
        labels = self._labels(files)
        self._check_templates(files, labels)
        if taken := sorted(filter(may_be_image, before & labels)):
            raise DataError(
                f"{taken[0]} was taken as a photograph by an earlier run, and is a label now: choose another output "
                "folder"
            )
        names = Counter(PurePosixPath(file).name for file in {*files, *before} - labels)
        photos = sorted({*files} - labels - before, key=lambda file: (split(file)[0], file))
        groups = [list(group) for _, group in groupby(photos, key=lambda file: split(file)[0])]
        if self.seed is not None:
            groups = [groups[n] for n in generator(self.seed, "photographs", len(before)).permutation(len(groups))]
        chosen: list[str] = []
        num_images = 0
        for group in groups:  # of files that differ in their endings only, of which one can become the sample
            is_image = any(map(may_be_image, group))
            if num_images + is_image > self.shard_size:
                yield _piece(chosen, names)
                chosen, num_images = [], 0
            chosen += group
            num_images += is_image
        if chosen:
            yield _piece(chosen, names)

    def _labels(self, files: Sequence[str]) -> set[str]:
        """What belongs to photographs. A file is no label of itself: without another one, a png is a photograph."""
        labels = {*self.tables}
        sure, unsure = list[str](), list[str]()
        for file in filter(may_be_image, files):
            (unsure if self.is_label(file) else sure).append(file)
        for file in [*sure, *sorted(unsure, key=lambda name: (len(name), name))]:
            if file not in labels:
                path = split(file)[0]
                labels.update({beside(template, path) for template in self.templates} - {file})
        return labels

    def _check_templates(self, files: Sequence[str], labels: Collection[str]) -> None:
        """See that every template means some file of some photograph.

        Raises:
            ConfigError: naming the one that does not.
        """
        photos = [file for file in files if file not in labels and may_be_image(file)]
        for template in self.templates if files else ():
            meant = ((file, beside(template, split(file)[0])) for file in photos)
            if any(file != label and self.files.exists(label) for file, label in meant):
                continue
            if all(beside(template, split(file)[0]) == file for file in photos):
                raise ConfigError(
                    f"'{template}' means every file in {self.files.name} that may be a photograph, so that no "
                    "photograph is left"
                )
            some = min(photos)
            raise ConfigError(
                f"no photograph in {self.files.name} has a file '{template}': that of {some}, for instance, would be "
                f"{beside(template, split(some)[0])}"
            )

    def read(self, piece: Piece) -> Iterator[Item]:
        namesakes = {*piece.get("namesakes", ())}
        for file in piece["files"]:
            path, namesake = split(file)[0], file in namesakes
            if self.is_label(file) and not may_be_image(file):
                yield Item(file, safe_key(path), reason=ORPHAN)
                continue
            try:
                yield Item(file, safe_key(path), self.files.read(file), self._beside(file), namesake)
            except OSError as error:
                yield Item(file, safe_key(path), reason=f"cannot be read: {error.strerror or error}")

    def _beside(self, file: str) -> dict[str, bytes]:
        found = {}
        for template in self.templates:
            name = beside(template, split(file)[0])
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if name != file:
                    found[template] = self.files.read(name)
        return found


def may_be_image(file: str) -> bool:
    """Whether the name of a file leaves open that it is an image."""
    return split(file)[1].lower() not in _NO_IMAGES


def _piece(files: list[str], names: Counter[str]) -> Piece:
    namesakes = [file for file in files if names[PurePosixPath(file).name] > 1]
    return {"files": files, "namesakes": namesakes} if namesakes else {"files": files}
