"""VL-GPT's image tokenizer and what paints for it, as their recipes have them."""

from __future__ import annotations

from typing import Any

import torch

from fourm import recipes
from fourm.recipe.schema import PretrainRecipe, TokenizerRecipe
from fourm.registry import implementation
from fourm.train.optimizer import select_trainable


def built(name: str) -> tuple[TokenizerRecipe, Any, set[str]]:
    """A recipe, its tokenizer without weights, and the names of the parameters that learn."""
    recipe = recipes.load(name, TokenizerRecipe, folder="tokenizers")
    with torch.device("meta"):
        model = implementation(recipe.tokenizer.target)(recipe.raw_modality(), recipe.tokenizer)
    select_trainable(model, recipe.train.trainable, recipe.train.freeze)
    return recipe, model, {key for key, parameter in model.named_parameters() if parameter.requires_grad}


def count(model: Any, *parts: str) -> int:
    return sum(p.numel() for key, p in model.named_parameters() if any(part in key for part in parts))


def test_the_painter_is_stable_diffusion_with_new_keys_and_values_for_the_image() -> None:
    _, model, learning = built("vl_gpt_painter")

    assert model.conditions.sizes == {"text": (77, 768), "image": (16, 768)}
    channels = 5 * 320 + 5 * 640 + 6 * 1280  # of the 16 layers that attend to a condition
    assert count(model, ".processor.") == 2 * 768 * channels
    assert count(model, "decoder.") - count(model, ".processor.") == 859_520_964  # the U-Net of Stable Diffusion 1.5
    assert learning == {
        key for key, _ in model.named_parameters() if ".processor." in key or "encoders.image.pooler." in key
    }


def test_the_tokenizer_learns_its_causal_transformer_and_the_estimates_alone() -> None:
    recipe, model, learning = built("vl_gpt")

    assert model.tokens.sizes == {"image": (32, 4096)}
    assert model.sizes == {"text": (77, 768), "image": (16, 768)}
    assert recipe.tokenizer.tokens.encoder.pooler.causal
    assert learning == {
        key for key, _ in model.named_parameters() if key.startswith(("tokens.encoders.image.pooler.", "decoder."))
    }
    assert (recipe.train.max_steps, recipe.train.batch_size, recipe.train.optimizer.lr) == (10_000, 1024, 2e-4)


def test_the_language_model_reads_what_the_tokenizer_makes() -> None:
    for tokenizer, model in (("vl_gpt", "vl_gpt_7b_1"), ("toy_vl_gpt_fashion", "vl_gpt_fashion_1")):
        ours = recipes.load(tokenizer, TokenizerRecipe, folder="tokenizers").tokenizer
        theirs = recipes.load(model, PretrainRecipe, folder="pretrain")
        image, feeder = theirs.modality_set()["image"], theirs.model.feeders["image"]

        assert (image.num_tokens, image.content.dim) == (ours.tokens.num_tokens, ours.tokens.dim)  # type: ignore[union-attr]
        assert feeder.from_tokenizer
        assert feeder.pooler == ours.tokens.encoder.pooler
        if tokenizer == "vl_gpt":
            assert image.image_size == (ours.tokens.size,) * 2
            assert feeder.tower.name == ours.tokens.encoder.tower.name
