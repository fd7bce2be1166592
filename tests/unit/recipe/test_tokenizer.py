"""How a tokenizer recipe becomes a network."""

from __future__ import annotations

from typing import Any

import torch

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
