"""A model as a self-contained folder: `config.json`, `model.safetensors`, copies of the tokenizers it speaks with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fourm import config as configs
from fourm.errors import CheckpointError, ConfigError
from fourm.files import publish
from fourm.modality import ModalitySet, from_dict, to_dict
from fourm.models.configs import MODELS
from fourm.models.multimodal import Multimodal

FORMAT = "fourm-model"
VERSION = 1


def save_model(model: Multimodal, folder: Path, tokenizers: Mapping[str, Path] | None = None) -> None:
    """Write a model and copies of its tokenizers.

    Args:
        model: what to save.
        folder: where to; made if missing.
        tokenizers: token modality (or `text`) -> tokenizer folder or file.

    Raises:
        CheckpointError: if a tokenizer does not exist; nothing is written then.
    """
    from safetensors.torch import save_model as save_weights

    for name, source in (tokenizers or {}).items():
        if not source.exists():
            raise CheckpointError(f"the tokenizer of '{name}' is not at {source}")
    folder.mkdir(parents=True, exist_ok=True)
    # A folder counts as a model by its config.json, which is written last.
    (folder / "config.json").unlink(missing_ok=True)
    copies = {}
    for name, source in (tokenizers or {}).items():
        relative = f"tokenizers/{name}{source.suffix if source.is_file() else ''}"
        destination = folder / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, destination, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, destination)
        copies[name] = relative
    save_weights(model, str(folder / "model.safetensors"))
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "model": {"kind": "multimodal", **configs.to_dict(model.config)},
        "modalities": {name: to_dict(m) for name, m in model.modalities.items()},
        "rows": _rows(model),
        "tokenizers": copies,
    }
    publish(folder / "config.json", json.dumps(facts, indent=1) + "\n")


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of a model folder.

    Raises:
        CheckpointError: if the folder is not a model folder; the message says what to pass instead.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a model folder: it has no config.json. "
            "Pass the folder `model` inside the output of `fourm pretrain`"
        )
    try:
        facts = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Export the model again") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of the format '{FORMAT}'")
    if facts.get("version", 0) > VERSION:
        raise CheckpointError(f"{path} has version {facts['version']}; this fourm reads up to {VERSION}: upgrade fourm")
    return facts


def load_model(folder: Path) -> Multimodal:
    """The model of a folder, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: if files are missing or weights do not fit the config; the message names the keys.
    """
    from safetensors.torch import load_model as load_weights

    facts = read_config(folder)
    model = _build(facts, folder / "config.json")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(
            f"{weights} is missing: the export was not finished. Run the training command again to export"
        )
    try:
        load_weights(model, str(weights))
    except Exception as error:
        raise CheckpointError(f"{weights} does not fit its config.json: {error}") from None
    return model.eval()


def _build(facts: Mapping[str, Any], path: Path) -> Multimodal:
    """The model a `config.json` describes."""
    try:
        modalities = ModalitySet(from_dict(name, m) for name, m in facts["modalities"].items())
        kind = dict(facts["model"])
        schema = MODELS.resolve(kind.pop("kind"), where=str(path))
        model = Multimodal(modalities, configs.build(schema, kind, where=str(path)))
    except KeyError as error:
        raise CheckpointError(f"{path} is damaged: it lacks {error}. Export the model again") from None
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged or from another version of fourm: {error}") from None
    rows = facts.get("rows", {})
    for side, own in _rows(model).items():
        if rows.get(side, own) != own:
            raise CheckpointError(f"{path}: the rows of its {side} tables do not follow from its modalities")
    return model


def _rows(model: Multimodal) -> dict[str, dict[str, list[int]]]:
    """Which rows of the concatenated tables belong to which modality."""
    tables = {"input": model.input_embedder.table, "output": model.heads}
    return {side: {name: list(rows) for name, rows in table.map.rows.items()} for side, table in tables.items()}


def tokenizer_paths(folder: Path) -> dict[str, Path]:
    """Token modality (or `text`) -> its tokenizer inside the model folder.

    Raises:
        CheckpointError: if the config names a place outside the folder.
    """
    paths = {name: folder / relative for name, relative in read_config(folder).get("tokenizers", {}).items()}
    for name, path in paths.items():
        if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder / "tokenizers")):
            raise CheckpointError(
                f"{folder / 'config.json'}: the tokenizer of '{name}' lies outside the folder: {path}"
            )
    return paths
