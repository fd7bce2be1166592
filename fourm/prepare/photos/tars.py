"""Photographs in tars, in webdataset's layout: members that share their name up to the first dot are one sample.

A tar is read from its beginning to its end, so that it may come from anywhere; nothing of it is written to the disk.
"""

from __future__ import annotations

import glob
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from fourm.data.index import split_member
from fourm.data.paths import expand_braces, natural
from fourm.data.remote import attempt, filesystem, is_url
from fourm.errors import DataError
from fourm.prepare.photos.files import LARGEST
from fourm.prepare.photos.inputs import Item, Piece
from fourm.prepare.photos.names import beside, check_template, matcher, safe_key
from fourm.prepare.photos.streams import PIPE, open_stream

IMAGES = frozenset(
    [*("jpg", "jpeg", "jpe", "jfif", "mpo", "jp2", "j2k", "png", "gif", "webp", "avif", "heic", "heif", "tif", "tiff")]
    + [*("bmp", "dib", "pbm", "pgm", "pnm", "ppm", "qoi", "sgi", "tga")]
)
"""Endings by which a photograph is told from the files that go with it."""
_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


def is_tar(name: str) -> bool:
    """Whether a name is that of a tar, as far as it tells."""
    return name.lower().endswith(_ENDINGS)


class TarInputs:
    """Tars, each of which becomes one shard.

    Args:
        pattern: a path or URL with ranges, `{00000..00099}`, or wildcards; or `pipe:COMMAND`, with ranges.
        templates: of files that labelers read beside the photographs.
    """

    def __init__(self, pattern: str, templates: Sequence[str]) -> None:
        for template in templates:
            check_template(template)
        self.pattern = pattern
        self.templates = templates

    def size(self, piece: Piece) -> int | None:
        return None

    def pieces(self, known: Sequence[Piece] = ()) -> Iterator[Piece]:
        yield from known
        before = {piece["tar"] for piece in known}
        found = [tar for tar in _find(self.pattern) if tar not in before]
        if not found and not known:
            raise DataError(f"there are no tars {self.pattern}; it is relative to where the command runs")
        missing = [tar for tar in found if not (tar.startswith(PIPE) or is_url(tar) or Path(tar).exists())]
        if missing:
            raise DataError(f"{missing[0]} is missing, {len(missing)} of the {len(found)} tars in all: {self.pattern}")
        yield from ({"tar": tar} for tar in found)

    def read(self, piece: Piece) -> Iterator[Item]:
        return read_tar(piece["tar"], piece["tar"], self.templates)


def _find(pattern: str) -> list[str]:
    names = [*expand_braces(pattern)]
    if pattern.startswith(PIPE):
        return names
    return [tar for name in names for tar in (_glob(name) if glob.has_magic(name) else [name])]


def _glob(pattern: str) -> list[str]:
    if not is_url(pattern):
        return sorted(glob.glob(pattern, recursive=True), key=natural)
    system, path = filesystem(pattern)
    protocol = pattern.partition("://")[0]
    found = [str(name) for name in attempt(lambda: system.glob(path), f"list {pattern}")]
    return sorted((f"{protocol}://{name.removeprefix('//')}" for name in found), key=natural)


def read_tar(name: str, where: str, templates: Sequence[str]) -> Iterator[Item]:
    """The photographs of a tar in order, and what of it cannot be one.

    Args:
        name: of the tar, for reports.
        where: a path or URL, or `pipe:COMMAND`.
        templates: of the files that labelers read. One that leads out of a sample, such as `masks/{stem}.png`, makes
            the tar be read twice.

    Raises:
        DataError: if a URL cannot be reached, or the command of a pipe fails.
    """
    is_label = matcher(templates)
    far = [template for template in templates if split_member(beside(template, "a/b"))[0] != "a/b"]
    held = {member.name: member.data for member in _Tar(where, matcher(far))} if far else {}
    tar = _Tar(where, lambda file: is_label(file) or split_member(file)[1] in IMAGES)
    sample = _Sample(name, "")
    for member in tar:
        if member.reason:
            yield Item(f"{name}/{member.name}", safe_key(member.name), reason=member.reason)
            continue
        key, ending = split_member(member.name)
        if key != sample.key:
            yield from sample.items(templates, held)
            sample = _Sample(name, key)
        if is_label(member.name):
            sample.labels[member.name] = member.data
        elif ending in IMAGES:
            sample.images.append((member.name, member.data))
        else:
            sample.others.append(ending)
    # Of the last sample before a damage, files may be missing.
    if not tar.damage or sample.has_all(templates, held):
        yield from sample.items(templates, held)
    if tar.damage:
        yield Item(name, safe_key(name), reason=f"{tar.damage}; samples before that were taken")


@dataclass
class _Sample:
    """Members that share their name up to the first dot."""

    tar: str
    key: str
    images: list[tuple[str, bytes]] = field(default_factory=list)
    labels: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)

    def has_all(self, templates: Sequence[str], held: Mapping[str, bytes]) -> bool:
        """Whether it has a photograph, and all files that may go with it."""
        return bool(self.images) and len(self._beside(templates, held)) == len(templates)

    def items(self, templates: Sequence[str], held: Mapping[str, bytes]) -> Iterator[Item]:
        """Its photographs, of which one can be taken."""
        labels = self._beside(templates, held)
        in_folder = "/" in self.key  # other tars may have the same name in another folder
        for name, data in self.images:
            yield Item(f"{self.tar}/{name}", safe_key(self.key), data, labels, namesake=in_folder)
        if self.others and not self.images:
            endings = ", ".join(f"'{ending}'" for ending in self.others)
            reason = f"no file of this sample is an image: the endings are {endings}; expected jpg, png, webp, ..."
            yield Item(f"{self.tar}/{self.key}", safe_key(self.key), reason=reason)

    def _beside(self, templates: Sequence[str], held: Mapping[str, bytes]) -> dict[str, bytes]:
        labels = {**held, **self.labels}
        names = {template: beside(template, self.key) for template in templates}
        return {template: labels[name] for template, name in names.items() if name in labels}


class _Member(NamedTuple):
    """A file in a tar.

    Args:
        name: as it is in the tar, where it may be anything.
        data: its bytes; none if they are not wanted.
        reason: why they are not there.
    """

    name: str
    data: bytes
    reason: str = ""


class _Tar:
    """The members of a tar in order, but for folders and hidden files.

    Args:
        where: a path or URL, or `pipe:COMMAND`.
        wanted: tells by its name whether to read a member.

    Attributes:
        damage: what ended it early, once it was read.
    """

    def __init__(self, where: str, wanted: Callable[[str], object]) -> None:
        self.where = where
        self.wanted = wanted
        self.damage = ""

    def __iter__(self) -> Iterator[_Member]:
        count = 0
        try:
            with open_stream(self.where) as stream:
                try:
                    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header) as archive:
                        for header in archive:
                            yield from self._member(archive, header)
                            count += 1
                except _DAMAGED as error:
                    self.damage = f"the tar is damaged after {count} members: {error or type(error).__name__}"
        except OSError as error:
            self.damage = f"the tar cannot be read: {error.strerror or error}"

    def _member(self, archive: tarfile.TarFile, header: tarfile.TarInfo) -> Iterator[_Member]:
        name = header.name.removeprefix("./")
        if header.isdir() or name.rpartition("/")[2].startswith("."):
            return
        if not header.isreg():
            kind = f"a link to '{header.linkname}'" if header.islnk() or header.issym() else "a device or pipe"
            yield _Member(name, b"", f"{kind}, not a file; links are not followed")
        elif not self.wanted(name):
            yield _Member(name, b"")
        elif header.size > LARGEST:
            yield _Member(name, b"", f"its {header.size:,} bytes are too many for one photograph")
        else:
            file = archive.extractfile(header)
            yield _Member(name, file.read() if file else b"")


class _Header(tarfile.TarInfo):
    """A header; where there is none before the end mark, the tar is damaged. tarfile itself takes it as whole."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"expected another member or the end mark: {error}") from None
