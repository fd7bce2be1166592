"""Predict masked target tokens from visible input tokens, any modality from any (4M, Mizrahi et al. 2023, sec. 2.2)."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fourm.errors import ConfigError, did_you_mean
from fourm.modality import Modality, ModalitySet
from fourm.objectives.asking import Asking, check_vocabulary, grid_ids, vectors_of
from fourm.objectives.blocks import in_blocks
from fourm.objectives.budget import dirichlet_budget, draw_total
from fourm.objectives.configs import Keep, MaskComponent, MaskedConfig
from fourm.objectives.spans import draw_span_mask, fit_target, leading_chunks
from fourm.objectives.table import TableBuilder, select_patches
from fourm.tokens import PADDING, Example, SpecialIds, TokenRow, collate

Sample = Mapping[str, Any]
_KEPT = 1024  # sets of modalities that are remembered: nearly always there are a few


@dataclass(frozen=True)
class _Component:
    """A `MaskComponent` as arrays over the modality set."""

    num_inputs: int
    num_targets: int
    min_inputs: int | None
    min_targets: int | None
    input_alphas: np.ndarray
    target_alphas: np.ndarray
    minimum: np.ndarray
    keep: Mapping[str, Keep]


@dataclass(frozen=True)
class _Given:
    """What follows from which modalities samples have: capacities (M,), and a component's alphas of those they have.

    An alpha is None where all are 0.
    """

    capacity: np.ndarray
    input_alphas: np.ndarray | None
    target_alphas: np.ndarray | None


@dataclass(frozen=True, slots=True)
class _Budget:
    """What one modality of one sample may show and is asked."""

    index: int
    shown: int
    asked: int
    keep: Keep


class Masked(Asking):
    """The objective of 4M.

    A sample maps modalities to what the data hands over: grids of ids as (n,) or (h, w), -1 where there is none; images
    as (C, H, W) normalised; sequences as (L,) ids without end token or as a list of chunks; sequences of vectors as
    (L, dim). Modalities may be missing. A sample that can make some patches of an image without the others has a method
    `patches(modality, positions)`, which gives what `select_patches` gives, or None.

    Args:
        config: budgets and mixture.
        modalities: those of the model.
        special: special ids of the text vocabulary.
        ordered: for a model with an ordered context: show the same tokens block after block.

    Raises:
        ConfigError: if the config names modalities that are not in the set, if no component can ask anything, or if a
            vocabulary has no room for the special ids.
    """

    def __init__(
        self,
        config: MaskedConfig,
        modalities: ModalitySet,
        special: SpecialIds | None = None,
        *,
        ordered: bool = False,
    ) -> None:
        asked = [m.name for m in modalities.outputs]
        super().__init__(modalities, asked, config.reduction, config.modality_weights, special)
        self.config, self.ordered = config, ordered
        limits = self._by_modality("max_tokens", config.max_tokens)
        self.capacity = np.array([min(limits.get(m.name, m.num_tokens), m.num_tokens) for m in modalities.values()])
        self.grids = np.array([m.is_grid for m in modalities.values()])
        self._listed = tuple(modalities.values())
        self._given: dict[tuple[int, tuple[str, ...]], _Given] = {}
        # What is only read, such as pixels, is never generated step by step.
        self.cut = np.array([m.is_grid and m.is_output for m in modalities.values()])
        self._mixtures = {
            name: self._mixture(own, f"datasets.{name}" if name else "components")
            for name, own in {"": config.components, **config.datasets}.items()
        }
        self.components, self.shares = self._mixtures[""]
        drawn = [component for name in self._mixtures for component in self._drawn(name).values()]
        self.budget = max(c.num_inputs for c in drawn) + max(c.num_targets for c in drawn)
        reserved = self.special.sentinel(self.special.num_sentinels)
        for m in modalities.values():
            if m.is_discrete and not m.is_grid and m.vocab_size <= reserved:
                raise ConfigError(
                    f"modality '{m.name}': its vocabulary of {m.vocab_size} has no room for text beside the {reserved} "
                    f"special tokens, sentinels among them; raise modalities.{m.name}.content.vocab_size"
                )

    def check_data(self, train: Mapping[str, Iterable[str]], val: Mapping[str, Iterable[str]]) -> None:
        """See that every data set is asked something, and that every component finds its modalities in some data set.

        Args:
            train: data set to train on -> modalities it has.
            val: the same of those to evaluate on.

        Raises:
            ConfigError: naming the data set or the component.
        """
        for split, datasets in (("train", train), ("val", val)):
            for name, modalities in datasets.items():
                targets = np.any([c.target_alphas for c in self._drawn(name).values()], 0)
                if not targets[self._present(modalities)].any():
                    raise ConfigError(
                        f"data.{split}.datasets.{name} has {', '.join(modalities)}, none of which has a target alpha "
                        f"above 0, so nothing would be asked of it: give it one of those that have: "
                        f"{', '.join(np.array(self.names)[targets])}; or change objective.components"
                    )
        for own in self.config.datasets:
            if train and own not in (*train, *val):
                raise ConfigError(f"objective.datasets: '{own}' is not a data set.{did_you_mean(own, (*train, *val))}")
        for key in self._mixtures:
            self._check_components(key, {n: m for n, m in train.items() if (n if n in self._mixtures else "") == key})

    def _check_components(self, mixture: str, train: Mapping[str, Iterable[str]]) -> None:
        """See that every component of a mixture finds its modalities in some of the data sets that draw from it."""
        present = np.any([np.zeros(len(self.names), bool), *(self._present(m) for m in train.values())], 0)
        where = f"datasets.{mixture}" if mixture else "components"
        for i, c in self._drawn(mixture).items():
            for key, alphas in (("target_alphas", c.target_alphas), ("input_alphas", c.input_alphas * c.num_inputs)):
                if train and alphas.any() and not alphas[present].any():
                    raise ConfigError(
                        f"objective.{where}[{i}].{key}: no training data set has "
                        f"{' or '.join(np.array(self.names)[alphas > 0])}; correct the alphas, or data.train.datasets"
                    )

    def for_dataset(self, name: str) -> Masked:
        """The same objective, drawing from the components of a data set that has its own."""
        if name not in self.config.datasets:
            return self
        other = copy.copy(self)
        other.components, other.shares = self._mixtures[name]
        other._given = {}
        return other

    def with_budgets(self, num_inputs: int, num_targets: int) -> Masked:
        """The same objective with fixed budgets in all components, as 4M's fixed evaluation takes them."""
        fixed: dict[str, Any] = dict.fromkeys(("num_input_tokens", "num_target_tokens"))
        fixed |= dict.fromkeys(("min_input_tokens", "min_target_tokens"))
        config = replace(
            self.config,
            num_input_tokens=num_inputs,
            num_target_tokens=num_targets,
            min_input_tokens=None,
            min_target_tokens=None,
            components=[replace(c, **fixed) for c in self.config.components],
            datasets={name: [replace(c, **fixed) for c in own] for name, own in self.config.datasets.items()},
        )
        return Masked(config, self.modalities, self.special, ordered=self.ordered)

    def _drawn(self, mixture: str) -> dict[int, _Component]:
        """Place -> component of those that a data set draws."""
        key = mixture if mixture in self._mixtures else ""
        components, shares = self._mixtures[key]
        return {i: c for i, (c, share) in enumerate(zip(components, np.diff(shares, prepend=0.0))) if share > 0}

    def _mixture(self, configs: Sequence[MaskComponent], where: str) -> tuple[list[_Component], np.ndarray]:
        """Components, and the share of draws up to the end of each."""
        weights = np.array([c.weight for c in configs], float)
        return [self._component(c, f"{where}[{i}]") for i, c in enumerate(configs)], np.cumsum(weights / weights.sum())

    def _present(self, modalities: Iterable[str]) -> np.ndarray:
        """(M,) which of the modalities are among those named."""
        return np.isin(self.names, list(modalities))

    def prepare(self, sample: Sample, rng: np.random.Generator) -> tuple[TokenRow, TokenRow]:
        """Draw budgets and masks for one sample: the table that is shown and the table that is asked.

        Raises:
            DataError: if the sample does not fit the modalities.
        """
        drawn = bisect_right(self.shares, rng.random(), hi=len(self.shares) - 1)
        component = self.components[drawn]
        shown, asked = self._budgets(drawn, sample, rng)
        inputs = TableBuilder(full=True)
        targets = TableBuilder(separate=self.config.separate)
        # Where modalities see those before them, each has to come before each other now and then.
        order = range(len(self.names)) if self.config.separate else rng.permutation(len(self.names)).tolist()
        for index in order:
            if shown[index] == 0 and asked[index] == 0:
                continue  # and is not even read, where samples are read as they are used
            modality = self._listed[index]
            budget = _Budget(index, shown[index], asked[index], component.keep.get(modality.name, "random"))
            if modality.is_grid and not modality.is_discrete:
                self._mask_image(modality, sample, budget, rng, inputs)
            elif modality.is_grid:
                self._mask_grid(modality, sample[modality.name], budget, rng, inputs, targets)
            elif modality.is_discrete:
                self._mask_sequence(modality, sample[modality.name], budget, rng, inputs, targets)
            else:
                self._mask_vectors(modality, sample[modality.name], budget, rng, inputs)
        shown_row = inputs.build()
        # Drawn last: tokens and targets are those of a full context at the same seed.
        return in_blocks(shown_row, self.cut, rng) if self.ordered else shown_row, targets.build()

    def collate(self, items: Sequence[tuple[TokenRow, TokenRow]]) -> Example:
        """A batch of prepared samples."""
        return Example(
            encoder=collate([item[0] for item in items], self.modalities),
            decoder=collate([item[1] for item in items], self.modalities),
        )

    def _component(self, config: MaskComponent, where: str) -> _Component:
        inputs = self._alphas(
            f"{where}.input_alphas", config.input_alphas, [m.is_input for m in self.modalities.values()]
        )
        targets = self._alphas(
            f"{where}.target_alphas", config.target_alphas, [m.is_output for m in self.modalities.values()]
        )
        if not targets.any():
            raise ConfigError(
                f"objective.{where}.target_alphas: no output modality has an alpha above 0, so nothing would be asked"
            )
        fewest = self._by_modality(f"{where}.min_tokens", config.min_tokens)
        minimum = np.array([fewest.get(name, 0) for name in self.names], np.int64)
        num_inputs = _either(config.num_input_tokens, self.config.num_input_tokens)
        num_targets = _either(config.num_target_tokens, self.config.num_target_tokens)
        min_inputs, min_targets = self._smallest(config, where, num_inputs, num_targets)
        never = [name for name, low, alpha in zip(self.names, minimum, inputs, strict=True) if low and not alpha]
        if never or minimum.sum() > num_inputs:
            reason = f"{never[0]} has no input alpha above 0" if never else f"the input budget is {num_inputs}"
            raise ConfigError(f"objective.{where}.min_tokens can never hold: {reason}")
        keep = self._by_modality(f"{where}.keep", config.keep)
        return _Component(num_inputs, num_targets, min_inputs, min_targets, inputs, targets, minimum, keep)

    def _smallest(
        self, config: MaskComponent, where: str, num_inputs: int, num_targets: int
    ) -> tuple[int | None, int | None]:
        """Smallest input and target budgets of a component; None where its budget is fixed."""
        smallest = []
        for kind, largest in (("input", num_inputs), ("target", num_targets)):
            own = getattr(config, f"min_{kind}_tokens")
            if own is None and getattr(config, f"num_{kind}_tokens") is None:
                own = getattr(self.config, f"min_{kind}_tokens")
            if own is not None and own > largest:
                raise ConfigError(f"objective.{where}.min_{kind}_tokens is {own}, above the largest budget {largest}")
            smallest.append(own)
        return smallest[0], smallest[1]

    def _alphas(self, key: str, alphas: Mapping[str, float], usable: Sequence[bool]) -> np.ndarray:
        own = self._by_modality(key, alphas)
        return np.array([own.get(n, 0.0) if ok else 0.0 for n, ok in zip(self.names, usable, strict=True)], float)

    def _budgets(self, drawn: int, sample: Sample, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """Input and target budgets (M,) of one sample under component number `drawn`."""
        config, component = self.config, self.components[drawn]
        num_inputs = draw_total(component.min_inputs, component.num_inputs, rng)
        num_targets = draw_total(component.min_targets, component.num_targets, rng)
        given = self._alphas_of(drawn, tuple(sample))
        capacity = given.capacity
        if config.redistribute:
            capacity = self._limit_to_content(capacity, sample)
        shown = asked = np.zeros(len(self.names), np.int64)
        if num_inputs and given.input_alphas is not None:
            shown = dirichlet_budget(
                given.input_alphas, num_inputs, capacity, rng,
                minimum=component.minimum, redistribute=config.redistribute,
            )  # fmt: skip
        if num_targets and given.target_alphas is not None:
            room = capacity - shown * self.grids
            asked = dirichlet_budget(given.target_alphas, num_targets, room, rng, redistribute=config.redistribute)
        return shown.tolist(), asked.tolist()

    def _alphas_of(self, drawn: int, names: tuple[str, ...]) -> _Given:
        """Capacities and alphas of samples that have the modalities `names`."""
        found = self._given.get((drawn, names))
        if found is None:
            present, component = self._present(names), self.components[drawn]
            alphas = [np.where(present, own, 0.0) for own in (component.input_alphas, component.target_alphas)]
            found = _Given(np.where(present, self.capacity, 0), *(own if own.any() else None for own in alphas))
            if len(self._given) >= _KEPT:
                self._given.clear()
            self._given[drawn, names] = found
        return found

    def _limit_to_content(self, capacity: np.ndarray, sample: Sample) -> np.ndarray:
        """Capacities where sequences take what they hold: their ids, an end, a sentinel in front and one behind."""
        capacity = capacity.copy()
        for i in np.flatnonzero((capacity > 0) & ~self.grids):
            modality, value = self.modalities[self.names[i]], sample[self.names[i]]
            length = sum(map(len, value)) if modality.unit == "chunk" else len(value)
            capacity[i] = min(capacity[i], length + 3 if modality.is_discrete else max(length, 1))
        return capacity

    def _mask_image(
        self, modality: Modality, sample: Sample, budget: _Budget, rng: np.random.Generator, inputs: TableBuilder
    ) -> None:
        """Show some random patches."""
        shown = rng.permutation(modality.num_tokens)[: budget.shown]
        patches = getattr(sample, "patches", None)
        values = None if patches is None else patches(modality, shown)
        if values is None:
            values = select_patches(sample[modality.name], modality, shown)
        inputs.add(budget.index, shown, name=modality.name, values=values)

    def _mask_grid(
        self,
        modality: Modality,
        value: np.ndarray,
        budget: _Budget,
        rng: np.random.Generator,
        inputs: TableBuilder,
        targets: TableBuilder,
    ) -> None:
        """Show some random places of a grid and ask others. Where its id is -1 (no label), a place is left out."""
        order = rng.permutation(modality.num_tokens)
        shown, asked = order[: budget.shown], order[budget.shown : budget.shown + budget.asked]
        ids = grid_ids(modality, value)
        if len(ids) and ids.min() == PADDING:
            known = ids != PADDING
            shown, asked = shown[known[shown]], asked[known[asked]]
        if len(shown):
            inputs.add(budget.index, shown, ids=ids[shown])
        if len(asked):
            targets.add(budget.index, asked, target_ids=ids[asked])

    def _mask_sequence(
        self,
        modality: Modality,
        value: Any,
        budget: _Budget,
        rng: np.random.Generator,
        inputs: TableBuilder,
        targets: TableBuilder,
    ) -> None:
        """Hide random spans of a sequence behind sentinels, and ask them."""
        units = self._units(modality, value, int(self.capacity[budget.index]))
        visible, target = draw_span_mask(units, budget.shown, budget.keep, self.special, rng)
        if len(visible):
            inputs.add(budget.index, np.arange(len(visible)), ids=visible)
        target = fit_target(target, budget.asked, self.special, rng)
        if len(target) > 1:
            places = np.arange(len(target) - 1)
            targets.add(budget.index, places, ids=target[:-1], target_ids=target[1:], causal=True)

    def _mask_vectors(
        self, modality: Modality, value: np.ndarray, budget: _Budget, rng: np.random.Generator, inputs: TableBuilder
    ) -> None:
        """Show part of a sequence of vectors; hidden runs become one zero vector each."""
        value = vectors_of(modality, value)
        if budget.shown == 0:
            return
        # Numbers above every sentinel stand in for the vectors, so that one rule masks text and vectors.
        first = self.special.sentinel(self.special.num_sentinels)
        length = min(len(value), int(self.capacity[budget.index]))
        visible, _ = draw_span_mask(np.arange(length) + first, budget.shown, budget.keep, self.special, rng)
        vectors = np.zeros((len(visible), value.shape[1]), np.float32)
        vectors[visible >= first] = value[visible[visible >= first] - first]
        inputs.add(budget.index, np.arange(len(visible)), name=modality.name, values=vectors)

    def _units(self, modality: Modality, value: Any, limit: int) -> np.ndarray | list[np.ndarray]:
        """A sequence with its end token, cut to length, in the pieces that are masked whole."""
        end = np.array([self.special.end], np.int64)
        if modality.unit == "chunk":
            chunks = leading_chunks([*(np.asarray(chunk, np.int64) for chunk in value), end], limit)
            for chunk in chunks:
                check_vocabulary(modality, chunk)
            return chunks
        tokens = np.concatenate([np.asarray(value, np.int64), end])[:limit]
        check_vocabulary(modality, tokens)
        return tokens


def _either(value: int | None, default: int) -> int:
    return default if value is None else value
