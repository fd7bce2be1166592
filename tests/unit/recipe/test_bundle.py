"""Opening trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import fourm
from fourm.errors import CheckpointError
from fourm.models.folder import save_model
from fourm.recipe import bundle
from fourm.recipe.pretrain import build_model
from tests.unit.recipe.conftest import recipe


@pytest.fixture
def model(tmp_path: Path, text_file: Path) -> Path:
    made = recipe()
    save_model(build_model(made, made.modality_set(), {}), tmp_path / "run" / "model", {"text": text_file})
    return tmp_path / "run"


def test_a_model_loads_from_its_folder_and_from_the_output_of_its_run(model: Path) -> None:
    for path in (model, model / "model", str(model)):
        assert not fourm.load_model(path).training


def test_a_bundle_holds_the_tokenizers_too(model: Path) -> None:
    opened = bundle.load_bundle(model)

    assert opened.text is not None
    assert opened.tokenizers == {}


@pytest.mark.parametrize("path", ["nowhere", "./no/where", "/no/where", "a/b/c"])
def test_a_missing_folder_is_named(path: str) -> None:
    with pytest.raises(CheckpointError, match=f"there is no model or tokenizer in {path}"):
        fourm.load_model(path)


def test_other_names_are_looked_up_on_the_hub(monkeypatch: Any, model: Path) -> None:
    asked = []

    def download(repository: str, **options: Any) -> str:
        asked.append(repository)
        return str(model / "model")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    fourm.load_model("someone/some-model")

    assert asked == ["someone/some-model"]


def test_what_the_hub_does_not_give_is_one_clear_error(monkeypatch: Any) -> None:
    def download(repository: str, **options: Any) -> str:
        raise OSError("offline\nand many more lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    with pytest.raises(
        CheckpointError, match="there is no 'someone/some-model' here, and the Hub does not give it: offline"
    ):
        fourm.load_model("someone/some-model")
