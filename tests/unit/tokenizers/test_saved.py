"""The folder of a saved tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm import catalog
from fourm.errors import CheckpointError
from fourm.tokenizers import saved

STATE = {"codes": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(3)}
DEPTH = catalog.get("depth@64")


def write(folder: Path, state: dict[str, torch.Tensor] = STATE) -> str:
    return saved.write(folder, "vqvae", DEPTH, {"dim": 3}, state, token_hash="abc")


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    assert write(tmp_path / "new" / "folder") == "abc"

    folder = tmp_path / "new" / "folder"
    facts = saved.read_facts(folder)
    assert (facts["kind"], facts["config"], saved.saved_hash(folder)) == ("vqvae", {"dim": 3}, "abc")
    assert saved.read_modality(folder) == DEPTH
    torch.testing.assert_close(saved.read_weights(folder, "cpu"), STATE, rtol=0, atol=0)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_digest_depends_on_names_shapes_types_values_and_facts_but_not_on_order() -> None:
    base = saved.digest({"a": 1, "b": 2}, STATE)
    assert saved.digest({"b": 2, "a": 1}, dict(reversed(STATE.items()))) == base
    others = [
        saved.digest({"a": 1, "b": 3}, STATE),
        saved.digest({"a": 1, "b": 2}, {**STATE, "count": torch.tensor(4)}),
        saved.digest({"a": 1, "b": 2}, {**STATE, "codes": STATE["codes"].reshape(3, 2)}),
        saved.digest({"a": 1, "b": 2}, {**STATE, "codes": STATE["codes"].double()}),
        saved.digest({"a": 1, "b": 2}, {"other": STATE["codes"], "count": STATE["count"]}),
    ]
    assert len({base, *others}) == 6


def test_weights_and_config_of_two_tokenizers_do_not_pass_for_one(tmp_path: Path) -> None:
    write(tmp_path / "a")
    write(tmp_path / "b", {**STATE, "count": torch.tensor(4)})
    (tmp_path / "a" / saved.WEIGHTS_FILE).write_bytes((tmp_path / "b" / saved.WEIGHTS_FILE).read_bytes())

    with pytest.raises(CheckpointError, match="do not belong together"):
        saved.read_weights(tmp_path / "a", "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda facts: None, "is not a saved tokenizer.*train-tokenizer"),
        (lambda facts: "{", "cannot be read.*Save the tokenizer again"),
        (lambda facts: [facts], "is not the config of a tokenizer"),
        (lambda facts: {k: v for k, v in facts.items() if k != "hash"}, "it needs format, kind, hash"),
        (lambda facts: {**facts, "format": 99}, "has format 99; this version reads"),
    ],
)
def test_a_damaged_config_says_what_is_wrong(tmp_path: Path, change: Any, message: str) -> None:
    write(tmp_path)
    path = tmp_path / saved.CONFIG_FILE
    changed = change(json.loads(path.read_text()))
    path.unlink()
    if changed is not None:
        path.write_text(changed if isinstance(changed, str) else json.dumps(changed))

    with pytest.raises(CheckpointError, match=message):
        saved.read_facts(tmp_path)


def test_a_full_disk_leaves_no_weights_that_pass_for_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def full(weights: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match="No space left.*Free space"):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []
