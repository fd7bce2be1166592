"""Folders of ours on their way out, and what is written of them in a published layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fourm.convert.published import CONFIG_FILE, MODALITIES_FILE, WEIGHTS_FILE
from fourm.errors import CheckpointError
from fourm.files import publish, replacing


def own_folder(source: Path, what: str) -> Path:
    """The folder of a model or tokenizer: `source`, or `model` in it if this is the output folder of its training.

    Raises:
        CheckpointError: if it is neither; `what` was expected.
    """
    folder = source if (source / CONFIG_FILE).is_file() else source / "model"
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"there is {what} of fourm in {source}")
    return folder


def write_checkpoint(
    out: Path,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    modalities: Mapping[str, Any] | None = None,
) -> str:
    """Write tensors and config as published.

    Args:
        out: a folder, or a `.safetensors` file that carries its config.
        config: as published.
        state: name -> tensor.
        modalities: name -> facts, which a folder holds in addition.

    Returns:
        what was written, in a line for people.

    Raises:
        CheckpointError: if it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    is_file = out.suffix == ".safetensors"
    metadata = {name: str(value) for name, value in config.items()} if is_file else {"format": "pt"}
    try:
        with replacing(out if is_file else out / WEIGHTS_FILE) as path:
            save_file(dict(state), path, metadata=metadata)
        if not is_file and modalities is not None:
            publish(out / MODALITIES_FILE, json.dumps(modalities, indent=1) + "\n")
        if not is_file:
            publish(out / CONFIG_FILE, json.dumps(dict(config), indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {out}: {error}. Free space or choose another place") from error
    return f"{len(state)} tensors, {sum(t.numel() for t in state.values()) / 1e6:.1f} M numbers -> {out}"
