"""Opening trained models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fourm
from fourm.data.document_form import DocumentForm
from fourm.data.interleaved_configs import ChatConfig
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


def test_a_bundle_says_how_documents_are_written_where_its_folder_does(model: Path) -> None:
    said = DocumentForm("<s>", "[IMG]", "[/IMG]", "\n", ChatConfig(user="USER: "), {"draw": "a picture of {text}"})
    save_model(fourm.load_model(model), model / "told", {}, said)

    assert bundle.load_bundle(model).documents is None
    assert "documents" not in json.loads((model / "model" / "config.json").read_text())
    assert bundle.load_bundle(model / "told").documents == said

    facts = json.loads((model / "told" / "config.json").read_text())
    facts["documents"]["beginning"] = "<s>"
    (model / "told" / "config.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="documents.beginning is not a known key"):
        bundle.load_bundle(model / "told")


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
