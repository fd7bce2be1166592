"""Tiny tokenizers of every family with real objective and loader, on images that are made of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fourm.config import build
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.objectives.reconstruct import Reconstruct
from fourm.objectives.reconstruct_config import ReconstructConfig
from fourm.tokenizers.configs import DiVAEConfig, VQVAEConfig
from fourm.tokenizers.divae import DiVAE
from fourm.tokenizers.vqvae import VQVAE
from tests.unit.train.toy_data import Sixteen

KINDS = ("vqvae", "divae")
RESOLUTIONS = (16, 24)
WAVES = Modality("waves", Grid(2, 2, 8), Continuous(64), "waves", "gray", channels=1, normalization="none")
CONV = {"kind": "conv", "stem": 4, "widths": [8, 16], "num_blocks": [1, 1], "groups": 4}
VQGAN = {
    "kind": "vqgan", "widths": [4, 4, 8, 8], "num_blocks": 1, "attention_levels": [3], "latent_dim": 8, "groups": 4,
}  # fmt: skip
HALF = {"encoder": CONV, "quantizer": {"kind": "ema", "codebook_size": 8, "dim": 4}}
UNET = {
    "kind": "unet", "patch_size": 2, "width": 8, "multipliers": [1, 2], "num_blocks": 1, "attention_levels": [1],
    "groups": 4,
}  # fmt: skip


class Waves(Sixteen):
    """Sixteen images of waves, each with a phase drawn anew in every epoch."""

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> dict[str, Any]:
        place = np.linspace(0, 6, resolution or WAVES.grid.image_size[0], dtype=np.float32)
        phase = np.float32(rng.random())
        return {"waves": np.sin(n % 4 * place[:, None] + n // 4 * place + phase)[None]}


def tokenizer(kind: str, **values: Any) -> VQVAE | DiVAE:
    """A fresh tokenizer of a family, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind != "divae":
            network = VQGAN if kind == "vqgan" else CONV
            networks = {"encoder": network, "decoder": network}
            return VQVAE(WAVES, build(VQVAEConfig, {**HALF, **networks, **values}))
        return DiVAE(WAVES, build(DiVAEConfig, {**HALF, "denoiser": UNET, "condition_dropout": 0.2, **values}))


def reconstruct() -> Reconstruct:
    """The objective of all of them."""
    return Reconstruct(ReconstructConfig(), WAVES, 4)
