"""What a model of documents generates for the pictures of texts: the vectors that Emu's visual decoder learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from fourm.errors import ConfigError
from fourm.files import replacing
from fourm.generate.bundle import Bundle, move
from fourm.generate.interleaved_job import form_options
from fourm.generate.interleaved_prompts import Interleaved
from fourm.layouts import Continuous
from fourm.machine import choose_device


class Imagined:
    """Generated vectors of the pictures of texts (Emu, Sun et al. 2023, sec. 2.3).

    Args:
        bundle: a model that generates vectors of images behind texts, and its text tokenizer.
        source: folder of the texts; None: `caption`.
        start: token before every text; empty: none; None: that of the model.
        phrases: how a picture is asked for, see `fourm prompt`; None: as the model was trained.
        device: to compute on.

    Attributes:
        num_tokens, dim: of the vectors of a picture.

    Raises:
        ConfigError: if the model generates no images.
    """

    def __init__(
        self,
        bundle: Bundle,
        source: str | None = None,
        start: str | None = None,
        phrases: str | None = None,
        device: str = "auto",
    ) -> None:
        move(bundle, choose_device(device))
        self.model = Interleaved(bundle, **form_options(start, phrases))
        image = self.model.image
        if image is None or image.name not in bundle.model.vector_heads:
            raise ConfigError("this model reads text and generates no images: name one with model.vector_head")
        self.modality = replace(bundle.model.modalities[self.model.row.text], source=source or "caption")
        self.num_tokens, self.dim = image.num_tokens, cast(Continuous, image.content).dim

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """(B, num_tokens, dim)."""
        prompts = [self.model.drawing(text) for text in texts]
        found = self.model.vectors(prompts, torch.zeros(len(texts), dtype=torch.int64))
        return found.numpy().astype(np.float16)

    def write_empty(self, path: Path) -> None:
        """Write what follows the empty prompt, for `empty: file` of a visual decoder."""
        from safetensors.torch import save_file

        vectors = self.model.vectors([self.model.prompt("", draw=True)], torch.zeros(1, dtype=torch.int64))[0]
        with replacing(path) as partial:
            save_file({"vectors": vectors.contiguous()}, partial)
