"""The rows of a batch while they grow token by token: prompts of any lengths end where the next token begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from fourm.errors import DataError
from fourm.generate.bundle import device_of
from fourm.models.multimodal import Multimodal
from fourm.nn.trunk import KVCache
from fourm.patterns import AttentionPattern
from fourm.tokens import PADDING, Document, TokenBatch

Token = int | Tensor | None
"""An id, a vector, or nothing of a row that is done."""


class Columns:
    """Token tables of ids and vectors, padded at their beginnings.

    Rows may begin at different places, as attention knows distances alone, and not places.

    Args:
        model: a decoder alone.
        text, image: its modalities.
        prompts: segments of ids, images (C, H, W) as the model reads them, and vectors.

    Raises:
        DataError: if a prompt is empty, or holds what the model does not read.
    """

    def __init__(self, model: Multimodal, text: str, image: str | None, prompts: Sequence[Document]) -> None:
        self.model, self.text, self.image = model, text, image
        self.device = device_of(model)
        self.slots = 0 if image is None else model.modalities[image].num_tokens
        self.dim = 0 if image is None else int(cast(Any, model.modalities[image].content).dim)
        rows = [self._row(prompt, vectors) for prompt, vectors in zip(prompts, self._vectors(prompts), strict=True)]
        longest = max((len(row[0]) for row in rows), default=0)
        if any(not len(row[0]) for row in rows) or not rows:
            raise DataError("a prompt is empty: give at least one token, such as the one that begins every document")
        self.modality, self.position, self.ids = (
            torch.stack([_padded(row[n], longest) for row in rows]).to(self.device) for n in range(3)
        )
        self.vectors = torch.zeros(len(rows), longest, self.dim, device=self.device)
        for number, row in enumerate(rows):
            if len(row[3]):
                self.vectors[number, self._is_image(self.modality[number])] = row[3]
        self.known = 0

    def read(self, cache: KVCache | None) -> Tensor:
        """(B, dim) what the model makes of each row's newest token; a row that is done gives zeros."""
        start = 0 if cache is None else self.known
        hidden = self.model.decode(self._table(start), cache=cache)
        self.known = self.modality.shape[1]
        return hidden[:, -1]

    def append(self, tokens: Sequence[Token]) -> None:
        """One more token of each row."""
        is_vector = [isinstance(token, Tensor) for token in tokens]
        text = self.model.modalities.index(self.text)
        image = PADDING if self.image is None else self.model.modalities.index(self.image)
        kinds = [PADDING if t is None else image if v else text for t, v in zip(tokens, is_vector)]
        kind = torch.tensor(kinds, device=self.device)[:, None]
        following = (self.position[:, -1:] + 1) % self._period(kind)
        place = torch.where(kind == self.modality[:, -1:], following, 0)
        self.position = torch.cat([self.position, place], 1)
        self.modality = torch.cat([self.modality, kind], 1)
        ids = [token if isinstance(token, int) else PADDING for token in tokens]
        self.ids = torch.cat([self.ids, torch.tensor(ids, device=self.device)[:, None]], 1)
        none = self.vectors.new_zeros(self.dim)
        newest = torch.stack([token if isinstance(token, Tensor) else none for token in tokens])
        self.vectors = torch.cat([self.vectors, newest.to(self.vectors.dtype)[:, None]], 1)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, which may repeat."""
        self.modality, self.position, self.ids = self.modality[rows], self.position[rows], self.ids[rows]
        self.vectors = self.vectors[rows]

    def _period(self, kind: Tensor) -> Tensor:
        """Places of an image follow one another, and begin anew with the next image."""
        return torch.where(self._is_image(kind), max(self.slots, 1), torch.iinfo(torch.int64).max)

    def _is_image(self, modality: Tensor) -> Tensor:
        number = None if self.image is None else self.model.modalities.index(self.image)
        return torch.zeros_like(modality, dtype=torch.bool) if number is None else modality == number

    def _table(self, start: int) -> TokenBatch:
        """The tokens from a place on."""
        modality, valid = self.modality[:, start:], self.modality >= 0
        own = valid[:, start:]
        reach = torch.arange(start + 1, valid.shape[1] + 1, device=self.device, dtype=torch.int32)
        attention = AttentionPattern(
            torch.where(own, reach, 0), own.to(torch.int32) - 1, key_group=valid.to(torch.int32) - 1
        )
        is_image = self._is_image(modality)
        rows = is_image.flatten().nonzero()[:, 0]
        images = {} if self.image is None else {self.image: rows}
        return TokenBatch(
            modality=modality,
            position=self.position[:, start:],
            ids=self.ids[:, start:],
            target_ids=torch.full_like(modality, PADDING),
            attention=None if start and modality.shape[1] == 1 and bool(valid.all()) else attention,
            values=dict.fromkeys(images, self.vectors[:, start:][is_image]),
            value_rows=images,
            slots_read={name: torch.arange(len(rows), device=self.device) for name in images},
        )

    def _vectors(self, prompts: Sequence[Document]) -> list[Tensor]:
        """Of each prompt the vectors of its images, one behind the other; images are encoded together.

        Raises:
            DataError: if an image has another size, or the model has none.
        """
        shown = [segment.value for prompt in prompts for segment in prompt if segment.modality != self.text]
        if shown and self.image is None:
            raise DataError("a prompt shows an image, but this model reads text alone: leave images out")
        strange = {segment.modality for prompt in prompts for segment in prompt} - {self.text, self.image}
        if strange:
            raise DataError(f"a prompt holds '{min(strange)}'; expected '{self.text}' or '{self.image}'")
        pixels = [torch.from_numpy(np.asarray(value, np.float32)) for value in shown if value.ndim == 3]
        own = None if self.image is None else self.model.modalities[self.image]
        size = () if own is None else (own.channels, *own.image_size)
        wrong = [value.shape for value in pixels if tuple(value.shape) != size]
        if wrong:
            raise DataError(f"an image of shape {tuple(wrong[0])}; this model reads images of {size}")
        made: list[Tensor] = []
        if pixels:
            feeder: Any = self.model.input_embedder.feeders[self.image or ""]
            made = list(feeder(torch.stack(pixels).to(self.device)))
        found, encoded = [], iter(made)
        for prompt in prompts:
            values = [segment.value for segment in prompt if segment.modality != self.text]
            rows = [next(encoded) if v.ndim == 3 else torch.from_numpy(v).to(self.device) for v in values]
            found.append(torch.cat(rows).float() if rows else torch.zeros(0, self.dim, device=self.device))
        return found

    def _row(self, prompt: Document, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Modality, position and id of each token, and the vectors of images.

        Raises:
            DataError: if ids or vectors do not belong to the model.
        """
        text, modality, position, ids = self.model.modalities[self.text], [], [], []
        for segment in prompt:
            if segment.modality == self.text:
                values = torch.from_numpy(np.asarray(segment.value, np.int64))
                if len(values) and not 0 <= int(values.min()) <= int(values.max()) < text.vocab_size:
                    raise DataError(f"ids of a prompt are not all within the vocabulary of {text.vocab_size}")
            else:
                values = torch.full((self.slots,), PADDING)
            modality.append(torch.full_like(values, self.model.modalities.index(segment.modality)))
            position.append(torch.arange(len(values)))
            ids.append(values)
        count = sum(segment.modality == self.image for segment in prompt) * self.slots
        if vectors.shape != (count, self.dim):
            raise DataError(
                f"images of a prompt have vectors of shape {tuple(vectors.shape)}; expected {self.slots} vectors of "
                f"{self.dim} numbers for each"
            )
        none = torch.zeros(0, dtype=torch.int64)
        return torch.cat([none, *modality]), torch.cat([none, *position]), torch.cat([none, *ids]), vectors


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(values, (length - len(values), 0), value=PADDING)
