"""`fourm train-tokenizer`, `train-wordpiece`, `pretrain` and `finetune`: everything that learns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from fourm.cli.recipes import recipe_options, show_recipe


@click.command()
@recipe_options
@click.option(
    "--check", is_flag=True, help="Build on the meta device, report parameters, FLOPs, tokens and memory, and stop."
)
@click.option("--gpus", type=int, help="With --check: GPUs to say memory and days for; without it, the recipe's.")
@click.option("--gpu", help="With --check: their kind, such as h100.")
@click.option("--utilisation", type=float, help="With --check: share of their peak that training reaches.")
def pretrain(
    recipe: str,
    overrides: tuple[str, ...],
    show: bool,
    check: bool,
    gpus: int | None,
    gpu: str | None,
    utilisation: float | None,
) -> None:
    """Train an any-to-any model. The same command goes on where an interrupted run stopped."""
    from fourm import recipes
    from fourm.recipe.schema import PretrainRecipe

    loaded = recipes.load(recipe, PretrainRecipe, overrides, folder="pretrain")
    if show:
        show_recipe(loaded)
    elif check:
        from fourm.recipe.check import check as check_recipe

        asked: dict[str, Any] = {"count": gpus, "kind": gpu and gpu.lower(), "utilisation": utilisation}
        machines = replace(loaded.machines, **{key: value for key, value in asked.items() if value is not None})
        click.echo("\n".join(check_recipe(loaded).lines(machines)))
    else:
        from fourm.recipe.pretrain import run

        run(loaded)


@click.command("train-tokenizer")
@recipe_options
def train_tokenizer(recipe: str, overrides: tuple[str, ...], show: bool) -> None:
    """Train a tokenizer for an image-like modality."""
    from fourm import recipes
    from fourm.recipe.schema import TokenizerRecipe

    loaded = recipes.load(recipe, TokenizerRecipe, overrides, folder="tokenizers")
    if show:
        show_recipe(loaded)
    else:
        from fourm.recipe.tokenizer import run

        run(loaded)


@click.command("train-wordpiece")
@recipe_options
def train_wordpiece(recipe: str, overrides: tuple[str, ...], show: bool) -> None:
    """Train a WordPiece text tokenizer."""
    from fourm import recipes
    from fourm.recipe.schema import TextTokenizerRecipe

    loaded = recipes.load(recipe, TextTokenizerRecipe, overrides, folder="tokenizers")
    if show:
        show_recipe(loaded)
    else:
        from fourm.recipe.wordpiece import run

        run(loaded)


@click.command()
@recipe_options
@click.option("--check", is_flag=True, help="Build on the meta device, report parameters, and stop.")
def finetune(recipe: str, overrides: tuple[str, ...], show: bool, check: bool) -> None:
    """Train an encoder for one task. The same command goes on where an interrupted run stopped."""
    from fourm import recipes
    from fourm.recipe.finetune_schema import FinetuneRecipe

    loaded = recipes.load(recipe, FinetuneRecipe, overrides, folder="finetune")
    if show:
        show_recipe(loaded)
    elif check:
        from fourm.recipe.finetune_check import check as check_recipe

        click.echo("\n".join(check_recipe(loaded)))
    else:
        from fourm.recipe.finetune import run

        run(loaded)
