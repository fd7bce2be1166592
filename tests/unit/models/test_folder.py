"""A model folder is self-contained, and a damaged one says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from fourm.errors import CheckpointError
from fourm.models.folder import load_model, read_config, save_model, tokenizer_paths
from fourm.models.multimodal import Multimodal

Make = Callable[..., Multimodal]


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    facts = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in facts.items() if v is not None}))


@pytest.mark.parametrize(
    "options",
    [{}, {"tie_heads": False}, {"share_modality_embeddings": True, "num_register_tokens": 2, "qk_norm": True}],
)
def test_a_loaded_model_is_the_saved_one(make: Make, tmp_path: Path, options: dict[str, Any]) -> None:
    model = make(seed=3, **options)
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config == model.config
    assert loaded.modalities == model.modalities
    assert list(loaded.modalities) == list(model.modalities)
    assert not loaded.training
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (loaded.target_embedder.table is loaded.heads) == model.config.tie_heads


def test_tokenizers_are_copied_along(make: Make, tmp_path: Path) -> None:
    (tmp_path / "vq").mkdir()
    (tmp_path / "vq" / "weights.bin").write_bytes(b"w")
    (tmp_path / "words.json").write_text("{}")
    save_model(make(), tmp_path / "model", {"tok_depth@8": tmp_path / "vq", "text": tmp_path / "words.json"})
    (tmp_path / "model").rename(tmp_path / "moved")
    paths = tokenizer_paths(tmp_path / "moved")
    assert (paths["tok_depth@8"] / "weights.bin").read_bytes() == b"w"
    assert paths["text"].name == "text.json"
    assert all(path.is_relative_to(tmp_path / "moved") for path in paths.values())


def test_a_missing_tokenizer_leaves_nothing_behind(make: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the tokenizer of 'text' is not at"):
        save_model(make(), tmp_path / "model", {"text": tmp_path / "none.json"})
    assert not (tmp_path / "model").exists()


def test_saving_again_replaces_the_model(make: Make, tmp_path: Path) -> None:
    save_model(make(seed=1), tmp_path)
    save_model(make(seed=2, tie_heads=False), tmp_path)
    assert torch.equal(load_model(tmp_path).heads.weight, make(seed=2, tie_heads=False).heads.weight)


def test_an_interrupted_save_does_not_pass_for_a_model(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    save_model(make(seed=1), tmp_path)

    def full_disk(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.torch, "save_model", full_disk)
    with pytest.raises(CheckpointError, match="no space"):
        save_model(make(seed=2), tmp_path)
    with pytest.raises(CheckpointError, match="has no config.json"):
        load_model(tmp_path)


@pytest.fixture
def saved(make: Make, tmp_path: Path) -> Path:
    save_model(make(), tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_that_is_none_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a model folder.*Pass the folder `model`"):
        load_model(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_a_damaged_config_says_so(saved: Path, content: bytes) -> None:
    (saved / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged.*Export the model again"):
        read_config(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "something"}, "is not of the format 'fourm-model'"),
        ({"version": 99}, "has version 99.*upgrade fourm"),
        ({"version": "new"}, "has version new.*upgrade fourm"),
        ({"model": None}, "is damaged.*model is missing"),
        ({"model": 5}, "is damaged.*model.kind is missing"),
        ({"model": {"dim": 16}}, "is damaged.*model.kind is missing"),
        ({"model": {"kind": ["multimodal"]}}, "model.kind is"),
        ({"modalities": 5}, "is damaged.*modalities is 5"),
        ({"modalities": {"x": 5}}, "modality 'x' is 5"),
        ({"rows": 5}, "is damaged.*rows is 5"),
        ({"model": {"kind": "multimodel"}}, "model.kind is 'multimodel'.*Did you mean 'multimodal'"),
        ({"model": {"kind": "multimodal", "dim": "wide"}}, "dim is 'wide'"),
        ({"modalities": {"x": {}}}, "modality 'x'"),
        ({"rows": {"input": {"caption": [0, 7]}}}, "rows of its input tables do not follow"),
    ],
)
def test_a_config_that_makes_no_sense_names_the_place(saved: Path, changes: dict[str, Any], message: str) -> None:
    edit(saved, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(saved)
    assert "config.json" in str(error.value)


def test_missing_weights_say_so(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load_model(saved)


def test_truncated_weights_say_so(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged or cut off"):
        load_model(saved)


def test_weights_of_another_model_name_the_keys(saved: Path, make: Make, tmp_path: Path) -> None:
    save_model(make(num_register_tokens=2), tmp_path / "other")
    (saved / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="registers"):
        load_model(saved)


@pytest.mark.parametrize("place", ["../elsewhere", "/elsewhere", "tokenizers/../../elsewhere"])
def test_tokenizers_outside_the_folder_are_refused(make: Make, tmp_path: Path, place: str) -> None:
    save_model(make(), tmp_path / "model")
    edit(tmp_path / "model", tokenizers={"tok_depth@64": place})

    with pytest.raises(CheckpointError, match="'tok_depth@64' lies outside the folder"):
        tokenizer_paths(tmp_path / "model")


def test_tokenizers_that_are_no_mapping_are_a_damage(saved: Path) -> None:
    edit(saved, tokenizers=5)
    with pytest.raises(CheckpointError, match="is damaged.*tokenizers is 5"):
        tokenizer_paths(saved)


def test_a_full_disk_is_told_apart_from_a_damage_of_the_program(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer of safetensors raises an error of its own, which is no OSError."""

    def full(*args: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_model", full)
    with pytest.raises(CheckpointError, match=f"cannot save the model in {tmp_path}.*No space left.*Free space"):
        save_model(make(), tmp_path)
