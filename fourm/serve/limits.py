"""How much the page takes from people it does not know. Plain values, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fourm.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """The most that one request may hold, and how many may wait.

    Args:
        upload_bytes: size of one file, packed and unpacked.
        pixels: width times height of one image, so that a small file cannot become a huge image.
        text: characters of one text.
        samples: answers of one request.
        queue: requests that wait; further ones are refused at once.
        images: of a conversation.
        tokens: of an answer in words.
    """

    upload_bytes: int = 20 * 2**20
    pixels: int = 50_000_000
    text: int = 4_000
    samples: int = 8
    queue: int = 20
    images: int = 8
    tokens: int = 512

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"limit {field.name} is {getattr(self, field.name)}; expected at least 1")
