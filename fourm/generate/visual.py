"""Prompts of images to a model of visual sentences (LVM, Bai et al. 2023, sec. 3.4): analogies, and what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.generate import files
from fourm.generate.bundle import Bundle, device_of
from fourm.generate.chain import following_seeds
from fourm.generate.inputs import network_input
from fourm.generate.reading import read_image
from fourm.generate.results import check_folder, make_folder
from fourm.generate.rows import RowSampling, continue_rows, row_modality

WINDOW = 15
"""Images that LVM keeps before the one it generates."""


class VisualPrompt:
    """A model of visual sentences and the tokenizer of its images.

    Args:
        bundle: with the tokenizer under the name of the row's modality.
        modality: of the row; None: the only one.
        begin: id that stands before every prompt, such as LVM's 8192; None: none, as released.

    Raises:
        ConfigError: if the model reads no such rows, comes without a tokenizer, or has too few ids.
    """

    def __init__(self, bundle: Bundle, *, modality: str | None = None, begin: int | None = None) -> None:
        self.model, self.begin = bundle.model, begin
        self.name = row_modality(bundle.model, modality)
        if self.name not in bundle.tokenizers:
            raise ConfigError(
                f"the model has no tokenizer for the images of '{self.name}': name it in the recipe under tokenizers, "
                "or convert the model with --tokenizer"
            )
        self.tokenizer: Any = bundle.tokenizers[self.name]
        self.grid = self.tokenizer.grid
        self.num_ids, ids = int(self.tokenizer.vocab_size), bundle.model.modalities[self.name].vocab_size
        if self.num_ids > ids:
            raise ConfigError(
                f"'{self.name}' of this model has {ids} ids, but its tokenizer makes {self.num_ids}: name the one that "
                "it was trained with"
            )
        if begin is not None and begin >= ids:
            raise ConfigError(
                f"the prompt begins with id {begin}; '{self.name}' of this model has {ids} ids, from 0, and "
                f"{self.num_ids} of them are codes of images: give one of the others, or none"
            )

    @property
    def num_tokens(self) -> int:
        """Tokens of an image."""
        return int(self.grid.height * self.grid.width)

    def encode(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images in natural units, of any size -> (B, T) ids."""
        values = network_input(images, self.tokenizer.modality, "prompt")
        with torch.no_grad():
            ids: Tensor = self.tokenizer.encode(values.to(device_of(self.tokenizer)))
        return ids.flatten(1).to(device_of(self.model))

    def read(self, path: Path) -> Tensor:
        """(1, T) ids of an image file.

        Raises:
            DataError: if it is missing or damaged.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the image {path}: {error.strerror}. Check the path") from None
        value, _ = read_image(data, self.tokenizer.modality, str(path))
        with torch.no_grad():
            ids: Tensor = self.tokenizer.encode(value.to(device_of(self.tokenizer)))
        return ids.flatten(1).to(device_of(self.model))

    def decode(self, ids: Tensor, seeds: Tensor | None = None) -> Tensor:
        """(B, T) ids -> (B, C, H, W) images in natural units."""
        device = device_of(self.tokenizer)
        with torch.no_grad():
            grid = ids.unflatten(1, (self.grid.height, self.grid.width)).to(device)
            values: Tensor = self.tokenizer.decode(grid, seeds=None if seeds is None else seeds.to(device))
        return values.cpu()

    def continue_images(
        self,
        images: Tensor,
        count: int,
        seeds: Tensor,
        sampling: RowSampling = RowSampling(),  # noqa: B008
        *,
        window: int | None = None,
    ) -> Tensor:
        """Generate image after image (LVM's sequential prompting).

        Args:
            images: (B, n, T) ids of what is given, n >= 1.
            count: images to generate.
            seeds: (B,).
            sampling: how; ids that are no codes of an image are never drawn.
            window: images that are seen at most before a new one; None: 15, or what the model has room for.

        Returns:
            (B, count, T) ids.

        Raises:
            DataError: if no image is given, or one image alone is too long for the model.
        """
        tokens = self.num_tokens
        room = (self.model.modalities[self.name].num_tokens - (self.begin is not None)) // tokens - 1
        window = min(WINDOW, room) if window is None else window
        if images.shape[1] < 1 or not 1 <= window <= room:
            raise DataError(
                f"{images.shape[1]} images and a window of {window}; expected at least one image, and a window from 1 "
                f"to {room}, the images of {tokens} tokens that this model reads before a new one"
            )
        own = RowSampling(sampling.temperature, sampling.top_k, sampling.top_p, self.num_ids, sampling.cache)
        start = images.shape[1]
        for number in range(count):
            shown = images[:, -window:].flatten(1)
            if self.begin is not None:
                shown = torch.nn.functional.pad(shown, (1, 0), value=self.begin)
            # Draws are keyed by their place in the window, so every image gets seeds of its own.
            new = continue_rows(self.model, self.name, shown, tokens, seeds + number * _STRIDE, own)
            images = torch.cat([images, new[:, None]], 1)
        return images[:, start:]

    def analogy(
        self,
        pairs: Sequence[tuple[Tensor, Tensor]],
        query: Tensor,
        seeds: Tensor,
        sampling: RowSampling = RowSampling(),  # noqa: B008
    ) -> Tensor:
        """Answer as the pairs do (LVM's analogy prompting): x1 y1 ... xk yk x -> y.

        Args:
            pairs: (B, T) ids of questions and answers.
            query: (B, T).
            seeds: (B,).
            sampling: how.

        Returns:
            (B, T) ids.

        Raises:
            DataError: if there are more pairs than the model has room for.
        """
        shown = torch.stack([*(image for pair in pairs for image in pair), query], 1)
        return self.continue_images(shown, 1, seeds, sampling, window=shown.shape[1])[:, 0]


_STRIDE = 1 << 32


def prompt(
    bundle: Bundle,
    out: Path,
    *,
    pairs: Sequence[tuple[Path, Path]] = (),
    frames: Sequence[Path] = (),
    count: int = 1,
    num_samples: int = 1,
    seed: int = 0,
    window: int | None = None,
    begin: int | None = None,
    modality: str | None = None,
    sampling: RowSampling = RowSampling(),  # noqa: B008
) -> list[Path]:
    """Continue a sentence of image files, and write what comes next.

    Args:
        bundle: model and tokenizer.
        out: folder for the images.
        pairs: examples of questions and answers, before the frames.
        frames: images in order; after pairs, the question.
        count: images to generate.
        num_samples: answers, each with its own seed.
        seed: of the first answer.
        window: images that are seen at most before a new one; None: with pairs all, else as `continue_images` has it.
        begin, modality, sampling: see `VisualPrompt`.

    Returns:
        the files written.

    Raises:
        ConfigError: if the model reads no rows of images.
        DataError: if there is no image, or one cannot be read.
    """
    check_folder(out)
    asked = VisualPrompt(bundle, modality=modality, begin=begin)
    paths = [path for pair in pairs for path in pair] + list(frames)
    if not paths:
        raise DataError("a prompt needs at least one image: give --pair X Y and --image X, or --image X several times")
    images = torch.stack([asked.read(path)[0] for path in paths])
    seeds = following_seeds(seed, num_samples).to(images.device)
    shown = images.expand(num_samples, -1, -1)
    if window is None and pairs:  # of which none may leave the window: the others would no longer be pairs
        window = len(paths) + count - 1
    made = asked.continue_images(shown, count, seeds, sampling, window=window)
    written: list[Path] = []
    make_folder(out)
    for sample in range(num_samples):
        values = asked.decode(made[sample], seeds[sample].expand(count))
        for number, value in enumerate(values):
            written += files.write(asked.tokenizer.modality, value, out, f"{seed + sample}_{number}")
    return written
