"""A small model of every sort of modality, and backbones made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig

SMALL = MultimodalConfig(dim=16, encoder_depth=4, decoder_depth=1, num_heads=2, embedding_std=0.4)


@pytest.fixture(scope="session")
def modalities() -> ModalitySet:
    return ModalitySet(
        [
            Modality("caption", Sequence(12), Discrete(300), source="caption", decode="text", tokenizer="text"),
            Modality(
                "rgb@16", Grid(4, 4, 4), Continuous(48), source="rgb", decode="image", direction="input", channels=3
            ),
            Modality("tok_depth@16", Grid(4, 4, 4), Discrete(11), source="tok_depth", decode="tokens"),
            Modality("vectors", Sequence(5), Continuous(7), source="vectors", decode="vectors", direction="input"),
            Modality("codes", Grid(2, 2, 8), Discrete(6), source="codes", decode="tokens", positions="learned"),
        ]
    )


@pytest.fixture(scope="session")
def make_model(modalities: ModalitySet) -> Callable[..., Multimodal]:
    """A small trained model; options replace those of its config."""

    def build(seed: int = 0, **options: Any) -> Multimodal:
        return Multimodal(modalities, replace(SMALL, **options), seed).eval()

    return build


@pytest.fixture(scope="session")
def model(make_model: Callable[..., Multimodal]) -> Multimodal:
    return make_model()


@pytest.fixture(scope="session")
def make(model: Multimodal) -> Callable[..., Backbone]:
    """A backbone of the small model in evaluation mode."""

    def build(*names: str, seed: int = 1, of: Multimodal | None = None, **options: Any) -> Backbone:
        config = BackboneConfig(modalities=list(names) or ["rgb"], **options)
        return Backbone.from_model(of or model, config, seed=seed).eval()

    return build
