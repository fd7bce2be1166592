"""A small set of modalities of every sort, and models over it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal

SMALL = MultimodalConfig(dim=16, encoder_depth=2, decoder_depth=2, num_heads=2, embedding_std=0.4)


@pytest.fixture(scope="session")
def modalities() -> ModalitySet:
    return ModalitySet(
        [
            Modality(
                "rgb@8", Grid(4, 4, 2), Continuous(12), source="rgb", decode="image", direction="input", channels=3
            ),
            Modality("tok_depth@8", Grid(4, 4, 2), Discrete(11), source="tok_depth", decode="tokens"),
            Modality("caption", Sequence(12), Discrete(300), source="caption", decode="text", tokenizer="text"),
            Modality("facts", Sequence(9), Discrete(300), source="facts", decode="text", unit="chunk"),
            Modality("vectors", Sequence(5), Continuous(7), source="vectors", decode="vectors", direction="input"),
            Modality("codes", Grid(2, 2, 4), Discrete(6), source="codes", decode="tokens", positions="learned"),
        ]
    )


@pytest.fixture(scope="session")
def make(modalities: ModalitySet) -> Callable[..., Multimodal]:
    """A small model in evaluation mode; options replace those of its config."""

    def build(chosen: ModalitySet | None = None, seed: int = 0, **options: Any) -> Multimodal:
        from dataclasses import replace

        return Multimodal(modalities if chosen is None else chosen, replace(SMALL, **options), seed).eval()

    return build
