"""Probes of AIM's trunks in one process: tokens of a trunk that stays are computed once."""

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
    backbone = _backbone(model, average_layers).eval()
    parts = [(part, torch.ones(len(part), dtype=torch.int64) if causal else None) for part in images.split(250)]
    return torch.cat([backbone.forward_features(part, None, prefix) for part, prefix in parts])


def _backbone(model: Any, average_layers: list[int] | None = None) -> Backbone:
    names = [m.name for m in model.modalities.inputs]
    return Backbone.from_model(model, BackboneConfig(names, average_layers=average_layers))


class Features(NamedTuple):
    """What a trunk makes of photographs.

    Args:
        train, test: (n, N, dim) tokens of the photographs that probes are fitted on, and of those they are tested on.
    """

    train: Tensor
    test: Tensor


def features(model: Any, data: Photographs, average_layers: list[int] | None = None, causal: bool = False) -> Features:
    """`tokens` of both splits."""
    return Features(*(tokens(model, images, average_layers, causal) for images in (data.train, data.test)))


def linear(of: Features, data: Photographs) -> float:
    """Accuracy of ridge regression on the mean token."""
    answers = ridge(of.train.mean(1), F.one_hot(data.train_labels), of.test.mean(1))
    return _share(answers, data.test_labels)


def few(of: Features, data: Photographs, number: int, draws: int = 20) -> float:
    """Accuracy of the linear probe fitted on so few photographs, over many draws of them."""
    train, test, wanted = of.train.mean(1), of.test.mean(1), F.one_hot(data.train_labels, 10)
    shares = []
    for draw in range(draws):
        chosen = torch.from_numpy(generator(0, "few", draw).permutation(len(train))[:number])
        shares.append(_share(ridge(train[chosen], wanted[chosen], test), data.test_labels))
    return sum(shares) / draws


def neighbours(of: Features, data: Photographs, number: int = 20) -> float:
    """Accuracy of the vote of the nearest mean tokens by cosine, centred: nothing is fitted."""
    train, test = of.train.mean(1), of.test.mean(1)
    centre = train.mean(0)
    alike = F.normalize(test - centre, dim=1) @ F.normalize(train - centre, dim=1).T
    votes = F.one_hot(data.train_labels, 10)[alike.topk(number).indices].sum(1)
    return _share(votes, data.test_labels)


def ridge(train: Tensor, wanted: Tensor, test: Tensor) -> Tensor:
    """(m, k) what ridge regression of (n, k) answers on (n, d) features says of (m, d) others."""
    train, test = train.double(), test.double()
    mean, deviation = train.mean(0), train.std(0) + 1e-6
    train, test = (F.pad((x - mean) / deviation, (0, 1), value=1.0) for x in (train, test))
    gram = train.T @ train + 10 * torch.eye(train.shape[1]).double()
    return test @ torch.linalg.solve(gram, train.T @ wanted.double())


def single(of: Features, data: Photographs) -> dict[str, float]:
    """Accuracy of ridge regression on one token alone, with a probe for each place.

    Returns:
        `early`: mean over the first half of the places, which see little if they see what comes before them; `late`:
        over the second half.
    """
    wanted = F.one_hot(data.train_labels)
    answers = [ridge(of.train[:, n], wanted, of.test[:, n]) for n in range(of.train.shape[1])]
    shares = [_share(found, data.test_labels) for found in answers]
    half = len(shares) // 2
    return {"early": sum(shares[:half]) / half, "late": sum(shares[half:]) / (len(shares) - half)}


def attentive(model: Any, of: Features, data: Photographs, steps: int, seed: int = 0) -> float:
    """Accuracy of AIM's probe, trained with 128 photographs a step.

    Args:
        model: whose trunk it is: its width and its heads are those of the probe.
        of: its features.
        data: their classes.
        steps, seed: of training.
    """
    network = TransferNetwork(_backbone(model), AttentiveConfig(None, 1, "aim"), 10, False, seed)
    head, stored = network.head, _Stored()
    optimizer = torch.optim.AdamW(head.parameters(), weight_decay=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / steps)
        chosen = torch.from_numpy(generator(seed, "probe", step).integers(0, len(of.train), 128))
        optimizer.zero_grad()
        F.cross_entropy(head(stored, of.train[chosen], None), data.train_labels[chosen]).backward()
        optimizer.step()
    head.eval()
    with torch.no_grad():
        return _share(torch.cat([head(stored, part, None) for part in of.test.split(500)]), data.test_labels)


class _Stored:
    """Stands for a trunk whose tokens are known."""

    def embed(self, inputs: Tensor, present: None) -> Tokens:
        return Tokens(inputs, None, {})

    def encode(self, table: Tokens) -> Tensor:
        return table.x


def _share(answers: Tensor, labels: Tensor) -> float:
    return (answers.argmax(1) == labels).double().mean().item()
