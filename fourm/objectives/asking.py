"""What objectives have in common that ask tokens of a table: counting, scoring, and options by modality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError, DataError, did_you_mean
from fourm.modality import Modality, ModalitySet
from fourm.objectives.base import Loss, Reduction
from fourm.tokens import Example, SpecialIds, target_of

T = TypeVar("T")


class Asking:
    """An objective whose model answers an `Example`.

    Args:
        modalities: those of the model.
        parts: modalities that are asked, each a part of the loss.
        reduction: `mod` is `modality` as it was published.
        weights: modality -> factor of its loss; `*` stands for all others.
        special: special ids of the text vocabulary.
    """

    budget: int
    """Most tokens of a sample."""

    def __init__(
        self,
        modalities: ModalitySet,
        parts: Iterable[str],
        reduction: Literal["token", "modality", "mod", "weighted"],
        weights: Mapping[str, float],
        special: SpecialIds | None,
    ) -> None:
        self.modalities, self.special = modalities, special or SpecialIds()
        self.names, self.parts = tuple(modalities), tuple(parts)
        self.frozen: dict[str, nn.Module] = {}
        self.reduction: Reduction = "modality" if reduction == "mod" else reduction
        self.loss_weights = self._by_modality("modality_weights", weights)

    def check_data(self, train: Mapping[str, Iterable[str]], val: Mapping[str, Iterable[str]]) -> None:
        """See that every data set has something that is asked.

        Args:
            train: data set to train on -> modalities it has.
            val: the same of those to evaluate on.

        Raises:
            ConfigError: naming the one that has not.
        """
        for split, datasets in (("train", train), ("val", val)):
            for name, modalities in datasets.items():
                if not set(modalities) & set(self.parts):
                    raise ConfigError(
                        f"data.{split}.datasets.{name} has {', '.join(modalities)}, none of which is predicted; those "
                        f"that are: {', '.join(self.parts)}"
                    )

    def for_dataset(self, name: str) -> Asking:
        """The same objective as a data set trains it, where that makes a difference."""
        return self

    def prepare(self, sample: Any, rng: np.random.Generator) -> Any:
        """One training item from one sample; pure, runs in loader workers."""
        raise NotImplementedError

    def collate(self, items: Any) -> Example:
        """A batch of prepared samples."""
        raise NotImplementedError

    def counts(self, batch: Example) -> dict[str, float]:
        """Predicted tokens per modality."""
        return {name: float(count) for name, count in batch.decoder.num_targets.items()}

    def num_tokens(self, batch: Example) -> int:
        """Tokens of the batch by the largest budget of a sample, as published schedules count.

        Samples of smaller budgets or with less content count the same.
        """
        return batch.decoder.num_samples * self.budget

    def loss(self, model: nn.Module, batch: Example) -> Loss:
        """The scores of the model's answers."""
        return self.score(model(batch, cross_entropy=True), batch)

    def score(self, answers: Mapping[str, Tensor], batch: Example) -> Loss:
        """Cross-entropy of the asked ids, squared error of the asked vectors, part by part.

        Args:
            answers: logits, or the cross-entropy itself, and vectors, as the model gives them.
            batch: what was asked.
        """
        counts = batch.decoder.num_targets
        parts = {}
        for name in self.parts:
            made = target_of(name)  # by the model itself
            targets = answers[made].float() if made in answers else batch.decoder.targets(name)
            parts[name] = self._error(name, answers[name].float(), targets), float(counts[name])
        return Loss(parts, self.reduction, self.loss_weights)

    def _error(self, name: str, answers: Tensor, targets: Tensor) -> Tensor:
        """Sum over the tokens of one modality; of vectors, the mean over their numbers."""
        if self.modalities[name].is_discrete:
            return answers.sum() if answers.ndim == 1 else F.cross_entropy(answers, targets, reduction="sum")
        return (answers - targets).square().mean(-1).sum()

    def _by_modality(self, key: str, mapping: Mapping[str, T]) -> dict[str, T]:
        """A mapping of the config with `*` filled in for all modalities it does not name."""
        for name in mapping:
            if name != "*" and name not in self.modalities:
                raise ConfigError(
                    f"objective.{key}: '{name}' is not a modality of this recipe.{did_you_mean(name, self.modalities)}"
                )
        rest = dict.fromkeys(self.names, mapping["*"]) if "*" in mapping else {}
        return {**rest, **{name: value for name, value in mapping.items() if name != "*"}}


def _are_ids(modality: Modality, ids: np.ndarray) -> bool:
    # Read as unsigned, negative numbers are larger than every vocabulary: one pass finds both.
    return not len(ids) or bool(ids.view(np.uint64).max() < modality.vocab_size)


def check_vocabulary(modality: Modality, ids: np.ndarray) -> None:
    """See that the ids of a sample are ones of its modality.

    Raises:
        DataError: naming the first that is not.
    """
    if not _are_ids(modality, ids):
        wrong = ids[(ids < 0) | (ids >= modality.vocab_size)]
        raise DataError(
            f"modality '{modality.name}': token {int(wrong[0])} is outside its vocabulary of {modality.vocab_size}; "
            "was it made with another tokenizer? Run `fourm tokenize` again or correct vocab_size"
        )


def grid_ids(modality: Modality, value: Any) -> np.ndarray:
    """(n,) int64 ids of a grid, row by row, -1 where there is none.

    Raises:
        DataError: if they are of another grid, or outside the vocabulary.
    """
    ids = np.asarray(value, np.int64).reshape(-1)
    if len(ids) != modality.num_tokens:
        raise DataError(f"modality '{modality.name}': a sample has {len(ids)} tokens; expected {modality.num_tokens}")
    if not _are_ids(modality, ids):
        check_vocabulary(modality, ids[ids != -1])
    return ids


def vectors_of(modality: Modality, value: np.ndarray) -> np.ndarray:
    """(length, dim) vectors of a sequence.

    Raises:
        DataError: if they are of another shape.
    """
    dim = getattr(modality.content, "dim", 0)
    if value.ndim != 2 or value.shape[1] != dim:
        raise DataError(f"modality '{modality.name}': a sample has shape {value.shape}; expected (length, {dim})")
    return value
