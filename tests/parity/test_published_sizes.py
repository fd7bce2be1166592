"""Shipped recipes of published tokenizers have the published numbers of parameters (position tables count too)."""

from __future__ import annotations

import pytest
import torch

from fourm import recipes
from fourm.recipe.schema import PretrainRecipe, TokenizerRecipe
from fourm.recipe.tokenizer import build_tokenizer
from fourm.registry import implementation

PUBLISHED = {
    "divae_rgb_b16_224-448": 287_346_000,
    "divae_depth_b16_224-448": 286_805_296,
    "divae_normal_b16_224-448": 287_346_000,  # the codebook, which is half as large, does not count
    "divae_rgb_1k_uvit_224-448": 218_533_155,
    "vqvae_semseg_b16_224-448": 219_783_072,
    "vqvae_clip_b16_224-448": 181_598_752,
    "vqvae_dinov2_b14_224-448": 182_360_864,
    "vqvae_sam_mask": 181_550_468,
    "memcodes_dinov2_global": 115_042_048,
    "memcodes_smpl_pose": 106_683_599,
}
NEARLY = {
    "divae_rgb_b16": 287_346_000,
    "divae_depth_b16": 286_805_296,
    "divae_canny_b16_224-512": 286_805_296,
    "divae_rgb_1k_uvit": 218_533_155,
    "vqvae_semseg_b16": 219_783_072,
    "vqvae_clip_b16": 181_598_752,
    "vqvae_imagebind_h14_224-448": 182_360_864,  # given together with DINOv2's, whose features are narrower
}


def size(recipe: str) -> int:
    with torch.device("meta"):
        model = build_tokenizer(recipes.load(recipe, TokenizerRecipe, folder="tokenizers"))
    tables = [buffer.numel() for name, buffer in model.named_buffers() if name.endswith("pos_emb")]
    return sum(parameter.numel() for parameter in model.parameters()) + sum(tables)


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_the_number_of_parameters_is_the_published_one(recipe):
    assert size(recipe) == PUBLISHED[recipe]


@pytest.mark.parametrize("recipe", NEARLY)
def test_other_position_tables_change_it_by_less_than_a_hundredth(recipe):
    assert size(recipe) == pytest.approx(NEARLY[recipe], rel=0.01)


def test_clip_has_the_published_number_of_parameters() -> None:
    recipe = recipes.load("clip_b16", PretrainRecipe, folder="pretrain")
    with torch.device("meta"):
        model = implementation(recipe.model.target)(recipe.modality_set(), recipe.model)

    assert sum(parameter.numel() for parameter in model.parameters()) == 149_620_737
