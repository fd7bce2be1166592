"""How a tokenizer recipe becomes a network."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fourm import catalog
from fourm import config as configs
from fourm.recipe.schema import TokenizerRecipe
from fourm.recipe.tokenizer import build_tokenizer


def recipe(**changes: Any) -> TokenizerRecipe:
    return configs.load("rooms_depth", TokenizerRecipe, [f"{k}={v}" for k, v in changes.items()], folder="tokenizers")


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    first = build_tokenizer(recipe())
    torch.rand(3)
    again, other = build_tokenizer(recipe()), build_tokenizer(recipe(seed=1))

    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters()))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters()))


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)

    build_tokenizer(recipe())

    assert torch.equal(torch.rand(1), expected)


def test_the_tokenizer_is_for_the_recipes_modality() -> None:
    tokenizer = build_tokenizer(recipe(**{"tokenizer.quantizer.codebook_size": 64}))

    assert tokenizer.modality.name == "depth@64"
    assert tokenizer.vocab_size == 64


# Parameters in millions as of the published tokenizers (for ImageBind: 512 more channels at both ends of DINOv2's). The
# 8 codes of a pose have no modality of their own: they are words of `human_poses`.
@pytest.mark.parametrize(
    ("name", "tokens", "grid", "vocab_size", "millions"),
    [
        ("memcodes_dinov2_global", "tok_dinov2_global", (4, 4), 8_192, 115.0),
        ("memcodes_imagebind_global", "tok_imagebind_global", (4, 4), 8_192, 116.1),
        ("memcodes_smpl_pose", None, (2, 4), 1_024, 106.7),
    ],
)
def test_recipes_of_global_features_make_the_published_tokenizers(
    name: str, tokens: str | None, grid: tuple[int, int], vocab_size: int, millions: float
) -> None:
    with torch.device("meta"):
        tokenizer = build_tokenizer(configs.load(name, TokenizerRecipe, folder="tokenizers"))

    assert (tokenizer.grid.height, tokenizer.grid.width) == grid
    assert tokenizer.vocab_size == vocab_size
    assert sum(p.numel() for p in tokenizer.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    if tokens is not None:
        modality = catalog.get(tokens)
        assert (modality.grid.height, modality.grid.width, modality.vocab_size) == (*grid, vocab_size)
        assert modality.tokenizer == tokenizer.modality.name
