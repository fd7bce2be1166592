"""A tiny detokenizer with its real objective: causal tokens of waves, estimates of what a frozen painter is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fourm.config import build
from fourm.objectives.estimate import Estimate
from fourm.objectives.reconstruct_config import EstimateConfig
from fourm.tokenizers.detokenizer import Detokenizer
from fourm.tokenizers.detokenizer_configs import DetokenizerConfig
from tests.unit.train.toy_tokenizer import WAVES, Waves

COLOURS = replace(WAVES, value_range=(0.0, 1.0), normalization="half")
TOWER = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"patch_size": 8, "depth": 1, "in_chans": 1}}
RESAMPLER = {"dim": 16, "depth": 1, "num_heads": 2}
CONFIG = {
    "tokens": {
        "encoder": {"kind": "vision", "tower": TOWER, "pooler": {"kind": "resampler", **RESAMPLER}},
        "num_tokens": 3, "dim": 8,
    },
    "decoder": {**RESAMPLER, "causal": False},
    "painter": {
        "conditions": {
            "words": {"num_tokens": 2, "dim": 6},
            "image": {"encoder": {"kind": "conv", "stem": 4, "widths": [6], "num_blocks": [1], "groups": 2}},
        },
        "unet": {"widths": [8, 8], "num_blocks": 1, "attention_depth": [0, 1], "num_heads": [2, 2], "groups": 4},
    },
}  # fmt: skip


class Told(Waves):
    """The same waves, with two vectors of which wave it is."""

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> dict[str, Any]:
        return {**super().sample(n, rng, resolution), "words": np.full((2, 6), n / 16, np.float32)}


def detokenizer() -> Detokenizer:
    """A fresh one, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Detokenizer(COLOURS, build(DetokenizerConfig, CONFIG))


def estimate(model: Detokenizer) -> Estimate:
    """Its objective."""
    return Estimate(EstimateConfig(), COLOURS, model.num_tokens, given=model.given, sizes=model.sizes)
