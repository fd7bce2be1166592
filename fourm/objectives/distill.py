"""Learn from a teacher's answers beside one's own mistakes, around any objective that asks tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError
from fourm.modality import ModalitySet
from fourm.objectives.asking import Asking
from fourm.objectives.base import Loss
from fourm.objectives.distill_config import DistillConfig
from fourm.registry import implementation
from fourm.tokens import Example, SpecialIds


class Distill:
    """The objective `config.of`, with a teacher who answers the same examples.

    Args:
        config: weights and temperature.
        modalities: those of the student.
        special: special ids of the text vocabulary.
        teacher: scores an `Example` as the student does; None: there is nothing to train yet.
        options: of the objective that it is around.

    Raises:
        ConfigError: if the teacher has other modalities than the student, or fewer positions.
    """

    def __init__(
        self,
        config: DistillConfig,
        modalities: ModalitySet,
        special: SpecialIds | None = None,
        *,
        teacher: nn.Module | None = None,
        **options: Any,
    ) -> None:
        self.config, self.modalities = config, modalities
        self.of: Asking = implementation(config.of.target)(config.of, modalities, special, **options)
        self.parts = self.of.parts
        self.frozen: dict[str, nn.Module] = dict(self.of.frozen)
        if teacher is not None:
            theirs: ModalitySet = getattr(teacher, "modalities", modalities)
            _check_modalities(modalities, theirs, self.parts)
            if getattr(getattr(teacher, "config", None), "position_tables", False):
                _check_positions(modalities, theirs)
            self.frozen["teacher"] = teacher

    def check_data(self, train: Mapping[str, Iterable[str]], val: Mapping[str, Iterable[str]]) -> None:
        """See `Asking`."""
        self.of.check_data(train, val)

    def for_dataset(self, name: str) -> Any:
        """What prepares the samples of a data set."""
        return self.of.for_dataset(name)

    def prepare(self, sample: Any, rng: Any) -> Any:
        """One training item from one sample."""
        return self.of.prepare(sample, rng)

    def collate(self, items: Sequence[Any]) -> Example:
        """A batch of prepared samples."""
        return self.of.collate(items)

    def counts(self, batch: Example) -> dict[str, float]:
        """Predicted tokens per modality."""
        return self.of.counts(batch)

    def num_tokens(self, batch: Example) -> int:
        """Tokens of the batch."""
        return self.of.num_tokens(batch)

    def loss(self, model: nn.Module, batch: Example) -> Loss:
        """The objective's own loss and the distance to the teacher, token by token.

        Raises:
            ConfigError: if there is no teacher.
        """
        if "teacher" not in self.frozen:
            raise ConfigError("objective.kind distill has no teacher to learn from: set objective.teacher")
        with torch.no_grad():
            taught = self.frozen["teacher"](batch)
        answers = model(batch)
        own = self.of.score(answers, batch)
        c = self.config
        parts = {
            name: (c.own_weight * total + c.weight * self._distance(name, taught[name], answers[name]), count)
            for name, (total, count) in own.parts.items()
        }
        return replace(own, parts=parts)

    def _distance(self, name: str, taught: Tensor, answers: Tensor) -> Tensor:
        """Sum over the tokens of one modality."""
        taught, answers = taught.float(), answers.float()
        if not self.of.modalities[name].is_discrete:
            return (answers - taught).square().mean(-1).sum()
        return divergence(taught, answers, self.config.temperature, reverse=self.config.reverse).sum()


def divergence(taught: Tensor, answers: Tensor, temperature: float = 1.0, *, reverse: bool = False) -> Tensor:
    """T^2 KL(softmax(taught / T) || softmax(answers / T)), or with the two exchanged.

    The factor keeps gradients as large as those of the loss beside it (Hinton et al. 2015, sec. 2).

    Args:
        taught, answers: (n, V) logits.
        temperature: T.
        reverse: KL(answers || taught).

    Returns:
        (n,).
    """
    p, q = (answers, taught) if reverse else (taught, answers)
    log_p, log_q = ((logits / temperature).log_softmax(-1) for logits in (p, q))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1)


def _check_modalities(ours: ModalitySet, theirs: ModalitySet, parts: Iterable[str]) -> None:
    """See that the numbers and ids of the tables mean the same to both."""
    if list(ours) != list(theirs):
        raise ConfigError(
            f"objective.teacher reads {', '.join(theirs)}, but the model {', '.join(ours)}: they have to be the same, "
            "in the same order"
        )
    for name in parts:
        if ours[name].content != theirs[name].content:
            raise ConfigError(
                f"objective.teacher has {theirs[name].content} for '{name}', but the model {ours[name].content}: train "
                "both with the same tokenizer"
            )


def _check_positions(ours: ModalitySet, theirs: ModalitySet) -> None:
    """See that a teacher with tables of positions has one for each of ours: it would read all others as the first."""
    for name, modality in ours.items():
        own, other = modality.layout.num_positions, theirs[name].layout.num_positions
        if own > other:
            raise ConfigError(
                f"objective.teacher knows {other} positions of '{name}', but the model has {own}: set "
                f"modalities.{name}.layout as the teacher's"
            )
