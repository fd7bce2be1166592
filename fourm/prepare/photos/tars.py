"""Photographs in tars, in webdataset's layout: members that share their name up to the first dot are one sample.

Where no member of a sample is simply `NAME.jpg`, each image is one of its own, so that `frame.0000.jpg` to
`frame.0019.jpg` are twenty. A tar is read from its beginning to its end, so that it may come from anywhere; nothing of
it is written to the disk.
"""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fourm.data.index import split_member
from fourm.data.paths import expand_braces, natural
from fourm.data.remote import attempt, filesystem, is_url
from fourm.errors import DataError
from fourm.prepare.photos.inputs import ORPHAN, Item, Piece
from fourm.prepare.photos.members import Member, Members, is_scattered
from fourm.prepare.photos.names import beside, check_template, matcher, safe_key, split
from fourm.prepare.photos.streams import PIPE

IMAGES = frozenset(
    [*("jpg", "jpeg", "jpe", "jfif", "mpo", "jp2", "j2k", "png", "gif", "webp", "avif", "heic", "heif", "tif", "tiff")]
    + [*("bmp", "dib", "pbm", "pgm", "pnm", "ppm", "qoi", "sgi", "tga")]
)
"""Endings by which a photograph is told from the files that go with it."""
_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MANY = 64  # images of one sample, after which it is no sample but a video


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
            the tar be read twice, and so does a tar whose samples are not in one piece.

    Raises:
        DataError: if a URL cannot be reached, or the command of a pipe fails.
    """
    labels = _Labels(where, templates)
    tar = Members(where, lambda file: labels.may_be(file) or _is_image(file))
    sample = _Sample("")
    for member in tar:
        if member.reason:
            yield Item(f"{name}/{member.name}", safe_key(member.name), reason=member.reason)
            continue
        if sample.ends_before(member.name):
            yield from _items(name, sample, labels)
            sample = _Sample(split_member(member.name)[0])
        if member.name not in labels.far_owned:
            sample.add(member, labels)
    yield from _items(name, sample, labels, damaged=bool(tar.damage))
    if tar.damage:
        yield Item(name, safe_key(name), reason=f"{tar.damage}; samples before that were taken")


def _items(tar: str, sample: _Sample, labels: _Labels, damaged: bool = False) -> Iterator[Item]:
    """The photographs of a sample, then each file that is left out.

    Args:
        damaged: the tar ends here, so that files of the last photograph may be missing; without all of them it is not
            taken.
    """
    photos = sample.photos(labels)
    used = {name for name, _ in photos}
    for name, data in photos:
        path = split(name)[0]
        names = labels.of(name, (path, sample.key), sample.labels)
        if damaged and name == photos[-1][0] and len(names) < len(labels.templates):
            return
        used.update(names.values())
        files = {of: sample.labels[file] if file in sample.labels else labels.far[file] for of, file in names.items()}
        # Other tars may have the same name in another folder.
        yield Item(f"{tar}/{name}", safe_key(path), data, files, namesake="/" in path)
    if not damaged:
        for name, reason in sample.left_out(used, bool(photos)):
            yield Item(f"{tar}/{name}", safe_key(name), reason=reason)


class _Labels:
    """The files of a tar that belong to photographs.

    Args:
        where: the tar.
        templates: of the files.

    Attributes:
        far: those that do not stand beside their photographs.
        far_owned: names of those that have a photograph.
    """

    def __init__(self, where: str, templates: Sequence[str]) -> None:
        self.templates = templates
        self.may_be = matcher(templates)
        self.far: dict[str, bytes] = {}
        self.far_owned: set[str] = set()
        near = [template for template in templates if split_member(beside(template, "a/b"))[0] == "a/b"]
        if near and is_scattered(where):
            near = []
        if far := [template for template in templates if template not in near]:
            is_far = matcher(far)
            for member in Members(where, is_far):
                if is_far(member.name) and not member.reason:
                    self.far[member.name] = member.data
                if _is_image(member.name) and not self.may_be(member.name):
                    paths = (split(member.name)[0], split_member(member.name)[0])
                    self.far_owned.update(beside(template, path) for template in far for path in paths)

    def of(self, photo: str, paths: Sequence[str], near: Collection[str]) -> dict[str, str]:
        """Template -> name of the file of a photograph, of those that are there. It is none of its own.

        Args:
            photo: its name.
            paths: what its files are called after, the first that exists.
            near: names of the files in its sample.
        """
        found: dict[str, str] = {}
        for template in self.templates:
            for name in (beside(template, path) for path in paths):
                if name != photo and (name in near or name in self.far):
                    found.setdefault(template, name)
        return found


@dataclass
class _Sample:
    """Members that share their name up to the first dot."""

    key: str
    images: list[tuple[str, bytes]] = field(default_factory=list)
    labels: dict[str, bytes] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    last: str = ""

    def ends_before(self, name: str) -> bool:
        """Whether a member is of another sample, or this one has got so long that it can only be single images."""
        if split_member(name)[0] != self.key:
            return True
        return len(self.images) > _MANY and _second(name) != _second(self.last) and not any(map(_is_plain, self.images))

    def add(self, member: Member, labels: _Labels) -> None:
        self.last = member.name
        if labels.may_be(member.name):
            self.labels[member.name] = member.data
        if _is_image(member.name):
            self.images.append((member.name, member.data))
        elif member.name not in self.labels:
            self.others.append(member.name)

    def photos(self, labels: _Labels) -> list[tuple[str, bytes]]:
        """Its photographs: the images that are no labels, of these the ones called just like the sample, if any."""
        sure = [image for image in self.images if not labels.may_be(image[0])] or self.images
        return [*filter(_is_plain, sure)] or sure

    def left_out(self, used: Collection[str], has_photo: bool) -> Iterator[tuple[str, str]]:
        """Files that are neither photographs nor labels, and why. Texts and the like beside an image are usual."""
        for name in dict.fromkeys([*(name for name, _ in self.images), *self.labels]):
            if name not in used:
                companion = "another image of its sample is the photograph, and no label's file is this"
                yield name, ORPHAN if name in self.labels else companion
        for name in () if has_photo else self.others:
            yield name, f"its ending is '{split(name)[1]}'; expected jpg, png, webp, ..."


def _is_image(name: str) -> bool:
    return split(name)[1].lower() in IMAGES


def _is_plain(image: tuple[str, bytes]) -> bool:
    """Whether an image is called just like its sample: `tom.jpg`, not `tom.mask.png`."""
    return split_member(image[0])[1] in IMAGES


def _second(name: str) -> str:
    """What is between the first dot and the next one."""
    return split_member(name)[1].partition(".")[0]
