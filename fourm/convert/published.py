"""A published checkpoint (4M, or the tokenizer of LVM): its config, and its tensors, read one at a time."""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourm.errors import CheckpointError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
PICKLED_WEIGHTS = "pytorch_model.bin"
"""The same in older repositories; read as plain tensors."""
INDEX_FILE = "model.safetensors.index.json"
"""Of weights that are in several files."""
MODALITIES_FILE = "modalities.json"
"""In folders that fourm exported: the facts of modalities, which the public code has in a table of its own."""
_LONGEST_VALUE = 10_000
_DOWNLOADED = ["*.json", "*.safetensors", PICKLED_WEIGHTS, "tokenizers/*", "published/*"]
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_STRANGERS = {
    "heads.weight": "a model of fourm: give the folder that holds it, with its config.json",
    "quantizer.": "a tokenizer of fourm: give the folder that holds it, with its config.json",
    "model.layers.": "a language model of transformers",
    "trunk.blocks.": "AIM, which `fourm convert aim` or `aimv2` reads",
    "down_blocks.": "a U-Net of diffusers",
    "vision_model.": "a vision tower of transformers",
    "patch_embed.": "a vision transformer of timm",
}


@dataclass(frozen=True)
class Published:
    """A published checkpoint.

    Args:
        source: where it came from, as it was given.
        config: flat, as published; empty where the file has none.
        tensors: name -> tensor; each is read when it is asked for.
        modalities: name -> facts, which folders that fourm exported hold in addition.
    """

    source: str
    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    modalities: dict[str, Any] = field(default_factory=dict)

    @property
    def is_transformer(self) -> bool:
        return any(key.startswith(("encoder_embeddings.", "decoder_embeddings.")) for key in self.tensors)

    @property
    def is_tokenizer(self) -> bool:
        return any(key.startswith("quantize.") for key in self.tensors)

    @property
    def is_vqgan(self) -> bool:
        """Whether it is LVM's tokenizer, not one of 4M's."""
        return self.is_tokenizer and any(key.startswith("quant_conv.") for key in self.tensors)


def open_published(source: str | Path) -> Published:
    """Find a checkpoint: a folder with `config.json` and `model.safetensors`, one `.safetensors` file with its config
    in the metadata, a `.pth` file of a training, or the id of a repository on the Hugging Face Hub.

    Raises:
        CheckpointError: if there is none, if it is damaged, or if it is of another kind; the message says what was
            found and what it looks like.
    """
    found = open_checkpoint(source)
    if not (found.is_transformer or found.is_tokenizer):
        raise CheckpointError(f"{source} is not a published 4M checkpoint or tokenizer of LVM. {_what(found.tensors)}")
    return found


def open_checkpoint(source: str | Path) -> Published:
    """A checkpoint of any kind; see `open_published`.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    path = Path(source)
    if not path.exists() and is_hub_id(source):
        path = download(str(source))
    if path.is_dir():
        found = _open_folder(path, str(source))
    elif path.suffix == ".safetensors":
        tensors = SafetensorsState(path)
        found = Published(str(source), _parse_metadata(path, tensors.metadata), tensors)
    elif path.suffix in (".pth", ".pt", ".bin"):
        found = _open_pickle(path, str(source))
    else:
        state = "is of none of these forms" if path.exists() else "does not exist"
        raise CheckpointError(
            f"{source} {state}: a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, a .safetensors file, a .pth file, or a "
            "repository on the Hub such as EPFL-VILAB/4M-7_B_CC12M"
        )
    return found


def is_hub_id(source: str | Path) -> bool:
    """Whether something could be the id of a repository on the Hub: ORGANISATION/NAME."""
    return bool(_HUB_ID.fullmatch(str(source))) and Path(source).suffix not in (".safetensors", ".pth", ".pt")


def local_folder(source: str | Path) -> Path:
    """A path, or where a repository on the Hub was downloaded to."""
    path = Path(source)
    return download(str(source)) if not path.exists() and is_hub_id(source) else path


def download(repository: str) -> Path:
    """The folder of a repository on the Hub: what it holds of configs, weights and tokenizers.

    Raises:
        CheckpointError: if the Hub does not give it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=_DOWNLOADED))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"there is no '{repository}' here, and the Hub does not give it: {first}. Correct the path or id; where "
            "there is no network, download the repository elsewhere and give its folder"
        ) from None


class SafetensorsState(Mapping[str, Tensor]):
    """The tensors of a file, mapped into memory one at a time, so that what was read does not stay there.

    Args:
        path: the file.

    Raises:
        CheckpointError: if it is no complete safetensors file.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                self._names = dict.fromkeys(file.keys())
                self.metadata: dict[str, str] = dict(file.metadata() or {})
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not a complete safetensors file: {error}. It has {_size(path)}; download or copy it again"
            ) from None

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import safe_open

        if name not in self._names:
            raise KeyError(name)
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(name)
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _open_folder(path: Path, source: str) -> Published:
    if not (path / WEIGHTS_FILE).exists() and all((path / n).is_file() for n in (CONFIG_FILE, PICKLED_WEIGHTS)):
        return replace(_open_pickle(path / PICKLED_WEIGHTS, source), config=read_table(path / CONFIG_FILE))
    if (path / INDEX_FILE).is_file() and (path / CONFIG_FILE).is_file():
        return Published(source, read_table(path / CONFIG_FILE), _in_parts(path))
    for needed in (CONFIG_FILE, WEIGHTS_FILE):
        if not (path / needed).is_file():
            held = sorted(entry.name for entry in path.iterdir())[:8]
            raise CheckpointError(
                f"{path} has no {needed}; it holds {', '.join(held) or 'nothing'}. A published checkpoint is a folder "
                f"with {CONFIG_FILE} and {WEIGHTS_FILE}"
            )
    modalities = read_table(path / MODALITIES_FILE) if (path / MODALITIES_FILE).is_file() else {}
    return Published(source, read_table(path / CONFIG_FILE), SafetensorsState(path / WEIGHTS_FILE), modalities)


def _in_parts(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a folder whose weights are in several files.

    Raises:
        CheckpointError: if a part is missing or damaged.
    """
    parts = read_table(path / INDEX_FILE).get("weight_map")
    names = sorted({str(name) for name in parts.values()}) if isinstance(parts, dict) else []
    missing = [name for name in names if Path(name).name != name or not (path / name).is_file()]
    if missing or not names:
        raise CheckpointError(
            f"{path} has no {missing[0] if missing else 'parts'}, which {INDEX_FILE} names; download it again"
        )
    return ChainMap(*(SafetensorsState(path / name) for name in names))  # type: ignore[arg-type]


def read_table(path: Path) -> dict[str, Any]:
    """A json file that holds one table.

    Raises:
        CheckpointError: if it is missing, damaged, or holds something else.
    """
    try:
        table = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}. Download or copy it again") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{path} holds no table of keys and values. Download or copy it again")
    return table


def _parse_metadata(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The config that a single file carries: each value written as Python prints it."""
    config: dict[str, Any] = {}
    for name, text in metadata.items():
        if len(text) > _LONGEST_VALUE:
            raise CheckpointError(
                f"{path}: its metadata '{name}' has {len(text):,} characters; expected a config, whose values have at "
                f"most {_LONGEST_VALUE:,}"
            )
        try:
            config[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # not a value, but text
            config[name] = text
    return config


def _open_pickle(path: Path, source: str) -> Published:
    """A training checkpoint. Tensors, plain values and the namespace of its arguments are loaded, and no code is."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # damaged and hostile files fail in many ways
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        reason = f"it names {foreign[1]}" if foreign else first.partition(" Re-running")[0]
        raise CheckpointError(
            f"{path} cannot be loaded safely: {reason}. Expected tensors, numbers, texts and an argparse.Namespace, as "
            "the training of the public 4M code writes; objects that would run code are never loaded"
        ) from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds {type(loaded).__name__}; expected a dict with 'model' and 'args'")
    state = loaded.get("model", loaded.get("module", loaded))
    arguments = loaded.get("args") or {}
    config = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    if not isinstance(state, dict) or not isinstance(config, dict):
        raise CheckpointError(
            f"{path} holds 'model' of type {type(state).__name__} and 'args' of type {type(arguments).__name__}; "
            "expected a state dict and a namespace"
        )
    tensors = {str(k).removeprefix("module."): v for k, v in state.items() if isinstance(v, Tensor)}
    return Published(source, dict(config), tensors)


def _is_zip(path: Path) -> bool:
    import zipfile

    return zipfile.is_zipfile(path)


def _what(tensors: Mapping[str, Tensor]) -> str:
    """What a foreign state dict holds, and what it looks like."""
    names = list(tensors)
    like = next((what for prefix, what in _STRANGERS.items() if any(n.startswith(prefix) for n in names)), None)
    return (
        f"Found {len(names)} tensors such as {', '.join(names[:3]) or 'none'}; expected a transformer, with "
        "encoder_embeddings.* and decoder.*, or a tokenizer, with encoder.* and quantize.*."
        + (f" It looks like {like}" if like else "")
    )


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes" if path.exists() else "no bytes"
