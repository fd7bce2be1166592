"""A model as a self-contained folder: `config.json`, `model.safetensors`, copies of the tokenizers it speaks with."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourm import config as configs
from fourm.errors import CheckpointError, ConfigError
from fourm.files import publish, replacing
from fourm.modality import ModalitySet, from_dict, to_dict
from fourm.models.configs import MODELS
from fourm.registry import implementation

FORMAT = "fourm-model"
VERSION = 1


@dataclass(frozen=True)
class ModelFacts:
    """What `config.json` holds.

    Args:
        format, version: of the folder.
        modalities: name -> facts, in the order of the token tables.
        model: config of the model, with its kind.
        rows: side -> modality -> its rows in the concatenated table, where the model has such tables.
        tokenizers: token modality (or `text`) -> its copy, relative to the folder.
        documents: how documents of text and images are written around it, where it has learned from some.
    """

    format: str
    version: int
    modalities: dict[str, Any]
    model: Any = configs.slot(MODELS)
    rows: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    tokenizers: dict[str, str] = field(default_factory=dict)
    documents: dict[str, Any] | None = None


def save_model(
    model: Any, folder: Path, tokenizers: Mapping[str, Path] | None = None, documents: Any | None = None
) -> None:
    """Write a model and copies of its tokenizers; adapters are merged into the layers they belong to.

    Args:
        model: what to save.
        folder: where to; made if missing.
        tokenizers: token modality (or `text`) -> tokenizer folder or file.
        documents: how documents are written around it (`fourm.data.document_form`).

    Raises:
        CheckpointError: if a tokenizer does not exist, and nothing is written then; or if the disk is full.
    """
    from safetensors import SafetensorError

    from fourm.nn.lora import has_lora, merge_lora

    if has_lora(model):
        model = copy.deepcopy(model)
        merge_lora(model)
    for name, source in (tokenizers or {}).items():
        if not source.exists():
            raise CheckpointError(f"the tokenizer of '{name}' is not at {source}")
    try:
        _write(model, folder, tokenizers or {}, documents)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot save the model in {folder}: {error}. Free space or choose another folder"
        ) from error


def _write(model: Any, folder: Path, tokenizers: Mapping[str, Path], documents: Any | None) -> None:
    from safetensors.torch import save_model as save_weights

    folder.mkdir(parents=True, exist_ok=True)
    # A folder counts as a model by its config.json, which is written last.
    (folder / "config.json").unlink(missing_ok=True)
    copies = {}
    for name, source in tokenizers.items():
        relative = f"tokenizers/{name}{source.suffix if source.is_file() else ''}"
        destination = folder / relative
        destination.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, destination, dirs_exist_ok=True)
        else:
            shutil.copyfile(source, destination)
        copies[name] = relative
    with replacing(folder / "model.safetensors") as path:  # others may have the old file mapped into their memory
        save_weights(model, str(path))
    modalities = {name: to_dict(m) for name, m in model.modalities.items()}
    facts = configs.to_dict(ModelFacts(FORMAT, VERSION, modalities, model.config, _rows(model), copies))
    # Only where there is one: earlier versions read the folders of all other models.
    facts.pop("documents")
    facts |= {} if documents is None else {"documents": configs.to_dict(documents)}
    publish(folder / "config.json", json.dumps(facts, indent=1) + "\n")


def read_config(folder: Path) -> ModelFacts:
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
    if facts.get("version") not in range(VERSION + 1):
        raise CheckpointError(
            f"{path} has version {facts.get('version')}; this fourm reads up to {VERSION}: upgrade fourm"
        )
    try:
        return configs.build(ModelFacts, facts, where=str(path))
    except ConfigError as error:
        raise _damaged(path, error) from None


def load_model(folder: Path) -> Any:
    """The model of a folder, in evaluation mode, on the CPU. Its weights stay in the file until they are used.

    Raises:
        CheckpointError: if files are missing or weights do not fit the config; the message names the keys.
    """
    import torch
    from safetensors.torch import load_file

    from fourm.nn.init import adopt_weights

    with torch.device("meta"):
        model = _build(read_config(folder), folder / "config.json")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(
            f"{weights} is missing: the export was not finished. Run the training command again to export"
        )
    try:
        state = load_file(weights)
    except Exception as error:
        raise CheckpointError(
            f"{weights} is damaged or cut off ({weights.stat().st_size:,} bytes): {error}. Copy or export it again"
        ) from None
    try:
        adopt_weights(model, state)
    except ValueError as error:
        raise CheckpointError(f"{weights} does not fit its config.json: {error}") from None
    return model.eval()


def _build(facts: ModelFacts, path: Path) -> Any:
    """The model a `config.json` describes."""
    try:
        modalities = ModalitySet(from_dict(name, m) for name, m in facts.modalities.items())
        model = implementation(facts.model.target)(modalities, facts.model)
    except ConfigError as error:
        raise _damaged(path, error) from None
    for side, own in _rows(model).items():
        if facts.rows.get(side, own) != own:
            raise CheckpointError(f"{path}: the rows of its {side} tables do not follow from its modalities")
    return model


def _damaged(path: Path, error: ConfigError) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or from another version of fourm: {error}. Export the model again")


def _rows(model: Any) -> dict[str, dict[str, list[int]]]:
    """Which rows of its concatenated tables belong to which modality, for models that have such tables."""
    tables = getattr(model, "tables", {})
    return {side: {name: list(rows) for name, rows in table.map.rows.items()} for side, table in tables.items()}


def tokenizer_paths(folder: Path) -> dict[str, Path]:
    """Token modality (or `text`) -> its tokenizer inside the model folder.

    Raises:
        CheckpointError: if the config names a place outside the folder.
    """
    paths = {name: folder / relative for name, relative in read_config(folder).tokenizers.items()}
    for name, path in paths.items():
        if not Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder / "tokenizers")):
            raise CheckpointError(
                f"{folder / 'config.json'}: the tokenizer of '{name}' lies outside the folder: {path}"
            )
    return paths
