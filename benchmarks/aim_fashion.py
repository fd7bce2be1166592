"""Photographs of Fashion-MNIST in the study of AIM's prefix: probes ask for the class of a whole photograph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from aim_probes import Photographs, attentive, features, few, linear, neighbours, photographs, single
from aim_setting import Row, Setting, percent

from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.models.multimodal import Multimodal
from fourm.paths import FASHION_FOLDERS

NAME = "image@28"
FEW = 200
"""Photographs that one of the probes is fitted on."""


ROWS = {
    "linear": percent("linear probe of the last block"),
    "blocks": percent("linear probe"),
    "attentive": percent("attentive probe"),
    "few": percent(f"linear probe fitted on {FEW}"),
    "neighbours": percent("nearest neighbours"),
    "early token": percent("one early token"),
    "late token": percent("one late token"),
}


@dataclass(frozen=True)
class FashionSetting(Setting):
    """Args:
    probe_steps: of the attentive probe, which reads the mean of the last half of the blocks, as all probes do but the
        one of the last block.
    """

    dim: int = 32
    depth: int = 4
    num_heads: int = 2
    patch_size: int = 7
    steps: int = 3000
    batch: int = 16
    lr: float = 4e-3
    num_train: int = 20_000
    num_probe: int = 5000
    num_test: int = 10_000
    probe_steps: int = 500

    source: ClassVar[Path] = FASHION_FOLDERS[0]

    @property
    def rows(self) -> Mapping[str, Row]:
        return ROWS

    @property
    def modality(self) -> Modality:
        side, pixels = 28 // self.patch_size, self.patch_size**2
        return Modality(
            NAME, Grid(side, side, self.patch_size), Continuous(pixels), "image", "gray", channels=1,
            positions="sincos_xy", normalization="half",
        )  # fmt: skip

    def photographs(self, source: Path, output: Path) -> Photographs:
        return photographs(source, self.num_train, self.num_test)

    def probes(self, model: Multimodal, data: Photographs, causal: bool) -> dict[str, float]:
        fitted = data._replace(train=data.train[: self.num_probe], train_labels=data.train_labels[: self.num_probe])
        blocks = features(model, fitted, self.probed, causal)
        return {
            "linear": linear(features(model, fitted, None, causal), fitted),
            "blocks": linear(blocks, fitted),
            "attentive": attentive(model, blocks, fitted, self.probe_steps),
            "few": few(blocks, fitted, FEW),
            "neighbours": neighbours(blocks, fitted),
            **{f"{part} token": share for part, share in single(blocks, fitted).items()},
        }
