from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fourm import recipes
from fourm.errors import ConfigError
from fourm.evaluate import job
from fourm.evaluate.configs import EvaluateConfig, TokenizerEvaluation, load


@pytest.mark.usefixtures("known_references")
def test_writes_metrics_report_and_pictures(rooms: Path, rooms_bundle: Any, tmp_path: Path) -> None:
    config = EvaluateConfig(
        "rooms",
        Path("m"),
        rooms / "test",
        rooms / "train",
        tmp_path / "out",
        num_samples=2,
        num_pictures=1,
        num_steps=1,
    )
    asked = []
    metrics = job.run(config, lambda path: asked.append(path) or rooms_bundle)
    assert asked == [Path("m")]
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == metrics
    page = (tmp_path / "out/report.html").read_text()
    assert "From RGB to everything" in page
    assert "://" not in page  # no link: and letters that base64 never writes by chance
    assert sorted(path.name for path in (tmp_path / "out/pictures").iterdir()) == [
        "caption_to_all.png",
        "rgb_to_all.png",
    ]


def test_a_number_of_samples_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="num_samples is 0"):
        recipes.load("rooms", EvaluateConfig, ["num_samples=0"], folder="evaluate")


@pytest.mark.parametrize("kind", ["rooms", "fashion"])
def test_a_recipe_of_a_model_is_read_by_its_kind(kind: str) -> None:
    assert load(kind) == recipes.load(kind, EvaluateConfig, folder="evaluate")


def test_a_recipe_of_a_tokenizer_is_read_by_its_kind(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: evaluate/tokenizer\ntokenizer: t\ndata: d\nnum_samples: 5\n")
    loaded = load(tmp_path / "mine.yaml", ["decoding.num_steps=3"])
    assert isinstance(loaded, TokenizerEvaluation)
    assert (loaded.output, loaded.num_samples, loaded.decoding.num_steps) == (Path("t/evaluation"), 5, 3)


def test_a_tokenizer_and_data_have_to_be_given() -> None:
    with pytest.raises(ConfigError, match="tokenizer is '\\?\\?\\?'"):
        load("tokenizer")


def test_a_recipe_without_a_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("tokenizer: t\n")
    with pytest.raises(
        ConfigError, match="kind.*Known: answers, captions, documents, fashion, retrieval, rooms, tokenizer"
    ):
        load(tmp_path / "mine.yaml")
