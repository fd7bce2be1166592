"""What stays as it is: parameters by name, rows of tables by modality, for the whole run or for its first part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError, did_you_mean
from fourm.train.configs import FreezeStage, TrainConfig
from fourm.train.optimizer import matching_names
from fourm.train.shards import local, local_rows
from fourm.train.state import RunState


@runtime_checkable
class HasModalities(Protocol):
    """A model that knows which of its parameters belong to which modality."""

    modalities: Mapping[str, Any]

    def parameters_of(self, modality: str) -> dict[str, slice | None]:
        """Parameter name -> the rows that belong to a modality; None: all of it."""
        ...


@dataclass
class _Part:
    """Some rows of a parameter, as far as they are on this rank, and what they were."""

    parameter: nn.Parameter
    rows: slice
    kept: Tensor | None = None

    def drop_gradient(self) -> None:
        if self.kept is None:
            self.kept = local(self.parameter.detach())[self.rows].clone()
        if self.parameter.grad is not None:
            local(self.parameter.grad)[self.rows] = 0

    def put_back(self) -> None:
        """Weight decay moves what has no gradient."""
        if self.kept is not None:
            local(self.parameter.detach())[self.rows] = self.kept


class Freezer:
    """Takes away gradients of what is frozen at a point of the run, so that optimizers leave it alone.

    Args:
        model: whose parameters are trained; they may be spread over ranks.
        config: `freeze_modalities` for the whole run and `stages` for its beginning.

    Raises:
        ConfigError: if a pattern or modality is not there, or a stage trains nothing.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        self._stages = config.stages
        self._parameters = [
            _frozen_parameters(model, stage, f"train.stages[{i}]") for i, stage in enumerate(config.stages)
        ]
        self._rows = [
            _rows(model, stage.freeze_modalities, f"train.stages[{i}].freeze_modalities")
            for i, stage in enumerate(config.stages)
        ]
        self._always = _rows(model, config.freeze_modalities, "train.freeze_modalities")

    def lr_scale(self, state: RunState) -> float:
        """Factor on the learning rate of the step that begins."""
        number = self._number(state)
        return 1.0 if number is None else self._stages[number].lr_scale

    def differs(self, one: RunState, other: RunState) -> bool:
        """Whether steps that begin at two points of the run train different parts of the model."""
        return self._number(one) != self._number(other)

    def _number(self, state: RunState) -> int | None:
        for number, stage in enumerate(self._stages):
            if stage.holds(state.step, state.tokens):
                return number
        return None

    @torch.no_grad()
    def before(self, state: RunState) -> None:
        """Take gradients away, before the optimizer of a step that begins at `state`."""
        number = self._number(state)
        for parameter in self._parameters[number] if number is not None else []:
            parameter.grad = None
        for part in self._parts(number):
            part.drop_gradient()

    @torch.no_grad()
    def after(self, state: RunState) -> None:
        """Put back rows of tables; `state` is that at the beginning of the step."""
        for part in self._parts(self._number(state)):
            part.put_back()

    def _parts(self, number: int | None) -> list[_Part]:
        return self._always + (self._rows[number] if number is not None else [])


def _frozen_parameters(model: nn.Module, stage: FreezeStage, key: str) -> list[nn.Parameter]:
    """What a stage leaves out of what the run trains."""
    names = [name for name, _ in model.named_parameters()]
    chosen = matching_names(names, stage.trainable, f"{key}.trainable")
    chosen -= matching_names(names, stage.freeze, f"{key}.freeze")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not chosen & set(trained):
        raise ConfigError(f"{key} leaves no parameter to train; widen its `trainable`, or train.trainable")
    return [p for name, p in trained.items() if name not in chosen]


def _rows(model: nn.Module, modalities: Sequence[str], key: str) -> list[_Part]:
    """What belongs to some modalities, as far as it is trained and on this rank."""
    if not modalities:
        return []
    if not isinstance(model, HasModalities):
        raise ConfigError(f"{key}: {type(model).__name__} has no parameters by modality; freeze them by name")
    parameters = dict(cast(nn.Module, model).named_parameters())
    parts = []
    for modality in modalities:
        if modality not in model.modalities:
            raise ConfigError(f"{key}: '{modality}' is not a modality.{did_you_mean(modality, model.modalities)}")
        for name, rows in model.parameters_of(modality).items():
            parameter = parameters[name]
            if parameter.requires_grad:
                here = local_rows(parameter)
                start, stop = (rows.start, rows.stop) if rows is not None else (0, parameter.shape[0])
                first, last = max(start, here.start), min(stop, here.stop)
                if first < last:
                    parts.append(_Part(parameter, slice(first - here.start, last - here.start)))
    return parts
