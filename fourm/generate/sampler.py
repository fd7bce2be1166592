"""The one sampler: follows a plan and lets every step see what exists so far (4M, Mizrahi et al. 2023, sec. 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.generate.branches import Conditions, build_branches
from fourm.generate.context import Facts, Memory
from fourm.generate.drafts import Drafts
from fourm.generate.grids import GridDecoder
from fourm.generate.names import base_name
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.sequences import SequenceDecoder, merge_probabilities, merge_sources, pad
from fourm.modality import Modality
from fourm.models.multimodal import Multimodal
from fourm.tokens import PADDING, SpecialIds


@dataclass(frozen=True)
class Generated:
    """What a plan has generated.

    Args:
        ids: target -> (B, N) int64: grids row by row; sequences without sentinels and end token, padded with -1.
        probabilities: target -> (B, N, V), for steps with `keep_probabilities`: the model's belief (with guidance,
            before filters and temperature) when each token was chosen; given tokens have probability 1, padding 0.
    """

    ids: dict[str, Tensor] = field(default_factory=dict)
    probabilities: dict[str, Tensor] = field(default_factory=dict)

    def likelihood(self, target: str) -> Tensor:
        """(B, N) the kept probability of each token that was chosen; 0 for padding."""
        ids = self.ids[target]
        return self.probabilities[target].gather(-1, ids.clamp(min=0)[..., None])[..., 0] * (ids >= 0)


Watch = Callable[[str, Generated], None]


class Sampler:
    """Generates with a model.

    Args:
        model: the model.
        special: special ids of its text vocabulary.
        bf16: run the model in bfloat16 autocast.
        cache: keep keys and values while a sequence is written, and what has been encoded where the model's context is
            ordered. Without it the answers are the same, and each token costs all before it: for comparison.
        draft: guess from all texts of this sampler how one goes on, and check several tokens in one pass. The answers
            are the same without.

    Raises:
        ConfigError: if the model has no encoder, which would read what is given.
    """

    def __init__(
        self,
        model: Multimodal,
        special: SpecialIds | None = None,
        *,
        bf16: bool = False,
        cache: bool = True,
        draft: bool = True,
    ) -> None:
        if getattr(model, "encoder", model) is None:
            raise ConfigError(
                "this model has no encoder to be given anything: it goes on with rows. Use `fourm prompt`, or "
                "fourm.generate.rows.continue_rows"
            )
        self.model, self.special, self.bf16, self.cache = model, special or SpecialIds(), bf16, cache
        self.drafts: dict[str, Drafts] | None = {} if draft else None

    def run(
        self,
        plan: GenerationPlan,
        given: Mapping[str, Facts],
        *,
        seeds: Tensor,
        watch: Watch | None = None,
    ) -> Generated:
        """Follow a plan.

        Each sample owns its randomness: what it becomes depends on its seed and on what is given for it, not on the
        batch. That holds in float32: in bfloat16 a batch of another size rounds otherwise, which may turn a token.

        Args:
            plan: steps, with full modality names.
            given: modality -> tensors as in `fourm.models.ask`. Part of a target may be given: a grid's tokens with
                their positions, a sequence with sentinels in place of what is missing. Further values of a modality,
                for `conditions`, come as `name#label`.
            seeds: (B,) int64.
            watch: called with each target when it is done, and what was generated until then. What it raises ends the
                run.

        Raises:
            ConfigError: if the model cannot follow the plan.
            DataError: if what is given does not fit the model.
        """
        device = self.model.heads.weight.device
        plan.check(self.model.modalities, given)
        seeds = seeds.to(device)
        with (
            evaluating(self.model),
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=self.bf16),
        ):
            here = {name: _place(name, facts, len(seeds), device) for name, facts in given.items()}
            generated = self._run(plan, here, seeds, watch)
        return _copy(generated)

    def _run(self, plan: GenerationPlan, given: Mapping[str, Facts], seeds: Tensor, watch: Watch | None) -> Generated:
        generated = Generated()
        memory = None
        if self.model.is_ordered:
            memory = Memory(self.model, len(seeds), seeds.device, reuse=self.cache)
        conditions = Conditions(initial=frozenset(base_name(name) for name in given))
        for step in plan.steps:
            modality = self.model.modalities[step.target]
            facts = self._step(step, modality, given, conditions, seeds, generated, memory)
            if watch is not None:
                with torch.inference_mode(False), torch.autocast(seeds.device.type, enabled=False):
                    watch(step.target, _copy(generated))
            if plan.chained and modality.is_input:
                if memory is not None:  # the order of what is given is that of the context
                    given = {name: value for name, value in given.items() if name != step.target}
                given = {**given, step.target: facts}
                if step.grow_conditioning:
                    conditions = Conditions(conditions.initial, conditions.grown | {step.target})
        return generated

    def _step(
        self,
        step: Step,
        modality: Modality,
        given: Mapping[str, Facts],
        conditions: Conditions,
        seeds: Tensor,
        generated: Generated,
        memory: Memory | None,
    ) -> Facts:
        """Generate one target; returns it as later steps are given it."""
        own = given.get(step.target) if step.can_see(step.target) else None
        # A grid's own tokens change from step to step: its decoder shows them itself.
        shown = {
            name: facts
            for name, facts in given.items()
            if step.can_see(name) and (name != step.target or not modality.is_grid)
        }
        branches = build_branches(
            step, shown, conditions, self.model.modalities, self.special, len(seeds), seeds.device, memory
        )
        if modality.is_grid:
            canvas = GridDecoder(self.model, step, branches, seeds).run(_canvas(modality, own, seeds))
            generated.ids[step.target] = canvas.ids
            if canvas.probabilities is not None:
                generated.probabilities[step.target] = canvas.probabilities
            return canvas.facts(step.target)
        visible = own["ids"] if own is not None else None
        drafts = None if self.drafts is None else self.drafts.setdefault(step.target, Drafts())
        decoder = SequenceDecoder(self.model, step, branches, seeds, self.special, cache=self.cache, drafts=drafts)
        answers = decoder.run(visible)
        sequences = merge_sources(answers.ids, visible, self.special)
        generated.ids[step.target] = pad([sequence.tokens for sequence in sequences], seeds.device)
        if answers.probabilities is not None:
            generated.probabilities[step.target] = merge_probabilities(sequences, answers.probabilities)
        whole = [[*sequence.tokens, self.special.end][: modality.num_tokens] for sequence in sequences]
        return {"ids": pad(whole, seeds.device)}


def _copy(generated: Generated) -> Generated:
    """Copies made outside inference mode are ordinary tensors, which callers may change."""
    ids, probabilities = generated.ids.items(), generated.probabilities.items()
    return Generated({k: v.clone() for k, v in ids}, {k: v.clone() for k, v in probabilities})


def _canvas(modality: Modality, own: Facts | None, seeds: Tensor) -> Tensor:
    """(B, N) given ids of a grid, -1 where none is given."""
    canvas = seeds.new_full((len(seeds), modality.num_tokens + 1), PADDING)
    if own is None:
        return canvas[:, :-1]
    ids, positions = own["ids"], own["positions"]
    for what, numbers, limit in (("id", ids, modality.vocab_size), ("position", positions, modality.num_tokens)):
        if numbers.numel() and not PADDING <= int(numbers.min()) <= int(numbers.max()) < limit:
            wrong = int(numbers.max()) if int(numbers.max()) >= limit else int(numbers.min())
            raise DataError(
                f"modality '{modality.name}': {what} {wrong} is out of range; expected 0 to {limit - 1}, "
                "or -1 for padding"
            )
    real = (ids >= 0) & (positions >= 0)
    return canvas.scatter(1, torch.where(real, positions, modality.num_tokens), torch.where(real, ids, PADDING))[:, :-1]


def _place(name: str, facts: Facts, num_samples: int, device: torch.device) -> dict[str, Tensor]:
    """The tensors of one given modality on the model's device."""
    for key, tensor in facts.items():
        if tensor.shape[0] != num_samples:
            raise DataError(
                f"given '{name}': {key} has {tensor.shape[0]} rows, but there are {num_samples} seeds; one of each per "
                "sample is expected"
            )
    return {key: tensor.to(device) for key, tensor in facts.items()}


@contextmanager
def evaluating(model: Multimodal) -> Iterator[None]:
    """The model in evaluation mode, and afterwards as before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
