"""Answers of people or instruments as targets: the objective of fine-tuning, for any task on any input modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError, DataError
from fourm.modality import ModalitySet
from fourm.objectives.base import Loss
from fourm.objectives.mix import Mix, mix_pairs
from fourm.objectives.tasks import Task
from fourm.tokens import PADDING


@dataclass(frozen=True)
class Labelled:
    """One sample: its inputs, which of them are shown, its target, and the seed of what is drawn with its neighbour."""

    inputs: Mapping[str, np.ndarray]
    shown: Mapping[str, bool]
    target: np.ndarray
    seed: int


@dataclass(frozen=True)
class LabelledBatch:
    """Inputs and targets.

    Args:
        inputs: modality -> (B, C, H, W) images, (B, n) or (B, h, w) ids.
        present: modality -> (B,) bool, which samples show it; none where all show everything.
        target: (B,) classes, (B, H, W) label maps, or (B, C, H, W) maps in natural units.
        other: (B,) classes of the images that were mixed in, and `share` (B,) of the first ones; None: no mixing.
        num_scored: what the sum of the loss is divided by, known on the host.
    """

    inputs: dict[str, Tensor]
    present: dict[str, Tensor]
    target: Tensor
    num_scored: int
    other: Tensor | None = None
    share: Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LabelledBatch:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> LabelledBatch:
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Any) -> LabelledBatch:
        return replace(
            self,
            inputs={name: function(value) for name, value in self.inputs.items()},
            present={name: function(value) for name, value in self.present.items()},
            target=function(self.target),
            other=None if self.other is None else function(self.other),
            share=None if self.share is None else function(self.share),
        )


@dataclass
class Supervised:
    """Scores a network that answers a task.

    Args:
        task: what is asked.
        inputs: what is shown.
        modality_dropout: probability of hiding each input of a sample; one always stays.
        hidden: inputs that are never shown, to evaluate without them.
        mix: how images are mixed; None: not at all.
        frozen: `predictor` makes further inputs of those that are given, before the network sees them.

    Raises:
        ConfigError: if the inputs cannot be hidden or mixed so.
    """

    task: Task
    inputs: ModalitySet
    modality_dropout: float = 0.0
    hidden: tuple[str, ...] = ()
    mix: Mix | None = None
    frozen: dict[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts: tuple[str, ...] = (self.task.name,)
        self.tokens_per_sample = sum(m.num_tokens for m in self.inputs.values())
        if not set(self.inputs) - set(self.hidden):
            raise ConfigError(f"all inputs are hidden: {', '.join(self.hidden)}; leave one of them to be seen")
        if self.mix is not None and (self.task.is_dense or any(m.is_discrete for m in self.inputs.values())):
            raise ConfigError(
                "objective.mixup and cutmix blend images: set them to 0 for inputs that are token ids, and for "
                "answers of every pixel"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Loader processes prepare samples; the networks stay where the training is."""
        return {**self.__dict__, "frozen": {}}

    def for_evaluation(self, hidden: Sequence[str] = ()) -> Supervised:
        """The same task without mixing and hiding, but for the inputs `hidden`."""
        return replace(self, modality_dropout=0.0, mix=None, hidden=tuple(hidden))

    def prepare(self, sample: Mapping[str, Any], rng: np.random.Generator) -> Labelled:
        """Inputs and target of one sample."""
        names = [*self.inputs, self.task.modality.name]
        missing = [name for name in names if name not in sample]
        if missing:
            raise DataError(f"a sample has no '{missing[0]}'; it has {', '.join(sample) or 'nothing'}")
        shown = {name: name not in self.hidden for name in self.inputs}
        if self.modality_dropout:
            kept = rng.random(len(shown)) >= self.modality_dropout
            kept[int(rng.integers(len(shown)))] |= not kept.any()
            shown = dict(zip(shown, kept.tolist()))
        inputs = {name: np.asarray(sample[name]) for name in self.inputs}
        return Labelled(inputs, shown, np.asarray(sample[names[-1]]), int(rng.integers(1 << 62)))

    def collate(self, items: Sequence[Labelled]) -> LabelledBatch:
        """Stack samples; texts are padded to the longest."""
        inputs = {name: torch.from_numpy(_stack([item.inputs[name] for item in items], name)) for name in self.inputs}
        present = {name: torch.tensor([item.shown[name] for item in items]) for name in self.inputs}
        if all(bool(there.all()) for there in present.values()):
            present = {}
        target = torch.from_numpy(_stack([item.target for item in items], self.task.modality.name))
        scored = sum(self.task.scored(item.target) for item in items)
        if self.mix is None:
            return LabelledBatch(inputs, present, target, scored)
        mixed, partner, share = mix_pairs(inputs, [item.seed for item in items], self.mix)
        return LabelledBatch(mixed, present, target, scored, target[partner], share)

    def counts(self, batch: LabelledBatch) -> dict[str, float]:
        """What is scored."""
        return {self.task.name: float(batch.num_scored)}

    def num_tokens(self, batch: LabelledBatch) -> int:
        """Tokens of the inputs."""
        return len(batch) * self.tokens_per_sample

    def complete(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs, with those that are predicted from them."""
        predictor = self.frozen.get("predictor")
        return inputs if predictor is None else predictor(inputs)

    def output(self, model: nn.Module, batch: LabelledBatch) -> Tensor:
        """The network's output, dense ones enlarged to the size of the target."""
        output: Tensor = model(self.complete(batch.inputs), batch.present or None)
        size = batch.target.shape[-2:]
        if self.task.is_dense and output.shape[-2:] != size:
            output = F.interpolate(output.float(), size=size, mode="bilinear", align_corners=False)
        return output

    def loss(self, model: nn.Module, batch: LabelledBatch) -> Loss:
        """Mean over what is scored."""
        return self.score(self.output(model, batch), batch)

    def score(self, output: Tensor, batch: LabelledBatch) -> Loss:
        """The loss of an output."""
        losses = self.task.loss(output, batch.target)
        if batch.other is not None and batch.share is not None:
            losses = losses * batch.share + self.task.loss(output, batch.other) * (1 - batch.share)
        return Loss({self.task.name: (losses.sum(), float(batch.num_scored))})


def _stack(values: Sequence[np.ndarray], name: str) -> np.ndarray:
    """Arrays of one shape in one, or rows of integers padded with -1."""
    if len({value.shape for value in values}) == 1:
        return np.stack(values)
    if any(value.ndim != 1 or not np.issubdtype(value.dtype, np.integer) for value in values):
        shapes = sorted({value.shape for value in values})
        raise DataError(
            f"samples of '{name}' differ in shape: {shapes[0]} and {shapes[1]}; take one size, or batches of 1"
        )
    longest = max(len(value) for value in values)
    return np.stack([np.pad(value, (0, longest - len(value)), constant_values=PADDING) for value in values])
