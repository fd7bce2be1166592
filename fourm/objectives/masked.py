"""Predict masked target tokens from visible input tokens, any modality from any (4M, Mizrahi et al. 2023, sec. 2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.nn import functional as F

from fourm.errors import ConfigError, DataError, did_you_mean
from fourm.modality import Continuous, Modality, ModalitySet
from fourm.objectives.base import Loss
from fourm.objectives.budget import dirichlet_budget, draw_total
from fourm.objectives.configs import MaskComponent, MaskedConfig
from fourm.objectives.spans import draw_span_mask, fit_target
from fourm.tokens import PADDING, Example, SpecialIds, TokenRow, collate

Sample = Mapping[str, Any]


@dataclass(frozen=True)
class _Component:
    """A `MaskComponent` as arrays over the modality set."""

    config: MaskComponent
    input_alphas: np.ndarray
    target_alphas: np.ndarray
    minimum: np.ndarray


class Masked:
    """The objective of 4M.

    A sample maps modalities to what the data hands over: grids of ids as (n,) or (h, w), images as (C, H, W)
    normalised, sequences as (L,) ids without end token or as a list of chunks, sequences of vectors as (L, dim).
    Modalities may be missing.

    Args:
        config: budgets and mixture.
        modalities: those of the model.
        special: special ids of the text vocabulary.

    Raises:
        ConfigError: if the config names modalities that are not in the set, or if no component can ask anything.
    """

    def __init__(self, config: MaskedConfig, modalities: ModalitySet, special: SpecialIds | None = None) -> None:
        self.config, self.modalities, self.special = config, modalities, special or SpecialIds()
        self.names = tuple(modalities)
        self.parts = tuple(m.name for m in modalities.outputs)
        self.frozen: dict[str, nn.Module] = {}
        self._check_names("max_tokens", config.max_tokens)
        self._check_names("modality_weights", config.modality_weights)
        self.components = [self._component(c, f"components[{i}]") for i, c in enumerate(config.components)]
        weights = np.array([c.weight for c in config.components], float)
        self.weights = weights / weights.sum()
        self.capacity = np.array([config.max_tokens.get(m.name, m.num_tokens) for m in modalities.values()], np.int64)

    def prepare(self, sample: Sample, rng: np.random.Generator) -> tuple[TokenRow, TokenRow]:
        """Draw budgets and masks for one sample: the table that is shown and the table that is asked."""
        component = self.components[int(rng.choice(len(self.components), p=self.weights))]
        present = np.array([name in sample for name in self.names])
        units = {n: self._units(self.modalities[n], sample[n]) for n in self.names if n in sample and self._is_text(n)}
        shown, asked = self._budgets(component, present, units, rng)
        inputs = _TableBuilder(full=True)
        targets = _TableBuilder(separate=self.config.separate)
        for index, name in enumerate(self.names):
            if name not in sample or (shown[index] == 0 and asked[index] == 0):
                continue
            modality = self.modalities[name]
            if modality.is_grid:
                self._mask_grid(
                    modality, index, sample[name], int(shown[index]), int(asked[index]), rng, inputs, targets
                )
            elif modality.is_discrete:
                keep = component.config.keep.get(name, component.config.keep.get("*", "random"))
                visible, target = draw_span_mask(units[name], int(shown[index]), keep, self.special, rng)
                inputs.add(index, np.arange(len(visible)), ids=visible)
                target = fit_target(target, int(asked[index]), self.special, rng)
                if len(target) > 1:
                    targets.add(index, np.arange(len(target) - 1), ids=target[:-1], target_ids=target[1:], causal=True)
            else:
                self._mask_vectors(modality, index, sample[name], int(shown[index]), component, rng, inputs)
        return inputs.build(), targets.build()

    def collate(self, items: Sequence[tuple[TokenRow, TokenRow]]) -> Example:
        """A batch of prepared samples."""
        return Example(
            encoder=collate([item[0] for item in items], self.modalities),
            decoder=collate([item[1] for item in items], self.modalities),
        )

    def counts(self, batch: Example) -> dict[str, float]:
        """Predicted tokens per modality."""
        return {name: float(count) for name, count in batch.decoder.num_targets.items()}

    def num_tokens(self, batch: Example) -> int:
        """Tokens of the batch by its budgets, inputs and targets, as the published schedules count them."""
        assert batch.encoder is not None
        return batch.encoder.modality.numel() + batch.decoder.modality.numel()

    def loss(self, model: nn.Module, batch: Example) -> Loss:
        """Cross-entropy of the asked tokens, part by part."""
        logits = model(batch)
        counts = batch.decoder.num_targets
        parts = {
            name: (
                F.cross_entropy(logits[name].float(), batch.decoder.targets(name), reduction="sum"),
                float(counts[name]),
            )
            for name in self.parts
        }
        return Loss(parts, self.config.reduction, self.config.modality_weights)

    def _component(self, config: MaskComponent, where: str) -> _Component:
        for field in ("input_alphas", "target_alphas", "keep", "min_tokens"):
            self._check_names(f"{where}.{field}", getattr(config, field))
        inputs = self._alphas(config.input_alphas, [m.is_input for m in self.modalities.values()])
        targets = self._alphas(config.target_alphas, [m.is_output for m in self.modalities.values()])
        if not targets.any():
            raise ConfigError(
                f"objective.{where}.target_alphas: no output modality has an alpha above 0, so nothing would be asked"
            )
        minimum = np.array([config.min_tokens.get(name, 0) for name in self.names], np.int64)
        return _Component(config, inputs, targets, minimum)

    def _alphas(self, alphas: Mapping[str, float], usable: Sequence[bool]) -> np.ndarray:
        rest = alphas.get("*", 0.0)
        return np.array([alphas.get(n, rest) if ok else 0.0 for n, ok in zip(self.names, usable, strict=True)], float)

    def _check_names(self, key: str, mapping: Mapping[str, Any]) -> None:
        for name in mapping:
            if name != "*" and name not in self.modalities:
                raise ConfigError(
                    f"objective.{key}: '{name}' is not a modality of this recipe.{did_you_mean(name, self.modalities)}"
                )

    def _budgets(
        self,
        component: _Component,
        present: np.ndarray,
        units: Mapping[str, list[np.ndarray]],
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Input and target budgets (M,) of one sample."""
        config = self.config
        num_inputs = draw_total(
            config.min_input_tokens, component.config.num_input_tokens or config.num_input_tokens, rng
        )
        num_targets = draw_total(
            config.min_target_tokens, component.config.num_target_tokens or config.num_target_tokens, rng
        )
        capacity = np.where(present, self.capacity, 0)
        if (
            config.redistribute
        ):  # no use in handing a sequence more than it has: its ids, a sentinel in front and one behind
            for name, pieces in units.items():
                i = self.modalities.index(name)
                capacity[i] = min(capacity[i], sum(map(len, pieces)) + 2)
        shown = np.zeros(len(self.names), np.int64)
        alphas = np.where(present, component.input_alphas, 0.0)
        if alphas.any() and num_inputs:
            shown = dirichlet_budget(
                alphas, num_inputs, capacity, rng, minimum=component.minimum, redistribute=config.redistribute
            )
        asked = np.zeros(len(self.names), np.int64)
        alphas = np.where(present, component.target_alphas, 0.0)
        if alphas.any() and num_targets:
            grids = np.array([m.is_grid for m in self.modalities.values()])
            room = np.where(grids, capacity - shown, capacity)
            asked = dirichlet_budget(alphas, num_targets, room, rng, redistribute=config.redistribute)
        return shown, asked

    def _mask_grid(
        self,
        modality: Modality,
        index: int,
        value: np.ndarray,
        num_shown: int,
        num_asked: int,
        rng: np.random.Generator,
        inputs: _TableBuilder,
        targets: _TableBuilder,
    ) -> None:
        """Show some random places of a grid and ask others."""
        order = rng.permutation(modality.num_tokens)
        shown = order[:num_shown]
        if isinstance(modality.content, Continuous):
            inputs.add(index, shown, name=modality.name, values=select_patches(value, modality, shown))
            return
        ids = np.asarray(value).reshape(-1)
        if len(ids) != modality.num_tokens:
            raise DataError(
                f"modality '{modality.name}': a sample has {len(ids)} tokens; expected {modality.num_tokens}"
            )
        if int(ids.max()) >= modality.vocab_size or int(ids.min()) < 0:
            raise DataError(
                f"modality '{modality.name}': token {int(ids.max())} is outside its vocabulary of "
                f"{modality.vocab_size}; "
                "was it made with another tokenizer? Run `fourm tokenize` again or correct vocab_size"
            )
        inputs.add(index, shown, ids=ids[shown])
        asked = order[num_shown : num_shown + num_asked]
        targets.add(index, asked, target_ids=ids[asked])

    def _mask_vectors(
        self,
        modality: Modality,
        index: int,
        value: np.ndarray,
        num_shown: int,
        component: _Component,
        rng: np.random.Generator,
        inputs: _TableBuilder,
    ) -> None:
        """Show part of a sequence of vectors; hidden runs become one zero vector each."""
        if num_shown == 0:
            return
        limit = self.capacity[index]
        vectors = np.concatenate([np.zeros((1, value.shape[1]), np.float32), value[:limit]])
        stand_ins = np.arange(1, len(vectors)) + self.special.sentinel(self.special.num_sentinels)
        keep = component.config.keep.get(modality.name, "random")
        visible, _ = draw_span_mask(list(stand_ins[:, None]), num_shown, keep, self.special, rng)
        rows = np.maximum(visible - self.special.sentinel(self.special.num_sentinels), 0)
        inputs.add(index, np.arange(len(rows)), name=modality.name, values=vectors[rows])

    def _is_text(self, name: str) -> bool:
        modality = self.modalities[name]
        return modality.is_discrete and not modality.is_grid

    def _units(self, modality: Modality, value: Any) -> list[np.ndarray]:
        """A sequence with its end token, cut to length, in the pieces that are masked whole."""
        limit = self.capacity[self.modalities.index(modality.name)]
        end = np.array([self.special.end], np.int64)
        if modality.unit == "chunk":
            return leading_chunks([*(np.asarray(chunk, np.int64) for chunk in value), end], int(limit))
        tokens = np.append(np.asarray(value, np.int64), end)[:limit]
        if int(tokens.max()) >= modality.vocab_size:
            raise DataError(
                f"modality '{modality.name}': token {int(tokens.max())} is outside its vocabulary of "
                f"{modality.vocab_size}"
            )
        return list(tokens[:, None])


def leading_chunks(chunks: list[np.ndarray], limit: int) -> list[np.ndarray]:
    """The leading chunks whose tokens fit `limit` together."""
    lengths = np.cumsum([len(chunk) for chunk in chunks])
    return chunks[: int(np.searchsorted(lengths, limit, side="right"))]


def select_patches(image: np.ndarray, modality: Modality, positions: np.ndarray) -> np.ndarray:
    """(C, H, W) image -> (n, p * p * C) patches at the given places, each as (row, column, channel)."""
    grid = modality.grid
    p = grid.patch_size
    if image.shape != (modality.channels, *grid.image_size):
        raise DataError(
            f"modality '{modality.name}': an image has shape {image.shape}; "
            f"expected {(modality.channels, *grid.image_size)}"
        )
    blocks = image.reshape(-1, grid.height, p, grid.width, p).transpose(1, 3, 2, 4, 0)
    return blocks[positions // grid.width, positions % grid.width].reshape(len(positions), -1)


class _TableBuilder:
    """Collects the columns of one sample's token table, modality by modality.

    Args:
        full: all tokens see one another. Otherwise grids see themselves and what came before, sequences are causal.
        separate: each modality is an attention group of its own.
    """

    def __init__(self, *, full: bool = False, separate: bool = False) -> None:
        self.full, self.separate = full, separate
        self.columns: dict[str, list[np.ndarray]] = {
            k: [] for k in ("modality", "position", "ids", "target_ids", "reach", "group")
        }
        self.values: dict[str, np.ndarray] = {}
        self.length = 0

    def add(
        self,
        index: int,
        position: np.ndarray,
        *,
        ids: np.ndarray | None = None,
        target_ids: np.ndarray | None = None,
        name: str = "",
        values: np.ndarray | None = None,
        causal: bool = False,
    ) -> None:
        """Append the tokens of one modality."""
        n = len(position)
        if n == 0:
            return
        nothing = np.full(n, PADDING, np.int64)
        end = self.length + n
        self.columns["modality"].append(np.full(n, index, np.int64))
        self.columns["position"].append(position)
        self.columns["ids"].append(nothing if ids is None else ids)
        self.columns["target_ids"].append(nothing if target_ids is None else target_ids)
        self.columns["reach"].append(np.arange(self.length + 1, end + 1) if causal else np.full(n, end, np.int64))
        self.columns["group"].append(np.full(n, index if self.separate else 0, np.int64))
        if values is not None:
            self.values[name] = values
        self.length = end

    def build(self) -> TokenRow:
        """The finished table."""
        empty = np.zeros(0, np.int64)
        columns = {key: np.concatenate([empty, *parts]) for key, parts in self.columns.items()}
        if self.full:
            columns["reach"] = np.full(self.length, self.length, np.int64)
        return TokenRow(values=self.values, **columns)
