"""A vocabulary that can be read, for tests of documents of text and images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.interleaved_packing import Packer, Piece, Words
from fourm.data.interleaved_parts import Parts
from fourm.errors import ConfigError

SPECIAL = ("<s>", "</s>", "[IMG]", "[/IMG]", "[USER]", "[ASSISTANT]", "<image>")
MMC4 = {
    "text_list": ["one.", "two.", "three."],
    "image_info": [
        {"image_name": f"{n}.jpg", "matched_text_index": n, "matched_sim": sim} for n, sim in enumerate((0.4, 0.3, 0.2))
    ],
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "pairs": {"image": "a.jpg", "caption": "a bed"},
    "mmc4": MMC4,
    "obelics": {"images": ["a.jpg", None, "b.jpg"], "texts": [None, "a bed", None]},
    "frames": {"frames": ["a.jpg", "b.jpg"], "caption": "a bed"},
    "chat": {
        "image": "a.jpg",
        "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a bed"}],
    },
    "text": {"text": "a bed"},
    "documents": {"parts": ["a bed", {"image": "a.jpg"}]},
}
"""Reader -> a document as a line of its published form holds it; its images are a.jpg, b.jpg and 0.jpg to 2.jpg."""
STORYBOARD = {
    "frames": [{"image": "a.jpg", "time": 0.0}, {"image": "b.jpg", "time": 2.0}],
    "subtitles": [{"time": 1.0, "text": "a bed"}],
}
"""A video of the same reader `frames` that comes with what is said in it."""


class Letters:
    """A token is a special one, or a word, or a line break; spaces are only between words."""

    hash = "letters"

    def __init__(self) -> None:
        self.words = list(SPECIAL)

    def encode(self, text: str) -> np.ndarray:
        """(L,) ids."""
        found = re.findall("|".join(map(re.escape, SPECIAL)) + r"|\n|[^\s<\[]+|[<\[]", text)
        self.words += [word for word in dict.fromkeys(found) if word not in self.words]
        return np.array([self.words.index(word) for word in found], np.int64)

    def encode_parts(self, parts: Sequence[str]) -> list[np.ndarray]:
        """(L,) ids of each part; no word of these tests reaches into another one."""
        return [self.encode(part) for part in parts]

    def id_of(self, token: str) -> int:
        """The id of a special token."""
        if token not in SPECIAL:
            raise ConfigError(f"the text tokenizer has no token '{token}'")
        return SPECIAL.index(token)


class Written:
    """A packer whose rows can be read: an image is its name in braces, what is asked is marked by a star before it."""

    def __init__(self, num_image_tokens: int = 2, **rules: object) -> None:
        self.vocabulary = Letters()
        self.packer = Packer(InterleavedConfig(**rules), self.vocabulary, num_image_tokens)  # type: ignore[arg-type]

    def pieces(self, parts: Parts, seed: int = 0) -> Sequence[Piece]:
        """What a document becomes; nothing where it is left out."""
        rng = np.random.default_rng(seed)
        return self.packer.pack(parts, rng, self.packer.config.num_tokens) or ()

    def __call__(self, parts: Parts, seed: int = 0) -> str:
        """The same, written down."""
        return " ".join(word for piece in self.pieces(parts, seed) for word in self._written(piece))

    def _written(self, piece: Piece) -> list[str]:
        if isinstance(piece, Words):
            words = [self.vocabulary.words[id].replace("\n", "\\n") for id in piece.ids]
            return [f"*{word}" if piece.asked else word for word in words]
        star = "*" if piece.image.asked else ""
        before, after = ([word for w in words for word in self._written(w)] for words in (piece.before, piece.after))
        return [*before, f"{star}{{{piece.image.name}}}", *after]
