"""What to generate, in which order and how: plain values, free of torch, as `--plan FILE.yaml` holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

from fourm.errors import ConfigError, did_you_mean
from fourm.generate.names import base_name, resolve
from fourm.generate.schedule import check_counts, parse_temperature_schedule
from fourm.modality import Modality, ModalitySet

Scheme = Literal["autoregressive", "maskgit", "roar"]


@dataclass(frozen=True)
class Step:
    """One modality to generate.

    Args:
        target: the modality; in a file, any name that `fourm generate --to` takes.
        scheme: `autoregressive` for sequences; for grids `maskgit` (keep the most confident of all missing tokens,
            Chang et al. 2022) or `roar` (random order, 4M sec. 4).
        num_steps: decoding steps of a grid; with `roar`, 1 predicts all tokens at once.
        schedule: tokens per step: `cosine` (few first), `linear`, or a list of counts, one per step.
        temperature: of the draws; 0 takes the most probable token.
        temperature_schedule: `constant`, `linear` (down to 0), or `onex:MIN:POWER` (towards MIN); see
            `fourm.generate.schedule.temperatures`.
        top_k: draw among so many tokens, or such a share of the vocabulary; None: all.
        top_p: draw among the most probable tokens that make up this share; None: all.
        guidance: weight of classifier-free guidance (Ho & Salimans 2022); 1 is none.
        conditions: several guiding conditions and their weights instead, negative to keep away from; `caption#LABEL`
            names a further caption that was given under this name. Other given modalities are seen by all branches.
        grow_conditioning: later guided steps count this modality among their conditions; otherwise both of their
            branches see it.
        sees: all that this step may see of what is given and was generated; its target's own known tokens only if it
            is among them. None: everything there is.
        model: another model that generates it, by its name in the plan's `models`; None: the one that is asked. It
            sees the modalities that it shares with the others, and with guidance all of them are conditions.
        remask: with `maskgit`, this share of the tokens written so far, the least confident of them, is missing again
            at each further step, which writes so many more; 0 keeps what is written.
        num_tokens: most tokens of a sequence; None: what its modality declares.
        min_tokens: a sequence cannot end before it has so many written tokens.
        stop: ids, or words of one token, that end a sequence as its last token, beside the end of the sequence itself.
        keep_probabilities: also return the probabilities of all tokens.
    """

    target: str
    scheme: Scheme = "roar"
    num_steps: int = 1
    schedule: Literal["cosine", "linear"] | list[int] = "cosine"
    temperature: float = 1.0
    temperature_schedule: str = "constant"
    top_k: int | float | None = None
    top_p: float | None = None
    guidance: float = 1.0
    conditions: dict[str, float] = field(default_factory=dict)
    grow_conditioning: bool = False
    sees: list[str] | None = None
    model: str | None = None
    remask: float = 0.0
    num_tokens: int | None = None
    min_tokens: int = 0
    stop: list[int | str] = field(default_factory=list)
    keep_probabilities: bool = False

    def __post_init__(self) -> None:
        known = Scheme.__args__  # type: ignore[attr-defined]
        self._require(self.scheme in known, "scheme", self.scheme, f"one of {', '.join(known)}")
        self._require(self.num_steps >= 1, "num_steps", self.num_steps, "at least 1")
        self._require(0 <= self.temperature < math.inf, "temperature", self.temperature, "0 or more, and finite")
        self._require(math.isfinite(self.guidance), "guidance", self.guidance, "a finite number")
        for name, weight in self.conditions.items():
            self._require(math.isfinite(weight), f"the weight of condition '{name}'", weight, "a finite number")
        k = self.top_k
        self._require(
            k is None or (isinstance(k, int) and k >= 1) or (isinstance(k, float) and 0 < k < 1),
            "top_k",
            k,
            "a whole number of at least 1, or a share between 0 and 1",
        )
        self._require(self.top_p is None or 0 < self.top_p <= 1, "top_p", self.top_p, "above 0, at most 1")
        self._require(0 <= self.remask < 1, "remask", self.remask, "a share of at least 0 and below 1")
        self._require(
            not self.remask or self.scheme == "maskgit", "remask", self.remask, f"0 with scheme {self.scheme}"
        )
        self._require(self.num_tokens is None or self.num_tokens >= 1, "num_tokens", self.num_tokens, "at least 1")
        self._require(
            0 <= self.min_tokens <= (self.num_tokens or self.min_tokens),
            "min_tokens",
            self.min_tokens,
            "0 or more, at most num_tokens",
        )
        blind = [name for name in self.conditions if self.sees is not None and base_name(name) not in self.sees]
        if blind:
            raise ConfigError(
                f"step '{self.target}': condition '{blind[0]}' is not among what it sees: {', '.join(self.sees or ())}"
            )
        if self.conditions and self.guidance != 1.0:
            raise ConfigError(
                f"step '{self.target}': guidance {self.guidance} and conditions are both set; "
                "give the weights under conditions and leave guidance out"
            )
        if isinstance(self.schedule, list):
            if self.num_steps == 1 and self.schedule:
                object.__setattr__(self, "num_steps", len(self.schedule))
            check_counts(self.schedule, self.num_steps, f"step '{self.target}'")
        else:
            self._require(
                self.schedule in ("cosine", "linear"), "schedule", self.schedule, "cosine, linear or a list of counts"
            )
        parse_temperature_schedule(self.temperature_schedule, f"step '{self.target}'")

    def can_see(self, name: str) -> bool:
        """Whether the step may see a value, by its full name."""
        return self.sees is None or base_name(name) in self.sees

    def _require(self, holds: bool, key: str, given: object, expected: str) -> None:
        if not holds:
            raise ConfigError(f"step '{self.target}': {key} is {given!r}; expected {expected}")

    def check(self, modality: Modality) -> None:
        """See that the scheme suits the target.

        Raises:
            ConfigError: if not.
        """
        where = f"step '{self.target}'"
        if not modality.is_output:
            raise ConfigError(f"{where}: modality '{modality.name}' is an input only; this model cannot generate it")
        if modality.is_grid and self.scheme == "autoregressive":
            raise ConfigError(
                f"{where}: scheme autoregressive is for sequences, and '{modality.name}' is a grid: use roar or maskgit"
            )
        if not modality.is_grid and self.scheme != "autoregressive":
            raise ConfigError(f"{where}: '{modality.name}' is a sequence: use scheme autoregressive, not {self.scheme}")
        if modality.is_grid and (self.stop or self.min_tokens):
            raise ConfigError(f"{where}: stop and min_tokens are for sequences, and '{modality.name}' is a grid")
        if self.min_tokens > modality.num_tokens:
            raise ConfigError(
                f"{where}: min_tokens is {self.min_tokens}, but '{modality.name}' has at most {modality.num_tokens} "
                "tokens"
            )
        unknown = [token for token in self.stop if not isinstance(token, int) or not 0 <= token < modality.vocab_size]
        if unknown:
            raise ConfigError(
                f"{where}: stop names {unknown[0]!r}; expected ids from 0 to {modality.vocab_size - 1}. Words need a "
                "text tokenizer (`GenerationPlan.spell_out`)"
            )
        if modality.is_grid and self.num_tokens not in (None, modality.num_tokens):
            raise ConfigError(
                f"{where}: num_tokens is {self.num_tokens}, but the grid '{modality.name}' always has "
                f"{modality.num_tokens}; leave num_tokens out"
            )
        if not modality.is_input and modality.is_grid and self.num_steps > 1:
            raise ConfigError(
                f"{where}: the model cannot read '{modality.name}', so later steps would not see the tokens of earlier "
                "ones: use num_steps 1"
            )


@dataclass(frozen=True)
class GenerationPlan:
    """The steps of a chain.

    Args:
        steps: in order.
        chained: each generated modality is given to the later steps; otherwise every step sees only what was given at
            the start.
        models: name -> folder, or id on the Hub, of the further models that steps name.
    """

    steps: list[Step]
    chained: bool = True
    models: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        targets = self.targets
        if not targets:
            raise ConfigError("a generation plan needs at least one step under `steps:`")
        twice = [name for name in targets if targets.count(name) > 1]
        if twice:
            raise ConfigError(f"a generation plan generates '{twice[0]}' twice; every target may appear once")

    @property
    def targets(self) -> list[str]:
        return [step.target for step in self.steps]

    @property
    def makers(self) -> dict[str, str | None]:
        """Target -> the further model that generates it; None: the model that is asked."""
        return {step.target: step.model for step in self.steps}

    def resolve(self, modalities: ModalitySet, others: Mapping[str, ModalitySet] | None = None) -> GenerationPlan:
        """The same plan with the full names of the models' modalities.

        Args:
            modalities: those of the model that is asked.
            others: those of further models, by their names.

        Raises:
            ConfigError: for names the models do not know.
        """
        known = _by_model(modalities, others)
        return replace(self, steps=[_resolve_step(step, _of_step(step, known)) for step in self.steps])

    def guided_by(self, name: str) -> bool:
        """Whether a value, by its name with its label, is a condition of a step."""
        return any(name in step.conditions for step in self.steps)

    def legs(self) -> list[GenerationPlan]:
        """The plan in parts, each of consecutive steps of one model."""
        parts = groupby(self.steps, key=lambda step: step.model)
        return [replace(self, steps=list(steps)) for _, steps in parts]

    @property
    def model(self) -> str | None:
        """The model of the first step; of a leg, that of all."""
        return self.steps[0].model

    def spell_out(self, encode: Callable[[str], Sequence[int]]) -> GenerationPlan:
        """The same plan with the ids of words under `stop`.

        Args:
            encode: text -> ids, of the model's text tokenizer.

        Raises:
            ConfigError: for a word that is not one token.
        """
        return replace(self, steps=[_spell_out(step, encode) for step in self.steps])

    def check(
        self, modalities: ModalitySet, given: Iterable[str], others: Mapping[str, ModalitySet] | None = None
    ) -> None:
        """See that models can follow the plan.

        Args:
            modalities: those of the model that is asked.
            given: names of what is given at the start.
            others: those of further models, by their names.

        Raises:
            ConfigError: if a target, scheme, condition or what a step is to see does not fit, or a further value of a
                modality is given and no step is guided by it.
        """
        known = _by_model(modalities, others)
        seen = set(given)
        unused = [name for name in sorted(seen) if base_name(name) != name and not self.guided_by(name)]
        if unused:
            raise ConfigError(
                f"given '{unused[0]}': no step is guided by it, so it would count for nothing. Name it under "
                f"`conditions:` of a step of a plan, for instance {{{base_name(unused[0])}: 3, '{unused[0]}': -1}}, or "
                "leave it out"
            )
        for step in self.steps:
            own = _of_step(step, known)
            step.check(own[step.target])
            shared = [name for name in seen if base_name(name) in own and own[base_name(name)].is_input]
            for what, names in (("condition", step.conditions), ("what it sees,", step.sees or ())):
                missing = [name for name in names if name not in shared and name != step.target]
                if missing:
                    there = (
                        "cannot be read by this model"
                        if missing[0] in seen
                        else "is neither given nor generated before"
                    )
                    raise ConfigError(
                        f"step '{step.target}': {what} '{missing[0]}' {there}; "
                        f"there are: {', '.join(sorted(shared)) or 'none'}"
                    )
            if step.model is not None and seen and not shared:
                raise ConfigError(
                    f"step '{step.target}': model '{step.model}' reads nothing of what there is: "
                    f"{', '.join(sorted(seen))}; it reads: {', '.join(m.name for m in own.inputs)}"
                )
            if base_name(step.target) in {base_name(name) for name in step.conditions}:
                raise ConfigError(f"step '{step.target}': its target cannot be one of its conditions")
            if self.chained:
                seen.add(step.target)


def _by_model(modalities: ModalitySet, others: Mapping[str, ModalitySet] | None) -> dict[str | None, ModalitySet]:
    known: dict[str | None, ModalitySet] = {None: modalities}
    known.update((others or {}).items())
    return known


def _of_step(step: Step, known: Mapping[str | None, ModalitySet]) -> ModalitySet:
    """The modalities of the model that makes a step."""
    if step.model not in known:
        names = [name for name in known if name is not None]
        raise ConfigError(
            f"step '{step.target}': there is no model '{step.model}'; name its folder under `models:` of the plan, or "
            f"by --model {step.model}=FOLDER." + did_you_mean(str(step.model), names)
        )
    return known[step.model]


def _resolve_step(step: Step, modalities: ModalitySet) -> Step:
    inputs: Sequence[Modality] = modalities.inputs
    conditions = {
        resolve(name, inputs, "read").name + name.removeprefix(base_name(name)): weight
        for name, weight in step.conditions.items()
    }
    sees = None if step.sees is None else [resolve(name, inputs, "read").name for name in step.sees]
    target = resolve(step.target, modalities.outputs, "generate").name
    return replace(step, target=target, conditions=conditions, sees=sees)


def _spell_out(step: Step, encode: Callable[[str], Sequence[int]]) -> Step:
    stop: list[int | str] = []
    for token in step.stop:
        ids = [token] if isinstance(token, int) else [int(number) for number in encode(token)]
        if len(ids) != 1:
            raise ConfigError(
                f"step '{step.target}': stop names {token!r}, which is {len(ids)} tokens of this model's text; "
                "expected words of one token each, or ids"
            )
        stop += ids
    return replace(step, stop=stop)
