"""Captions and other text of the user's beside each photograph."""

from __future__ import annotations

import json
from collections.abc import Sequence

from fourm.errors import DataError
from fourm.prepare.checks import without_control
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.file_configs import TextFileConfig
from fourm.prepare.photos.names import beside, split


class TextFile:
    """Photographs to JSON: one text, or a list of alternatives."""

    def __init__(self, config: TextFileConfig, device: str) -> None:
        self.config = config

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [json.dumps(self._text(photo)).encode() for photo in photos]

    def _text(self, photo: Photo) -> str | list[str]:
        data = photo.beside.get(self.config.file)
        if data is None:
            if self.config.missing == "empty":
                return ""
            name = beside(self.config.file, split(photo.origin.file)[0])
            raise DataError(f"there is no file {name}; missing: empty takes photographs without text")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"its text is not UTF-8: {error}") from None
        lines = [line for raw in text.splitlines() if (line := without_control(raw).strip())]
        if not lines:
            return ""
        if self.config.lines == "first":
            return lines[0]
        return lines if self.config.lines == "alternatives" else " ".join(lines)
