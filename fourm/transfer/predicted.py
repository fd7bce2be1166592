"""Inputs that are predicted first: a frozen any-to-any model makes tokens of one modality from others, in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError
from fourm.modality import Modality, ModalitySet


class Predictor(nn.Module):
    """Adds the likeliest tokens of further modalities to a batch of inputs.

    Args:
        model: a trained model with `logits(given, asked)`.
        given: modalities of the batch that it reads: grids at the model's own size.
        predicted: token grids that are added.

    Raises:
        ConfigError: if the model cannot read or predict them.
    """

    def __init__(self, model: Any, given: ModalitySet, predicted: Sequence[str]) -> None:
        super().__init__()
        for name in given:
            if name not in model.modalities or not given[name].is_grid:
                raise ConfigError(
                    f"predict: the model cannot predict from '{name}'; it reads grids of its own modalities"
                )
            ours, theirs = given[name].grid, model.modalities[name].grid
            if ours != theirs:
                raise ConfigError(
                    f"predict: inputs of '{name}' are {ours.image_size} pixels, but the model that predicts reads "
                    f"{theirs.image_size}; leave out backbone.image_size"
                )
        for name in predicted:
            if (
                name not in model.modalities
                or not model.modalities[name].is_output
                or not model.modalities[name].is_grid
            ):
                known = ", ".join(m.name for m in model.modalities.outputs if m.is_grid)
                raise ConfigError(f"predict: the model cannot predict '{name}'. It can predict {known or 'nothing'}")
        self.model, self.given, self.predicted = model, given, tuple(predicted)

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Modality -> values, those that are predicted with them."""
        number = len(next(iter(inputs.values())))
        device = next(iter(inputs.values())).device
        given = {
            name: {
                "ids" if m.is_discrete else "values": inputs[name],
                "positions": _everywhere(m, number, device),
            }
            for name, m in self.given.items()
        }
        asked = {
            name: {"positions": _everywhere(self.model.modalities[name], number, device)} for name in self.predicted
        }
        logits = self.model.logits(given, asked)
        return {**inputs, **{name: values.argmax(-1) for name, values in logits.items()}}


def _everywhere(modality: Modality, number: int, device: torch.device) -> Tensor:
    return torch.arange(modality.num_tokens, device=device).expand(number, -1)
