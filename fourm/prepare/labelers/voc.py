"""Boxes in the XML files of Pascal VOC (Everingham et al. 2010)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree
from xml.parsers import expat

from fourm.errors import DataError
from fourm.prepare.labelers.annotation_configs import VocConfig
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.boxes import Box, instances
from fourm.prepare.photos.names import beside, split
from fourm.prepare.upright import turn_for


class Voc:
    """Photographs to boxes, from the XML file beside each."""

    def __init__(self, config: VocConfig, device: str) -> None:
        self.config = config

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [self._label(photo) for photo in photos]

    def _label(self, photo: Photo) -> bytes:
        c, origin = self.config, photo.origin
        name = beside(c.file, split(origin.file)[0])
        data = photo.beside.get(c.file)
        if data is None:
            if c.missing == "empty":
                return instances((), (1, 1))
            raise DataError(f"there is no file {name}; missing: empty takes it as nothing to see")
        try:
            root = parse(data)
            size = (_number(root, "size/height", 0), _number(root, "size/width", 0))
            if not all(size):  # as some programs write it
                size = (origin.height, origin.width)
            turn = turn_for((round(size[0]), round(size[1])), origin, c.orientation)
            return instances(self._boxes(root), size, turn)
        except (DataError, expat.ExpatError, ElementTree.ParseError) as error:
            raise DataError(f"{name}: {error}") from None

    def _boxes(self, root: ElementTree.Element) -> Iterator[Box]:
        for thing in root.findall("object"):
            name = (thing.findtext("name") or "").strip()
            if not name:
                raise DataError("an object without a name")
            if self.config.difficult or (thing.findtext("difficult") or "0").strip() != "1":
                x1, y1, x2, y2 = (_number(thing, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
                yield name, x1 - 1, y1 - 1, x2, y2  # pixels count from 1, and the last one is inside


def parse(data: bytes) -> ElementTree.Element:
    """XML that declares nothing: entities could grow without bounds, or read other files.

    Raises:
        DataError: if it has a DOCTYPE.
        ExpatError, ParseError: if it is not XML.
    """

    def refuse(*_: object) -> None:
        raise DataError("it declares a document type (DOCTYPE), which annotations need not, and which is not read")

    scout = expat.ParserCreate()
    scout.StartDoctypeDeclHandler = refuse
    scout.Parse(data, True)
    return ElementTree.fromstring(data)


def _number(element: ElementTree.Element, path: str, default: float | None = None) -> float:
    text = element.findtext(path)
    if text is None and default is not None:
        return default
    try:
        return float(text or "")
    except ValueError:
        raise DataError(f"{element.tag}/{path} is {text!r}; expected a number") from None
