"""Texts and boxes become ids of the recipe's text tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm import catalog
from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.objectives.configs import MaskedConfig
from fourm.objectives.masked import Masked
from fourm.recipe.encoders import adopt_vocabulary, load_text_tokenizer, text_encoders
from fourm.tokenizers.text import TextTokenizer


def test_every_text_modality_has_an_encoder(text: TextTokenizer) -> None:
    assert set(text_encoders(catalog.resolve(["rgb@64", "caption", "det"]), text)) == {"caption", "det"}


def test_captions_are_encoded(text: TextTokenizer, rng: np.random.Generator) -> None:
    encode = text_encoders(catalog.resolve(["caption"]), text)["caption"]

    assert encode("a red bed", rng).tolist() == text.encode("a red bed").tolist()


def test_boxes_are_written_as_text(text: TextTokenizer, rng: np.random.Generator) -> None:
    encode = text_encoders(catalog.resolve(["det"]), text)["det"]
    boxes = [{"boxes": [0.0, 0.25, 0.5, 1.0], "class_name": "bed", "score": 1.0}]

    assert text.decode(encode(boxes, rng)).split() == ["v0=0", "v1=4", "v2=8", "v3=15", "bed"]


def test_facts_that_are_masked_as_wholes_come_in_chunks(text: TextTokenizer, rng: np.random.Generator) -> None:
    written = {"rgb@64": {}, "tok_depth@64": {}, "metadata": {"decode": "text"}}
    modalities = adopt_vocabulary(catalog.resolve(written), text)
    facts = text_encoders(modalities, text)["metadata"]("v1=3 v0=10 v1=5 v0=2\n", rng)

    assert [text.decode(chunk) for chunk in facts] == ["v1=3 v0=10", "v1=5 v0=2"]
    sample = {"tok_depth@64": np.zeros(64, np.int64), "metadata": facts}
    Masked(MaskedConfig(8, 8), modalities, text.special).prepare(sample, rng)  # what the objective takes


def test_values_that_are_not_text_are_refused(text: TextTokenizer, rng: np.random.Generator) -> None:
    encode = text_encoders(catalog.resolve({"poses": {"base": "caption", "decode": "structured"}}), text)["poses"]

    with pytest.raises(DataError, match="'poses': a sample holds dict; expected text"):
        encode({"joints": []}, rng)


def test_text_without_a_tokenizer_is_an_error_that_says_how_to_get_one() -> None:
    with pytest.raises(ConfigError, match=r"tokenizers\.text is missing: 'caption' is text.*fourm train-wordpiece"):
        text_encoders(catalog.resolve(["rgb@64", "caption"]), None)


def test_no_text_needs_no_tokenizer() -> None:
    assert text_encoders(catalog.resolve(["rgb@64"]), None) == {}


def test_text_modalities_adopt_the_vocabulary_of_the_tokenizer_and_others_keep_theirs(text: TextTokenizer) -> None:
    adopted = adopt_vocabulary(catalog.resolve(["tok_depth@64", "caption"]), text)

    assert (adopted["caption"].vocab_size, adopted["tok_depth@64"].vocab_size) == (text.vocab_size, 512)


def test_the_tokenizer_is_the_one_under_text(text_file: Path, text: TextTokenizer, tmp_path: Path) -> None:
    loaded: Any = load_text_tokenizer({"text": text_file})

    assert loaded.vocab_size == text.vocab_size
    assert load_text_tokenizer({}) is None
    with pytest.raises(CheckpointError, match="there is no text tokenizer"):
        load_text_tokenizer({"text": tmp_path / "none.json"})
