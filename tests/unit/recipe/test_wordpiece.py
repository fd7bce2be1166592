"""Texts of a data set for the text tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fourm import config as configs
from fourm.data.shards import ShardWriter
from fourm.errors import ConfigError
from fourm.recipe import wordpiece
from fourm.recipe.schema import TextTokenizerRecipe


def recipe(root: Path, **changes: Any) -> TextTokenizerRecipe:
    plain = {"path": str(root), "sources": ["caption"], "output": str(root / "text.json"), "num_sentinels": 8,
             "num_coordinates": 4, "vocab_size": 120}  # fmt: skip
    return configs.build(TextTokenizerRecipe, plain | changes)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with ShardWriter(tmp_path, 0, {"caption": "json", "place": "txt"}) as writer:
        writer.write("0", {"caption": json.dumps(["a red bed", "the bed is red"]).encode(), "place": b"kitchen"})
        writer.write("1", {"caption": json.dumps("a lamp").encode(), "place": b"bath"})
    return tmp_path


def test_all_alternatives_of_all_sources_are_read(data: Path) -> None:
    read = list(wordpiece.texts(recipe(data, sources=["caption", "place"])))

    assert read == ["a red bed", "the bed is red", "a lamp", "kitchen", "bath"]


def test_texts_of_documents_are_read(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>what is this?"}, {"from": "gpt", "value": "a bed"}]
    files = {
        "stories": {"parts": [{"text": ["a room", "a house"]}, {"image": "a.png"}, "it is red"]},
        "chat": {"image": "a.png", "conversations": turns},
    }
    for name, line in files.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "documents.json").write_text(json.dumps({"chat": {"reader": "chat"}}))
    read = list(wordpiece.texts(recipe(tmp_path, sources=["stories", "chat"])))
    assert [text for text in read if text] == ["a room", "a house", "it is red", "what is this?", "a bed"]


def test_the_tokenizer_is_saved_and_reads_its_texts(data: Path) -> None:
    from fourm.tokenizers.text import TextTokenizer

    wordpiece.run(recipe(data, classes=["bed"]))

    text = TextTokenizer.load(data / "text.json")
    assert text.decode(text.encode("a red bed")) == "a red bed"
    assert text.vocab_size <= 120


def test_no_sources_are_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="sources is empty"):
        wordpiece.run(recipe(data, sources=[]))
