"""A modality that is predicted first, and then an input like any other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fourm.errors import ConfigError
from fourm.models.multimodal import Multimodal
from fourm.transfer.predicted import Predictor


@torch.no_grad()
def test_predicted_tokens_are_the_likeliest_of_the_model(model: Multimodal) -> None:
    images = torch.randn(2, 3, 16, 16)
    everywhere = torch.arange(16).expand(2, -1)

    inputs = Predictor(model, model.modalities.subset(["rgb@16"]), ["tok_depth@16"])({"rgb@16": images})

    logits = model.logits(
        {"rgb@16": {"values": images, "positions": everywhere}}, {"tok_depth@16": {"positions": everywhere}}
    )["tok_depth@16"]
    assert torch.equal(inputs["tok_depth@16"], logits.argmax(-1))
    assert torch.equal(inputs["rgb@16"], images)


@pytest.mark.parametrize("predicted", ["rgb@16", "caption", "normal"])
def test_what_the_model_cannot_predict_is_told(model: Multimodal, predicted: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot predict '{predicted}'. It can predict tok_depth@16, codes"):
        Predictor(model, model.modalities.subset(["rgb@16"]), [predicted])


def test_other_sizes_are_told(model: Multimodal, make: Callable[..., object]) -> None:
    from dataclasses import replace

    from fourm.layouts import Grid
    from fourm.modality import ModalitySet

    larger = replace(model.modalities["rgb@16"], layout=Grid(8, 8, 4))
    with pytest.raises(ConfigError, match="leave out backbone.image_size"):
        Predictor(model, ModalitySet([larger]), ["tok_depth@16"])
