"""Every piece of YAML in the documentation is a recipe, or part of one that then loads and builds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from fourm import recipes

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{i}")
    for page in sorted(DOCS.glob("*.md"))
    for i, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S))
]


def over(base: str, block: str, folder: Path) -> Path:
    """A file with the block's keys over a shipped recipe."""
    path = folder / "recipe.yaml"
    own = yaml.safe_load(block)
    path.write_text(yaml.safe_dump(own if "base" in own else {"base": base, **own}))
    return path


@pytest.mark.parametrize("block", BLOCKS)
def test_yaml_in_the_documentation_loads(block: str, tmp_path: Path) -> None:
    from fourm.generate.plan import GenerationPlan
    from fourm.pipeline.schema import Pipeline
    from fourm.prepare.photos.recipe import PhotosRecipe
    from fourm.prepare.sentences.recipe import SentencesRecipe
    from fourm.recipe.finetune_schema import FinetuneRecipe
    from fourm.recipe.schema import PretrainRecipe, TokenizerRecipe

    keys = yaml.safe_load(block).keys()
    if keys & {"steps", "stages"}:
        path = tmp_path / "whole.yaml"
        path.write_text(block)
        recipes.load(path, GenerationPlan if "steps" in keys else Pipeline)
    elif "sentences" in keys:
        recipes.load(over("sentences/rooms", block, tmp_path), SentencesRecipe)
    elif "labels" in keys:
        recipes.load(over("prepare/photos", block, tmp_path), PhotosRecipe, ["input=in", "output=out"])
    elif keys & {"backbone", "head"}:
        recipes.load(over("finetune/rooms_semseg", block, tmp_path), FinetuneRecipe)
    elif keys & {"tokenizer", "modality"}:
        recipes.load(over("tokenizers/rooms_depth", block, tmp_path), TokenizerRecipe)
    else:
        base = "pretrain/4m_tiny" if "@224" in block else "pretrain/rooms"
        builds(recipes.load(over(base, block, tmp_path), PretrainRecipe))


def builds(recipe: Any) -> None:
    """Names of modalities and patterns of parameters have to match something."""
    import torch

    from fourm.recipe.pretrain import build_objective
    from fourm.registry import implementation
    from fourm.train.optimizer import parameter_groups, select_trainable

    modalities = recipe.modality_set()
    build_objective(recipe, modalities, None)
    with torch.device("meta"):
        model = implementation(recipe.model.target)(modalities, recipe.model)
    select_trainable(model, recipe.train.trainable, recipe.train.freeze)
    parameter_groups(model, recipe.train.optimizer)
