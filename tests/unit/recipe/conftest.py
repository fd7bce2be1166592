"""A small recipe and what it names, without training anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fourm import config as configs
from fourm.recipe.schema import PretrainRecipe
from fourm.tokenizers.text import TextTokenizer, train_wordpiece

SENTENCES = ["a red bed left of a lamp", "a blue sofa", "two green chairs behind a table"]


def recipe(**changes: Any) -> PretrainRecipe:
    """Pixels, depth tokens and captions; `changes` replace top-level keys."""
    plain: dict[str, Any] = {
        "name": "small",
        "modalities": {"rgb@64": {}, "tok_depth@64": {}, "caption": {"layout": {"max_tokens": 24}}},
        "data": {"train": {"datasets": {"rooms": {"path": "rooms"}}}},
        "model": {"kind": "multimodal", "dim": 32, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2},
        "objective": {"kind": "masked", "num_input_tokens": 16, "num_target_tokens": 16},
        "train": {"max_steps": 4, "batch_size": 4},
    }
    return configs.build(PretrainRecipe, plain | changes)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tmp_path_factory.mktemp("text") / "text.json"
    return train_wordpiece(SENTENCES, 200, ["bed"], path, num_sentinels=8, num_coordinates=16)


@pytest.fixture
def text_file(text: TextTokenizer, tmp_path: Path) -> Path:
    text.save(tmp_path / "text.json")
    return tmp_path / "text.json"
