"""A tiny backbone with a classification head, on two modalities of waves, with all that is drawn while fine-tuning."""

from __future__ import annotations

from typing import Any

import numpy as np

from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.objectives.mix import Mix
from fourm.objectives.supervised import Supervised
from fourm.objectives.supervised_configs import ClassificationConfig
from fourm.objectives.tasks import Classification
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig
from fourm.transfer.head_configs import AttentiveConfig
from fourm.transfer.network import TransferNetwork
from tests.unit.train.toy_data import Sixteen

INPUTS = ModalitySet(
    Modality(name, Grid(2, 2, 4), Continuous(16), name, "gray", channels=1, normalization="none")
    for name in ("waves", "ripples")
)
LABEL = Modality("label", Sequence(1), Discrete(4), "label", "label", direction="input")
MODEL = MultimodalConfig(dim=16, encoder_depth=2, decoder_depth=1, num_heads=2, embedding_std=0.4)


class Waves(Sixteen):
    """Sixteen images of four kinds of waves, each with a phase drawn anew in every epoch."""

    def sample(self, n: int, rng: np.random.Generator, resolution: int | None = None) -> dict[str, Any]:
        place = np.linspace(0, 6, 8, dtype=np.float32)
        waves = np.sin((n % 4 + 1) * place[:, None] + np.float32(rng.random()) + place)[None]
        return {"waves": waves, "ripples": waves[:, ::-1] ** 2, "label": np.asarray(n % 4)}


def network(drop_path: float) -> TransferNetwork:
    """A fresh network, the same each time."""
    backbone = Backbone(INPUTS, MODEL, BackboneConfig(modalities=list(INPUTS), drop_path=drop_path))
    return TransferNetwork(backbone, AttentiveConfig(num_heads=2), LABEL.vocab_size, False)


def supervised() -> Supervised:
    """Classification with hidden modalities and mixed images."""
    task = Classification(ClassificationConfig(num_classes=4, label_smoothing=0.1), LABEL)
    return Supervised(task, INPUTS, modality_dropout=0.3, mix=Mix(mixup=0.5, cutmix=1.0))
