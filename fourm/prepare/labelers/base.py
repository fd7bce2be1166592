"""What a labeler is: photographs in, one encoded file for each of them out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fourm.modality import Modality

TURNED = "turned upright (EXIF orientation {})"
"""What is noted of a photograph that did not lie upright in its file."""
_TURNED = re.compile(re.escape(TURNED).replace(r"\{\}", "([1-8])"))


@dataclass(frozen=True)
class Origin:
    """The file a photograph came from, as stored with the data set under `origin`.

    Args:
        file: its name within the input.
        width, height: of the upright photograph, in pixels, before it was made smaller.
        notes: what had to be done to it: turned upright, converted from CMYK, ...
        num_bytes, crc32: of the file, by which a change of it is noticed.
    """

    file: str
    width: int
    height: int
    notes: tuple[str, ...] = ()
    num_bytes: int = 0
    crc32: int = 0

    @property
    def orientation(self) -> int:
        """The EXIF orientation from which it was turned upright; 1: it lay so in its file."""
        return next((int(found[1]) for note in self.notes if (found := _TURNED.fullmatch(note))), 1)


@dataclass(frozen=True)
class Photo:
    """One photograph as labelers see it.

    Args:
        key: its key in the shards.
        image: (H, W, 3) uint8 RGB, upright: the pixels as they are stored.
        origin: where it came from.
        labels: what other labelers made of it: source -> encoded file. Complete for what a labeler needs.
        modalities: what those files hold: source -> modality.
        alpha: (H, W) uint8 opacity of a photograph that was cut out; None if it is opaque.
        beside: files of the user's that go with it: template, such as `{path}.txt` -> content.
        namesake: there is a photograph of the same name in another folder, so that the name alone does not tell.
    """

    key: str
    image: NDArray[np.uint8]
    origin: Origin
    labels: Mapping[str, bytes] = field(default_factory=dict)
    modalities: Mapping[str, Modality] = field(default_factory=dict)
    alpha: NDArray[np.uint8] | None = None
    beside: Mapping[str, bytes] = field(default_factory=dict)
    namesake: bool = False

    def label(self, source: str) -> Any:
        """What another labeler made of this photograph, decoded; None if it made nothing.

        Raises:
            DataError: if its file is damaged.
        """
        from fourm.data.decode import decode

        if source not in self.labels:
            return None
        return decode(self.labels[source], self.modalities[source], lambda: f"{source} of {self.origin.file}")


class Labeler(Protocol):
    """Files for photographs. Built from its config, and the device it computes on, in the process that uses it."""

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        """One encoded file for each photograph, in order.

        Whatever is raised rejects a photograph: several are then tried again one by one. `ConfigError`,
        `CheckpointError`, `MissingExtraError` and a lack of memory end the run instead.
        """
