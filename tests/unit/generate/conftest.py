"""A bundle over every kind of modality, and three samples to give it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.tokenizers.text import TextTokenizer, train_wordpiece
from tests.unit.generate.toy import LEVELS, Mosaic, ToyBundle, build_model, image, text, tokens


@pytest.fixture(scope="session")
def wordpiece() -> TextTokenizer:
    texts = ["a red sofa", "a blue bed beside a lamp", "two chairs and a table"] * 4
    return train_wordpiece(texts, vocab_size=400, classes=["bed", "sofa"], num_sentinels=20, num_coordinates=50)


@pytest.fixture(scope="session")
def modalities(wordpiece: TextTokenizer) -> ModalitySet:
    return ModalitySet(
        [
            image("rgb@16", "image", 3),
            tokens("tok_rgb@16", "rgb@16"),
            tokens("tok_depth@16", "depth@16"),
            tokens("tok_semseg@16", "semseg@16"),
            tokens("tok_edges@16", "edges@16", direction="output"),
            text("caption", wordpiece.vocab_size),
            text("det", wordpiece.vocab_size, "boxes"),
            Modality("vectors", Sequence(6, 16), Continuous(8), source="vectors", decode="vectors", direction="input"),
        ]
    )


@pytest.fixture(scope="session")
def model(modalities: ModalitySet) -> Multimodal:
    return build_model(modalities, num_register_tokens=2)


@pytest.fixture(scope="session")
def bundle(model: Multimodal, wordpiece: TextTokenizer) -> ToyBundle:
    labels = Modality(
        "semseg@16", Grid(16, 16, 1), Discrete(LEVELS), source="semseg", decode="labels", direction="input"
    )
    tokenizers = {
        "tok_rgb@16": Mosaic(image("rgb@16", "image", 3)),
        "tok_depth@16": Mosaic(image("depth@16", "depth16", value_range=(0.0, 16.0))),
        "tok_semseg@16": Mosaic(labels),
        "tok_edges@16": Mosaic(image("edges@16")),
    }
    return ToyBundle(model, tokenizers, wordpiece)


@pytest.fixture
def given(wordpiece: TextTokenizer) -> dict[str, dict[str, Tensor]]:
    """Three samples of pixels, of a token grid of which each shows another part, of text and of vectors."""
    generator = torch.Generator().manual_seed(5)
    places = torch.arange(16).expand(3, 16)
    ids = torch.randint(0, LEVELS, (3, 16), generator=generator)
    shown = torch.tensor([16, 5, 1])[:, None] > places
    return {
        "rgb@16": {"values": torch.randn(3, 3, 16, 16, generator=generator), "positions": places},
        "tok_semseg@16": {"ids": ids.where(shown, -1), "positions": places.where(shown, -1)},
        "caption": {"ids": torch.tensor([[150, 160, 3, -1], [170, 3, -1, -1], [150, 5, 152, 3]])},
        "vectors": {"values": torch.randn(3, 4, 8, generator=generator), "valid": torch.ones(3, 4, dtype=torch.bool)},
    }
