"""Embeddings of captions: T5's (Raffel et al. 2020), an input of 4M-21 (Bachmann et al. 2024, sec. 3.1), and CLIP's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fourm.data.encode import npz
from fourm.errors import ConfigError, DataError
from fourm.machine import use_bf16
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.feature_configs import T5Config
from fourm.prepare.labelers.network import TransformersNetwork, check_finite


class T5(TransformersNetwork):
    """Captions to npz: `emb` (length, dim) float16, and `mask_valid` (length,), which is true of every row.

    Of a list of alternatives the first is taken.

    Raises:
        ConfigError: if the network's vectors have another length than the config says.
    """

    what = "T5 encoder"
    model_class = "AutoModelForTextEncoding"
    processor_class = "AutoTokenizer"
    safetensors = False  # T5 1.1 is published in torch's files

    def __init__(self, config: T5Config, device: str) -> None:
        super().__init__(config, device)
        dim = int(self.model.config.hidden_size)
        if dim != config.dim:
            raise ConfigError(f"{self.what} '{config.name}': dim is {config.dim}, but it makes {dim}; set dim: {dim}")

    def weights_type(self) -> torch.dtype:
        # The largest has 4.8 billion weights, and few GPUs room for them in single precision.
        return torch.bfloat16 if use_bf16(self.config.precision, self.device) else torch.float32

    def prepare(self, photo: Photo) -> dict[str, Tensor]:
        caption: Any = photo.label(self.config.caption)
        if caption is None:
            raise DataError(f"it has no '{self.config.caption}' to embed")
        text = caption if isinstance(caption, str) else caption[0]
        return self.words(text)

    def words(self, text: str) -> dict[str, Tensor]:
        """The inputs of the network for a text."""
        words = self.processor(text, truncation=True, max_length=self.config.max_tokens, return_tensors="pt")
        return {name: words[name] for name in ("input_ids", "attention_mask")}

    def answer(self, photos: Sequence[Photo], inputs: dict[str, Tensor]) -> list[bytes]:
        vectors = check_finite(self.compute(inputs).last_hidden_state, self.what).cpu().numpy().astype(np.float16)
        return [npz(emb=rows, mask_valid=np.ones(len(rows), bool)) for rows in vectors]


class ClipText(T5):
    """Captions as Stable Diffusion is told them: every one of `max_tokens` vectors, those behind its end too, which see
    all before them.
    """

    what = "CLIP text encoder"
    model_class = "CLIPTextModel"
    safetensors = True

    def words(self, text: str) -> dict[str, Tensor]:
        limits = {"truncation": True, "padding": "max_length", "max_length": self.config.max_tokens}
        return {"input_ids": self.processor(text, **limits, return_tensors="pt")["input_ids"]}
