"""Tell what belongs together from all else in the batch (CLIP, Radford et al. 2021; SigLIP, Zhai et al. 2023)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import ConfigError, DataError, did_you_mean
from fourm.modality import Modality, ModalitySet
from fourm.nn.precision import full_precision
from fourm.nn.ranks import gather_over_ranks, rank_and_world_size
from fourm.objectives.asking import check_vocabulary, grid_ids, vectors_of
from fourm.objectives.base import Loss
from fourm.objectives.contrastive_config import ContrastiveObjectiveConfig
from fourm.objectives.spans import leading_chunks
from fourm.tokens import PADDING, SpecialIds

Sample = Mapping[str, Any]
_NEVER = -1e9
"""Logit of what is no sample of a pair, whose probability is 0 then."""


@dataclass(frozen=True)
class Sides:
    """The samples of a batch, modality by modality.

    Args:
        inputs: modality -> (n, C, H, W) images, (n, P) ids, -1 at the end of shorter texts, or (n, P, d) vectors.
        valid: modality of vectors -> (n, P) bool, False on padding.
        rows: modality -> (n,) int64, the samples that have it.
        present: modality -> (B,) bool, which samples these are.
        texts: modality of texts -> (B,) int64, equal where texts are equal.
        num_pairs: part of the loss -> samples that have both sides, known on the host.
        num_samples: B.
    """

    inputs: dict[str, Tensor]
    valid: dict[str, Tensor]
    rows: dict[str, Tensor]
    present: dict[str, Tensor]
    texts: dict[str, Tensor]
    num_pairs: dict[str, int]
    num_samples: int

    def __len__(self) -> int:
        return self.num_samples

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Sides:
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Sides:
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Sides:
        mapped: dict[str, Any] = {
            name: {key: function(tensor) for key, tensor in getattr(self, name).items()}
            for name in ("inputs", "valid", "rows", "present", "texts")
        }
        return replace(self, **mapped)


class _Columns(NamedTuple):
    """Samples and their modalities.

    Args:
        vectors: (n, M, dim), zero where a sample lacks a modality.
        present: (n, M) int64, 1 where it has it.
        texts: (n, M) int64, equal where texts are equal; 0: nothing is known.
    """

    vectors: Tensor
    present: Tensor
    texts: Tensor

    def of(self, modalities: list[int]) -> _Columns:
        """Some of the modalities."""
        return _Columns(*(column[:, modalities] for column in self))


class ContrastiveObjective:
    """The objective of CLIP, between any modalities.

    A sample maps modalities to values as for `Masked`. Texts are cut so that their end token stays.

    Args:
        config: what is compared.
        modalities: those of the model.
        special: special ids of the text vocabulary.

    Raises:
        ConfigError: if pairs name other modalities, or a modality is in none.
    """

    def __init__(
        self, config: ContrastiveObjectiveConfig, modalities: ModalitySet, special: SpecialIds | None = None
    ) -> None:
        self.config, self.modalities, self.special = config, modalities, special or SpecialIds()
        named = list(dict.fromkeys(name for pair in config.pairs for name in pair))
        for name in (*named, *modalities):
            if name not in modalities:
                raise ConfigError(
                    f"objective.pairs: '{name}' is not a modality of this recipe.{did_you_mean(name, modalities)}"
                )
            if name not in named:
                raise ConfigError(f"objective.pairs: '{name}' is compared with nothing: name it, or leave it out")
        self.pairs = {f"{a}~{b}": (a, b) for a, b in config.pairs}
        self.parts = tuple(self.pairs)
        self.weights = {part: config.weights.get(n, 1.0) for n, part in enumerate(self.parts)}
        self.frozen: dict[str, nn.Module] = {}
        self.tokens_per_sample = sum(m.num_tokens for m in modalities.values())

    def check_data(self, train: Mapping[str, Iterable[str]], val: Mapping[str, Iterable[str]]) -> None:
        """See that every data set has both sides of some pair.

        Raises:
            ConfigError: naming the one that has not.
        """
        for split, datasets in (("train", train), ("val", val)):
            for name, modalities in datasets.items():
                if not any({a, b} <= set(modalities) for a, b in self.pairs.values()):
                    raise ConfigError(
                        f"data.{split}.datasets.{name} has {', '.join(modalities)}, not both sides of a pair; "
                        f"objective.pairs compares {', '.join(self.parts)}"
                    )

    def prepare(self, sample: Sample, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Modality -> what its tower reads.

        Raises:
            DataError: if the sample does not fit the modalities.
        """
        return {name: self._value(m, sample[name]) for name, m in self.modalities.items() if name in sample}

    def collate(self, items: Sequence[Mapping[str, np.ndarray]]) -> Sides:
        """Stack samples; sequences are padded to the longest."""
        inputs, valid, rows, present, texts = {}, {}, {}, {}, {}
        for name, m in self.modalities.items():
            having = [i for i, item in enumerate(items) if name in item]
            values = [items[i][name] for i in having]
            is_text = m.is_discrete and not m.is_grid
            if not m.is_discrete and not m.is_grid and not m.is_slots:
                lengths = torch.tensor([len(value) for value in values], dtype=torch.int64)
                longest = max([len(value) for value in values], default=1)
                valid[name] = torch.arange(longest) < lengths[:, None]
            inputs[name] = torch.from_numpy(_padded(values, m))
            rows[name] = torch.tensor(having, dtype=torch.int64)
            present[name] = torch.zeros(len(items), dtype=torch.bool).index_fill(0, rows[name], True)
            if is_text and self.config.equal_texts:
                texts[name] = torch.tensor([_digest(item[name]) if name in item else 0 for item in items])
        pairs = {part: sum(a in item and b in item for item in items) for part, (a, b) in self.pairs.items()}
        return Sides(inputs, valid, rows, present, texts, pairs, len(items))

    def counts(self, batch: Sides) -> dict[str, float]:
        """Samples that have both sides of a pair."""
        return {part: float(count) for part, count in batch.num_pairs.items()}

    def num_tokens(self, batch: Sides) -> int:
        """Tokens of the batch, each modality at its longest."""
        return len(batch) * self.tokens_per_sample

    def loss(self, model: nn.Module, batch: Sides) -> Loss:
        """The scores of this rank's samples, beside those of all ranks while the model is in training mode.

        Otherwise beside those of the batch alone: in evaluation ranks have as many batches as there are samples left.
        """
        network: Any = model
        own = everyone = self._columns(network(batch.inputs, batch.valid), batch)
        first = 0
        if model.training:
            everyone = _Columns(*map(gather_over_ranks, own))
            first = rank_and_world_size()[0] * len(batch)
        scale, bias = network.scale(), network.logit_bias
        parts = {}
        with full_precision(own.vectors.device):
            for part, (a, b) in self.pairs.items():
                chosen = [list(self.modalities).index(a), list(self.modalities).index(b)]
                ours, theirs = own.of(chosen), everyone.of(chosen)
                total = self.score(ours.vectors, theirs.vectors, scale, bias, *fitting(ours, theirs, first))
                parts[part] = total, float(batch.num_pairs[part])
        return Loss(parts, "weighted", self.weights)

    def score(
        self, own: Tensor, everyone: Tensor, scale: Tensor, bias: Tensor | None, fits: Tensor, there: Tensor
    ) -> Tensor:
        """Sum over the pairs of this rank.

        Args:
            own: (B, 2, dim) vectors of unit length, of both sides.
            everyone: (N, 2, dim) those of all ranks.
            scale, bias: (1,) of the cosines.
            fits: (B, N) bool, what fits each sample, from either side.
            there: (B, N) bool, what it is compared with; none for samples that lack a side.
        """
        forth = scale * own[:, 0] @ everyone[:, 1].T
        if self.config.loss == "sigmoid":
            logits = forth if bias is None else forth + bias
            return (-F.logsigmoid(torch.where(fits, logits, -logits)) * there).sum()
        back = scale * own[:, 1] @ everyone[:, 0].T
        return (find(forth, fits, there) + find(back, fits, there)) / 2

    def _columns(self, vectors: Mapping[str, Tensor], batch: Sides) -> _Columns:
        """What there is of each sample."""
        made, texts = [], []
        for name in self.modalities:
            rows, values = batch.rows[name], vectors[name]
            made.append(values.new_zeros(len(batch), values.shape[1]).index_copy(0, rows, values))
            texts.append(batch.texts.get(name, torch.zeros_like(batch.present[name], dtype=torch.int64)))
        present = [batch.present[name].long() for name in self.modalities]
        return _Columns(torch.stack(made, 1), torch.stack(present, 1), torch.stack(texts, 1))

    def _value(self, m: Modality, value: Any) -> np.ndarray:
        if not m.is_discrete and (m.is_grid or m.is_slots):
            image = np.asarray(value, np.float32)
            expected = (m.channels or 1, *m.image_size)
            if image.shape != expected:
                raise DataError(f"modality '{m.name}': an image has shape {image.shape}; expected {expected}")
            return image
        if not m.is_discrete:
            return np.asarray(vectors_of(m, value)[: m.num_tokens], np.float32)
        if m.is_grid:
            ids = grid_ids(m, value)
            if len(ids) and ids.min() == PADDING:
                raise DataError(f"modality '{m.name}': a sample has places without a token, which no tower reads")
            return ids
        chunks = [np.asarray(chunk, np.int64) for chunk in value] if m.unit == "chunk" else None
        ids = (
            np.asarray(value, np.int64)
            if chunks is None
            else np.concatenate([np.zeros(0, np.int64), *leading_chunks(chunks, m.num_tokens - 1)])
        )
        ids = np.append(ids[: m.num_tokens - 1], self.special.end)
        check_vocabulary(m, ids)
        return ids


def fitting(own: _Columns, everyone: _Columns, first: int) -> tuple[Tensor, Tensor]:
    """Which of all samples fit each sample of this rank, and which it is compared with: two times (B, N) bool.

    A sample fits itself, and those with the same text.

    Args:
        own: (B, 2, ...) the samples of this rank.
        everyone: (N, 2, ...) those of all ranks.
        first: place of this rank's first sample among all.
    """
    there = own.present.bool().all(1)[:, None] & everyone.present.bool().all(1)
    places = torch.arange(there.shape[1], device=there.device)
    same = (own.texts[:, None] == everyone.texts) & (own.texts[:, None] != 0)
    fits = same.any(2) | (places[: there.shape[0], None] + first == places)
    return fits & there, there


def find(logits: Tensor, fits: Tensor, there: Tensor) -> Tensor:
    """Cross-entropy of finding what fits, summed over rows; where several fit, each is asked for to the same share.

    Args:
        logits: (B, N).
        fits: (B, N) bool.
        there: (B, N) bool, what there is to choose from; rows without any are left out.
    """
    surprise = -torch.where(there, logits, _NEVER).log_softmax(1)
    share = fits.to(logits.dtype)
    return (surprise * share / share.sum(1, keepdim=True).clamp(min=1)).sum()


def _padded(values: Sequence[np.ndarray], m: Modality) -> np.ndarray:
    """All samples in one array; of no sample, an empty one of the right form."""
    if not m.is_discrete and (m.is_grid or m.is_slots):
        return np.stack(values) if values else np.zeros((0, m.channels or 1, *m.image_size), np.float32)
    longest = max([len(value) for value in values], default=m.num_tokens if m.is_grid else 1)
    if m.is_discrete:
        ids = np.full((len(values), longest), PADDING, np.int64)
        for row, value in zip(ids, values):
            row[: len(value)] = value
        return ids
    vectors = np.zeros((len(values), longest, getattr(m.content, "dim", 0)), np.float32)
    for row, value in zip(vectors, values):
        row[: len(value)] = value
    return vectors


def _digest(ids: np.ndarray) -> int:
    """A number that equal texts share, and different ones practically never."""
    return int.from_bytes(hashlib.blake2b(ids.tobytes(), digest_size=8).digest(), "little", signed=True)
