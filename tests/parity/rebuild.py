"""Published networks on deterministic weights, rebuilt as their files lie on the Hub.

A golden file names every tensor of a network with its shape and kind; a tensor's values follow from its name. With them
come a batch, and what the published implementation computed on it in float32 on a CPU.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDENS = Path(__file__).parent / "goldens"


def angles(count: int, channels: int) -> np.ndarray:
    """(count, 2 * channels) sines, then cosines, of n / 10000^(i / channels)."""
    rate = 10_000.0 ** (-np.arange(channels, dtype=np.float64) / channels)
    phase = np.arange(count, dtype=np.float64)[:, None] * rate
    return np.concatenate([np.sin(phase), np.cos(phase)], axis=1)


def values(key: str, shape: list[int], kind: str) -> Tensor:
    """The tensor of a golden network that is called `key`."""
    name, _, scale = kind.partition(":")
    if name in ("zeros", "ones"):
        return getattr(torch, name)(shape)
    if name == "sincos1d":
        return torch.from_numpy(angles(shape[1], shape[2] // 2).astype(np.float32))[None]
    if name == "sincos2d":
        side, table = round(shape[1] ** 0.5), angles(round(shape[1] ** 0.5), shape[2] // 4)
        rows, columns = np.repeat(table, side, axis=0), np.tile(table, (side, 1))
        return torch.from_numpy(np.concatenate([rows, columns], axis=1).astype(np.float32))[None]
    drawn = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(shape, dtype=np.float32)
    made = {"normal": lambda: drawn * np.float32(scale), "gain": lambda: 1 + drawn * np.float32(scale)}
    return torch.from_numpy(made[name]() if name in made else np.abs(drawn) + 1)


def golden(name: str) -> dict[str, Any]:
    """A golden file."""
    return json.loads((GOLDENS / f"{name}.json").read_text())


def tensors(facts: dict[str, Any]) -> dict[str, Tensor]:
    """The whole state dict of a golden network."""
    found: dict[str, Tensor] = {}
    for key, (shape, kind, *alias) in facts["tensors"].items():
        found[key] = values(alias[0] if alias else key, shape, kind).contiguous()
    return found


def publish(facts: dict[str, Any], folder: Path) -> Path:
    """Write a golden network as the repositories on the Hub are: `config.json` and `model.safetensors`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(facts), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(facts["config"]))
    return folder
