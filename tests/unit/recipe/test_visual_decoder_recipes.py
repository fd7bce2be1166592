"""The visual decoders of Emu and Emu2, as their recipes have them: published sizes, told what the models say."""

from __future__ import annotations

import pytest

from fourm import recipes
from fourm.recipe.schema import PretrainRecipe, TokenizerRecipe
from tests.unit.recipe.test_vl_gpt_tokenizers import built, count

ATTENDING = {"sd15": 5 * 320 + 5 * 640 + 6 * 1280, "sdxl": 10 * 640 + 60 * 1280}
"""Widths of all layers of a U-Net that attend to a condition, added up."""
SD15, SDXL = 859_520_964, 2_567_463_684
"""Parameters of the published U-Nets."""


def test_emu_paints_with_stable_diffusion_whose_keys_and_values_are_made_anew() -> None:
    recipe, model, learning = built("emu_visual_decoder")

    assert count(model, "decoder.") == SD15 + 2 * (5120 - 768) * ATTENDING["sd15"]
    assert learning == {name for name, _ in model.named_parameters()}
    assert model.modality.map_size() == (512, 512)
    train, sampling = recipe.train, recipe.tokenizer.sampling
    assert (train.max_steps, train.batch_size, train.optimizer.lr) == (15_000, 50 * 4 * 8, 1e-4)
    assert (sampling.scheduler, sampling.num_steps, recipe.tokenizer.condition_dropout) == ("pndm", 50, 0.1)


def test_emu2_paints_what_its_frozen_tower_sees_with_sdxl() -> None:
    recipe, model, learning = built("emu2_visual_decoder")

    told = 1792 + 6 * 256  # the mean vector, and six numbers of size and crop
    before = 1280 + 6 * 256  # SDXL has the vector of a text there
    keys = 2 * (2048 - 1792) * ATTENDING["sdxl"]
    assert count(model, "decoder.") == SDXL - keys + (told - before) * 1280
    assert learning == {name for name, _ in model.named_parameters() if name.startswith("decoder.")}
    assert model.modality.map_size() == (1024, 1024)
    assert recipe.tokenizer.conditions["image"].size == 448
    train, decoder = recipe.train, recipe.tokenizer
    assert (train.max_steps, train.batch_size, train.optimizer.lr) == (8000, 2048, 1e-4)
    assert (decoder.noise_offset, decoder.condition_dropout, decoder.sampling.guidance) == (0.1, 0.1, 3.0)


@pytest.mark.parametrize(
    ("decoder", "stage"), [("emu_visual_decoder", "emu_13b_1"), ("emu2_visual_decoder", "emu2_33b_2")]
)
def test_they_paint_the_vectors_of_their_language_models(decoder: str, stage: str) -> None:
    image = recipes.load(stage, PretrainRecipe, folder="pretrain").modality_set()["image"]
    told = recipes.load(decoder, TokenizerRecipe, folder="tokenizers").tokenizer.conditions["image"]

    assert (told.num_tokens, told.dim) == (image.num_tokens, image.content.dim)  # type: ignore[union-attr]
