"""Probes of AIM's trunks on Fashion-MNIST in one process: tokens of a trunk that stays are computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.prepare.fashion import read_idx
from fourm.rng import generator
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig
from fourm.transfer.head_configs import AttentiveConfig
from fourm.transfer.maps import Tokens
from fourm.transfer.network import TransferNetwork

NAME = "image@28"


class Photographs(NamedTuple):
    """Args:
    train, test: (n, 1, 28, 28), normalised.
    train_labels, test_labels: (n,) classes.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def photographs(folder: Path, num_train: int, num_test: int) -> Photographs:
    """The first ones of each split."""
    found = []
    for name, number in (("train", num_train), ("t10k", num_test)):
        pixels = read_idx(folder, f"{name}-images-idx3-ubyte", 3)[:number, None]
        labels = read_idx(folder, f"{name}-labels-idx1-ubyte", 1)[:number]
        found += [torch.from_numpy(pixels / np.float32(127.5) - 1), torch.from_numpy(labels.astype(np.int64))]
    return Photographs(*found)


@torch.no_grad()
def tokens(model: Any, images: Tensor, average_layers: list[int] | None = None, causal: bool = False) -> Tensor:
    """(n, N, dim) what a trunk makes of images.

    Args:
        model: whose trunk it is.
        images: (n, C, H, W), normalised.
        average_layers: blocks whose outputs are averaged; None: the normalised output of the last.
        causal: each patch sees those before it, instead of all.
    """
    names = [m.name for m in model.modalities.inputs]
    backbone = Backbone.from_model(model, BackboneConfig(names, average_layers=average_layers)).eval()
    parts = [(part, torch.ones(len(part), dtype=torch.int64) if causal else None) for part in images.split(250)]
    return torch.cat([backbone.forward_features(part, None, prefix) for part, prefix in parts])


def linear(model: Any, data: Photographs, causal: bool = False) -> float:
    """Accuracy of ridge regression on the mean token."""
    train, test = (tokens(model, images, causal=causal).mean(1) for images in (data.train, data.test))
    return _share(ridge(train, F.one_hot(data.train_labels), test), data.test_labels)


def ridge(train: Tensor, wanted: Tensor, test: Tensor) -> Tensor:
    """(m, k) what ridge regression of (n, k) answers on (n, d) features says of (m, d) others."""
    train, test = train.double(), test.double()
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    train, test = (F.pad((x - mean) / deviation, (0, 1), value=1.0) for x in (train, test))
    gram = train.T @ train + 10 * torch.eye(train.shape[1]).double()
    return test @ torch.linalg.solve(gram, train.T @ wanted.double())


def single(model: Any, data: Photographs, average_layers: list[int], causal: bool = False) -> dict[str, float]:
    """Accuracy of ridge regression on one token alone, with a probe for each place.

    Returns:
        `early`: mean over the first half of the places, which see little if they see what comes before them; `late`:
        over the second half.
    """
    train, test = (tokens(model, images, average_layers, causal) for images in (data.train, data.test))
    wanted = F.one_hot(data.train_labels)
    shares = [_share(ridge(train[:, n], wanted, test[:, n]), data.test_labels) for n in range(train.shape[1])]
    half = len(shares) // 2
    return {"early": sum(shares[:half]) / half, "late": sum(shares[half:]) / (len(shares) - half)}


def attentive(model: Any, data: Photographs, average_layers: list[int], steps: int = 500, seed: int = 0) -> float:
    """Accuracy of AIM's probe, trained with 128 photographs a step."""
    network = TransferNetwork(
        Backbone.from_model(model, BackboneConfig([NAME])), AttentiveConfig(None, 1, "aim"), 10, False, seed
    )
    head, stored = network.head, _Stored()
    train, test = (tokens(model, images, average_layers) for images in (data.train, data.test))
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        chosen = torch.from_numpy(generator(seed, "probe", step).integers(0, len(train), 128))
        optimizer.zero_grad()
        F.cross_entropy(head(stored, train[chosen], None), data.train_labels[chosen]).backward()
        optimizer.step()
    head.eval()
    with torch.no_grad():
        return _share(torch.cat([head(stored, part, None) for part in test.split(500)]), data.test_labels)


class _Stored:
    """Stands for a trunk whose tokens are known."""

    def embed(self, inputs: Tensor, present: None) -> Tokens:
        return Tokens(inputs, None, {})

    def encode(self, table: Tokens) -> Tensor:
        return table.x


def _share(answers: Tensor, labels: Tensor) -> float:
    return (answers.argmax(1) == labels).double().mean().item()
