"""Modalities of every sort, and samples of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet


@pytest.fixture(scope="session")
def modalities() -> ModalitySet:
    return ModalitySet(
        [
            Modality("rgb", Grid(4, 4, 2), Continuous(12), source="rgb", decode="image", direction="input", channels=3),
            Modality("depth", Grid(4, 4, 2), Discrete(50), source="depth", decode="tokens"),
            Modality("caption", Sequence(12), Discrete(600), source="caption", decode="text", tokenizer="text"),
            Modality("facts", Sequence(9), Discrete(600), source="facts", decode="text", unit="chunk"),
            Modality("vectors", Sequence(5), Continuous(7), source="vectors", decode="vectors", direction="input"),
            Modality("codes", Grid(2, 2, 4), Discrete(6), source="codes", decode="tokens", direction="output"),
        ]
    )


@pytest.fixture
def sample() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "rgb": rng.standard_normal((3, 8, 8)).astype(np.float32),
        "depth": rng.permutation(16).reshape(4, 4).astype(np.int16),
        "caption": 300 + np.arange(10),
        "facts": [np.array([401, 501]), np.array([402, 502]), np.array([403, 503])],
        "vectors": 1 + np.arange(35, dtype=np.float64).reshape(5, 7),
        "codes": np.arange(4),
    }
