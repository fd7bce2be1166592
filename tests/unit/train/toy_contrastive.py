"""A tiny contrastive model with its real objective: waves and what is said of them, several in the same words."""

from __future__ import annotations

from typing import Any

import numpy as np

from fourm.config import build
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.contrastive import Contrastive
from fourm.models.contrastive_configs import ContrastiveConfig
from fourm.objectives.contrastive import ContrastiveObjective
from fourm.objectives.contrastive_config import ContrastiveObjectiveConfig
from tests.unit.train.toy_data import Sixteen

MODALITIES = ModalitySet(
    [
        Modality("image", Grid(4, 4, 4), Continuous(16), source="image", decode="image", channels=1, direction="input"),
        Modality("caption", Sequence(6), Discrete(300), source="caption", decode="text", tokenizer="text"),
        Modality("depth", Grid(4, 4, 2), Discrete(16), source="depth", decode="tokens"),
    ]
)
TRUNK = {"kind": "multimodal", "dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, "embedding_std": 0.4}


def model(drop_path: float = 0.0, most: float | None = None) -> Contrastive:
    """A fresh one, the same each time; `most`: its first and largest scale."""

    def tower(pool: str, **options: Any) -> dict[str, Any]:
        return {"encoder": {"kind": "model", "model": {**TRUNK, "drop_path": drop_path}, **options}, "pool": pool}

    towers = {"image": tower("mean"), "caption": tower("last", causal=True), "depth": tower("query")}
    scale = {} if most is None else {"logit_scale": most, "max_logit_scale": most}
    return Contrastive(MODALITIES, build(ContrastiveConfig, {"dim": 8, "towers": towers, **scale}), 0)


def objective() -> ContrastiveObjective:
    return ContrastiveObjective(ContrastiveObjectiveConfig([("image", "caption"), ("image", "depth")]), MODALITIES)


class Said(Sixteen):
    """Samples n and n + 8 are said in the same words; every third has no depth."""

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> dict[str, Any]:
        steps = np.linspace(0, 1 + n, 256).reshape(1, 16, 16)
        found = {
            "image": (np.sin(6 * steps) + 0.1 * rng.standard_normal(steps.shape)).astype(np.float32),
            "caption": 210 + np.arange(n % 8, n % 8 + 1 + n % 4),
            "depth": rng.integers(0, 16, 16),
        }
        return found if n % 3 else {name: value for name, value in found.items() if name != "depth"}
