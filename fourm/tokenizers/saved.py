"""The folder of a saved tokenizer: `model.safetensors` and `config.json` with its kind, modality, config and hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourm.errors import CheckpointError
from fourm.files import publish, replacing
from fourm.modality import Modality, from_dict, to_dict

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def digest(facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """sha256 over JSON-able facts and tensors.

    Returns:
        64 hexadecimal digits, the same on every machine.
    """
    import torch

    found = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        found.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def modality_facts(modality: Modality) -> dict[str, Any]:
    """A modality as JSON."""
    return {"name": modality.name, **to_dict(modality)}


def write(
    folder: Path,
    kind: str,
    modality: Modality,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    *,
    token_hash: str,
) -> str:
    """Save a tokenizer; `config.json` is written last, so a folder with it is complete.

    Args:
        folder: where to.
        kind: of the tokenizer.
        modality: the raw modality.
        config: of its networks.
        state: weights.
        token_hash: what decides the tokens, in one number.

    Returns:
        `token_hash`.

    Raises:
        CheckpointError: if the folder cannot be written or the disk is full.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    facts = {
        "format": FORMAT,
        "kind": kind,
        "hash": token_hash,
        "weights": digest({}, state),
        "modality": modality_facts(modality),
        "config": dict(config),
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        with replacing(folder / WEIGHTS_FILE) as path:
            save_file(weights, path)
        publish(folder / CONFIG_FILE, json.dumps(facts, indent=1) + "\n")
    except Exception as error:
        raise CheckpointError(
            f"cannot save the tokenizer in {folder}: {error}. Free space or choose another folder"
        ) from error
    return token_hash


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
    needed = {"format", "kind", "hash", "modality", "config"}
    if not isinstance(facts, dict) or not needed <= facts.keys():
        raise CheckpointError(
            f"{path} is not the config of a tokenizer: it needs format, kind, hash, modality and config"
        )
    if facts["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {facts['format']}; this version reads {FORMAT}. Use the fourm it was made with"
        )
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
        CheckpointError: if the file is missing, damaged, or not the one that `config.json` was written for.
    """
    from safetensors.torch import load_file

    path = Path(folder) / WEIGHTS_FILE
    try:
        state = load_file(path, device=device)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Save the tokenizer again") from error
    found, expected = digest({}, state), str(read_facts(folder).get("weights"))
    if found != expected:
        raise CheckpointError(
            f"{folder}: {WEIGHTS_FILE} and {CONFIG_FILE} do not belong together (weights {found[:12]}, expected "
            f"{expected[:12]}): copy or save the tokenizer again"
        )
    return state
