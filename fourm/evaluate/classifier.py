"""A small convolutional classifier, trained on real pictures only: the judge of generated ones."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import CheckpointError
from fourm.evaluate.caption_configs import ClassifierConfig
from fourm.evaluate.metrics import accuracy
from fourm.rng import torch_seed

_LOG = logging.getLogger(__name__)
Data = tuple[Tensor, Tensor]
"""Images (N, C, H, W) in [0, 1], and their labels (N,), or (N, num_classes) bool where each may have several."""


class Classifier(nn.Module):
    """Four convolutions and a linear layer, for small images.

    Args:
        num_classes: number of classes.
        widths: channels after each of the last three convolutions.
        size: pixels per side; a multiple of 4.
        channels: of the images.
    """

    def __init__(self, num_classes: int, widths: tuple[int, int, int], size: int, channels: int = 1) -> None:
        super().__init__()
        first, second, third = widths
        self.features = nn.Sequential(
            # Large maps of few channels are what a CPU is slow at.
            nn.PixelUnshuffle(2),
            *_layer(4 * channels, first),
            *_layer(first, second, stride=2),
            *_layer(second, third),
            nn.AvgPool2d(2),
        )
        self.head = nn.Linear(third * (size // 8) ** 2, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, num_classes) logits of (B, C, H, W) images in [0, 1]."""
        logits: Tensor = self.head(F.dropout(self.features(images * 2 - 1).flatten(1), 0.2, self.training))
        return logits


def _layer(channels: int, width: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def load_or_train(
    folder: Path, config: ClassifierConfig, num_classes: int, train: Callable[[], Data], test: Data, about: str = ""
) -> Classifier:
    """The classifier of a folder, trained first if there is none of these settings.

    Args:
        folder: where it is kept.
        config: its sizes and training.
        num_classes: number of classes.
        train: called for the training images and labels, only if they are needed.
        test: images and labels to measure it on.
        about: what else it is trained for, such as the names of its classes.

    Raises:
        CheckpointError: if it cannot be written.
    """
    from safetensors.torch import load_file

    channels, size = test[0].shape[1], test[0].shape[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(config.seed, "classifier"))
        model = Classifier(num_classes, config.widths, size, channels).to(memory_format=torch.channels_last)
        key = hashlib.sha256(f"{config} {num_classes} {size} {model}{about}".encode()).hexdigest()
        if _read(folder).get("key") == key:
            model.load_state_dict(load_file(folder / "model.safetensors"))
            return model.eval()
        images, labels = train()
        fit(model, images, labels, config)
    share = accuracy(classify(model, test[0], several=test[1].ndim > 1), test[1])
    _LOG.info("classifier: %.1f %% of the labels of %d real test images", 100 * share, len(test[1]))
    _write(folder, model, {"key": key, "accuracy": share, "num_train": len(labels)})
    return model


def fit(model: Classifier, images: Tensor, labels: Tensor, config: ClassifierConfig) -> None:
    """Train in place: one-cycle learning rate, random mirroring, draws from torch's global generator."""
    from rich.progress import track

    size = min(config.batch_size, len(labels))
    batches = len(labels) // size
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.epochs * batches + 1)
    model.train()
    for step in track(range(config.epochs * batches), "classifier", transient=True):
        if step % batches == 0:
            order = torch.randperm(len(labels))
        rows = order[step % batches * size :][:size]
        batch = images[rows]
        mirrored = torch.where(torch.rand(size, 1, 1, 1) < 0.5, batch.flip(-1), batch)
        loss = _loss(model(mirrored.contiguous(memory_format=torch.channels_last)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim > 1:
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits, labels, label_smoothing=0.05)


@torch.no_grad()
def classify(model: Classifier, images: Tensor, batch_size: int = 500, *, several: bool = False) -> Tensor:
    """(N,) classes of (N, C, H, W) images in [0, 1]; or (N, num_classes) bool where each may have `several`."""
    logits = torch.cat([model(batch) for batch in images.split(batch_size)])
    return logits > 0 if several else logits.argmax(1)


def _read(folder: Path) -> dict[str, object]:
    try:
        facts = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) and (folder / "model.safetensors").is_file() else {}


def _write(folder: Path, model: Classifier, facts: dict[str, object]) -> None:
    """Save the weights, and the facts last: a folder with facts is complete."""
    from safetensors.torch import save_file

    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").unlink(missing_ok=True)
        partial = folder / f".model.{os.getpid()}.partial"
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)
        partial.replace(folder / "model.safetensors")
        partial.write_text(json.dumps(facts, indent=1) + "\n")
        partial.replace(folder / "config.json")
    except Exception as error:  # safetensors raises its own for a full disk
        raise CheckpointError(
            f"cannot save the classifier in {folder}: {error}. Free space, or set `output`"
        ) from error
