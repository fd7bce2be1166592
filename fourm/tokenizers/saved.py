"""The folder of a saved tokenizer: `model.safetensors` and `config.json` with its kind, modality, config and hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourm.errors import CheckpointError
from fourm.modality import Modality, from_dict, to_dict

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def weights_hash(kind: str, modality: Modality, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """sha256 over everything that decides which tokens come out: kind, modality, config and weights.

    Returns:
        64 hexadecimal digits, the same on every machine.
    """
    import torch

    facts = {"kind": kind, "modality": {"name": modality.name, **to_dict(modality)}, "config": dict(config)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write(folder: Path, kind: str, modality: Modality, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Save a tokenizer; `config.json` is written last, so a folder with it is complete.

    Returns:
        The hash.

    Raises:
        CheckpointError: if the folder cannot be written or the disk is full.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    digest = weights_hash(kind, modality, config, state)
    facts = {
        "format": FORMAT,
        "kind": kind,
        "hash": digest,
        "modality": {"name": modality.name, **to_dict(modality)},
        "config": dict(config),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / WEIGHTS_FILE, lambda path: save_file(weights, path))
        _replace(folder / CONFIG_FILE, lambda path: path.write_text(json.dumps(facts, indent=1) + "\n"))
    except Exception as error:
        raise CheckpointError(
            f"cannot save the tokenizer in {folder}: {error}. Free space or choose another folder"
        ) from error
    return digest


def read_facts(folder: Path) -> dict[str, Any]:
    """What `config.json` says (torch-free).

    Raises:
        CheckpointError: if it is missing, damaged or of a later format.
    """
    path = Path(folder) / CONFIG_FILE
    try:
        facts = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is not a saved tokenizer: it has no {CONFIG_FILE}. "
            "Train one with `fourm train-tokenizer`, or correct the path"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Save the tokenizer again") from None
    if not isinstance(facts, dict) or not {"format", "kind", "hash", "modality", "config"} <= facts.keys():
        raise CheckpointError(
            f"{path} is not the config of a tokenizer: it needs format, kind, hash, modality and config"
        )
    if facts["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {facts['format']}; this version reads {FORMAT}. Update fourm")
    return facts


def read_modality(folder: Path) -> Modality:
    """The raw modality a saved tokenizer encodes."""
    facts = dict(read_facts(folder)["modality"])
    return from_dict(str(facts.pop("name")), facts)


def saved_hash(folder: Path) -> str:
    """The hash of a saved tokenizer, without reading its weights."""
    return str(read_facts(folder)["hash"])


def read_weights(folder: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a saved tokenizer.

    Raises:
        CheckpointError: if the file is missing or damaged.
    """
    from safetensors.torch import load_file

    path = Path(folder) / WEIGHTS_FILE
    try:
        return load_file(path, device=device)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Save the tokenizer again") from error


def _replace(path: Path, write_to: Any) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_to(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
