"""What a tokenizer makes of samples, as a picture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fourm import catalog
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.nn.configs import SamplingConfig
from fourm.report.grid import grid
from fourm.report.pictures import draw
from fourm.tokenizers.configs import VQVAEConfig
from fourm.tokenizers.network_configs import ConvConfig
from fourm.tokenizers.pictures import reconstructions
from fourm.tokenizers.units import to_natural
from fourm.tokenizers.vqvae import VQVAE

CONV = ConvConfig(widths=(8,), stem=8, num_blocks=(1,))
MODALITIES = [
    catalog.get("rgb@64"),
    catalog.get("depth@64"),
    replace(catalog.get("depth@64"), normalization="standardize"),
    catalog.get("normal@64"),
    catalog.get("semseg@64"),
    Modality("clip@64", Grid(64, 64, 1), Continuous(6), "clip", "features", channels=6),
]


def inputs(modality: Modality) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if modality.is_discrete:
        return torch.randint(-1, modality.vocab_size, (2, 64, 64), generator=generator)
    return torch.rand(2, modality.channels or 1, 64, 64, generator=generator) * 2 - 1


@pytest.mark.parametrize("modality", MODALITIES, ids=lambda m: f"{m.name} {m.normalization}")
def test_every_kind_of_modality_is_drawn_beside_its_reconstruction(modality: Modality) -> None:
    torch.manual_seed(0)
    tokenizer = VQVAE(modality, VQVAEConfig(CONV, decoder=CONV)).eval()
    shown = inputs(modality)
    picture = reconstructions(tokenizer, shown, torch.arange(2), num_steps=3)
    originals = shown if modality.is_discrete else to_natural(shown, modality)
    decoded = tokenizer.decode(tokenizer.encode(shown))
    cells = [[draw(modality, a), draw(modality, b, like=a)] for a, b in zip(originals, decoded, strict=True)]
    assert np.array_equal(picture, grid(cells, columns=["original", "reconstruction"]))


class Drawing:
    """A decoder by diffusion, as far as pictures know it."""

    def __init__(self, num_steps: int) -> None:
        self.modality, self.sampling = catalog.get("rgb@64"), SamplingConfig(num_steps=num_steps)
        self.used: list[Any] = []

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(image), 8, 8, dtype=torch.int64)

    def decode(self, ids: torch.Tensor, *, seeds: torch.Tensor) -> torch.Tensor:
        self.used.append((self.sampling.num_steps, seeds.tolist()))
        if len(ids) == 1:
            raise RuntimeError
        return torch.zeros(len(ids), 3, 64, 64)


@pytest.mark.parametrize(("own", "used"), [(25, 4), (2, 2)])
def test_a_diffusion_decoder_takes_few_steps_and_keeps_its_own(own: int, used: int) -> None:
    tokenizer, shown = Drawing(own), inputs(catalog.get("rgb@64"))
    reconstructions(tokenizer, shown, torch.tensor([7, 8]), num_steps=4)
    assert tokenizer.used == [(used, [7, 8])]
    with pytest.raises(RuntimeError):
        reconstructions(tokenizer, shown[:1], torch.tensor([7]), num_steps=4)
    assert tokenizer.sampling.num_steps == own
