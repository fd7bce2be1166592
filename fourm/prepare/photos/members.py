"""The members of a tar, read from its beginning to its end, whatever state it is in."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from fourm.data.index import split_member
from fourm.data.remote import is_url
from fourm.prepare.photos.files import LARGEST
from fourm.prepare.photos.streams import PIPE, open_stream

_DAMAGED = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)


class Member(NamedTuple):
    """A file in a tar.

    Args:
        name: as it is in the tar, where it may be anything.
        data: its bytes; none if they are not wanted.
        reason: why they are not there.
    """

    name: str
    data: bytes
    reason: str = ""


class Members:
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

    def __iter__(self) -> Iterator[Member]:
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

    def _member(self, archive: tarfile.TarFile, header: tarfile.TarInfo) -> Iterator[Member]:
        name = header.name.removeprefix("./")
        if header.isdir() or name.rpartition("/")[2].startswith("."):
            return
        if not header.isreg():
            kind = f"a link to '{header.linkname}'" if header.islnk() or header.issym() else "a device or pipe"
            yield Member(name, b"", f"{kind}, not a file; links are not followed")
        elif not self.wanted(name):
            yield Member(name, b"")
        elif header.size > LARGEST:
            yield Member(name, b"", f"its {header.size:,} bytes are too many for one photograph")
        else:
            file = archive.extractfile(header)
            yield Member(name, file.read() if file else b"")


def is_scattered(where: str) -> bool:
    """Whether files of one sample lie apart in a tar, as `tar cf` leaves them, which takes them in the folder's order.

    Of a local tar alone: others are read once, and have to be sorted.
    """
    if where.startswith(PIPE) or is_url(where):
        return False
    seen: set[str] = set()
    last = ""
    try:
        with tarfile.open(where) as archive:
            for header in archive:
                key = split_member(header.name)[0] if header.isreg() else last
                if key != last and key in seen:
                    return True
                seen.add(key)
                last = key
    except _DAMAGED:
        pass  # it is told where it is read
    return False


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
