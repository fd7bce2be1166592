"""How a tokenizer recipe becomes a network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fourm import catalog, recipes
from fourm.errors import ConfigError
from fourm.objectives.reconstruct import Reconstruct
from fourm.recipe.schema import TokenizerRecipe
from fourm.recipe.tokenizer import _pictures, build_tokenizer


def recipe(**changes: Any) -> TokenizerRecipe:
    return recipes.load("rooms_depth", TokenizerRecipe, [f"{k}={v}" for k, v in changes.items()], folder="tokenizers")


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
        tokenizer = build_tokenizer(recipes.load(name, TokenizerRecipe, folder="tokenizers"))

    assert (tokenizer.grid.height, tokenizer.grid.width) == grid
    assert tokenizer.vocab_size == vocab_size
    assert sum(p.numel() for p in tokenizer.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)
    if tokens is not None:
        modality = catalog.get(tokens)
        assert (modality.grid.height, modality.grid.width, modality.vocab_size) == (*grid, vocab_size)
        assert modality.tokenizer == tokenizer.modality.name


def job(recipe: TokenizerRecipe, *lengths: int) -> Any:
    """As much of a training job as pictures look at; `lengths` of its validation sets."""
    modality = recipe.raw_modality()

    class Dataset:
        def __init__(self, length: int) -> None:
            self.length = length

        def __len__(self) -> int:
            return self.length

        def sample(self, n: int, rng: np.random.Generator) -> dict[str, Any]:
            return {modality.name: rng.uniform(-1, 1, (1, 64, 64)).astype(np.float32)}

    return SimpleNamespace(
        recipe=recipe,
        world=SimpleNamespace(device=torch.device("cpu")),
        objective=Reconstruct(recipe.objective, modality),
        validation=[Dataset(length) for length in lengths],
    )


def test_training_draws_the_same_validation_samples_each_time() -> None:
    loaded = recipe()
    model = build_tokenizer(loaded).eval()
    draw = _pictures(job(loaded, 3), loaded.pictures, model)
    assert draw is not None
    first, again = draw(5)["reconstructions"], draw(10)["reconstructions"]
    assert np.array_equal(first, again)
    assert first.height > 3 * 192
    more = _pictures(job(loaded, 30), loaded.pictures, model)
    assert more is not None
    assert 4 * 192 < more(5)["reconstructions"].height < 5 * 192


def test_what_a_teacher_makes_of_the_images_is_drawn() -> None:
    loaded = recipe()
    model, made = build_tokenizer(loaded).eval(), job(loaded, 3)
    draw = _pictures(made, loaded.pictures, model)
    assert draw is not None
    plain = np.asarray(draw(5)["reconstructions"])
    made.objective.frozen["teacher"] = torch.neg
    assert not np.array_equal(np.asarray(draw(5)["reconstructions"]), plain)


def test_nothing_is_drawn_without_validation_samples_or_where_none_are_wanted() -> None:
    loaded = recipe()
    assert _pictures(job(loaded), loaded.pictures, None) is None
    none = recipe(**{"pictures.num_samples": 0})
    assert _pictures(job(none, 3), none.pictures, None) is None


def test_a_negative_number_of_pictures_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_samples is -1"):
        recipe(**{"pictures.num_samples": -1})
