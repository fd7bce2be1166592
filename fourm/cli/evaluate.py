"""`fourm evaluate`: measure models and tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fourm.cli.recipes import recipe_options, show_recipe


class _RecipeFirst(click.Group):
    """A group whose first argument may also be a recipe: then the command `recipe` is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["recipe", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_RecipeFirst, subcommand_metavar="RECIPE [KEY=VALUE]... | tokenizer TOKENIZER DATA [KEY=VALUE]...")
def evaluate() -> None:
    """Measure a trained model or tokenizer on held-out data; writes metrics.json, report.html and pictures.

    RECIPE is a YAML file or the name of a shipped one, `rooms` or `fashion`:

    \b
      fourm evaluate rooms num_samples=64
      fourm evaluate tokenizer outputs/quickstart/tokenizers/rgb outputs/quickstart/rooms/test
    """


@evaluate.command("recipe")
@recipe_options
def evaluate_recipe(recipe: str, overrides: tuple[str, ...], show: bool) -> None:
    """Measure what a RECIPE says; the word `recipe` can be left out."""
    from fourm.evaluate import configs

    _evaluate(configs.load(recipe, overrides), show)


@evaluate.command("tokenizer")
@click.argument("tokenizer", type=click.Path(path_type=Path))
@click.argument("data")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--print", "show", is_flag=True, help="Show all keys with their values and stop.")
def evaluate_tokenizer(tokenizer: Path, data: str, overrides: tuple[str, ...], show: bool) -> None:
    """Measure how well a saved TOKENIZER of any kind gives back the samples of DATA.

    TOKENIZER is its folder, or the output folder of its training; DATA a folder of shards or files, or a pattern.
    Results go to the tokenizer's folder, or to output=FOLDER.

    \b
    Keys that are often set behind them:
      num_samples=1000         use the first so many samples
      crop.kind=center         none, center, random_resized or crop_settings
      decoding.num_steps=10    steps of a diffusion decoder
      decoding.scheduler=dpm   ddim, dpm or unipc
      networks=[]              leave out LPIPS and FID, which download networks
      batch_size=32, num_workers=4, seed=0, device=auto, output=FOLDER
    """
    import json

    from fourm.evaluate import configs

    given = [f"tokenizer={json.dumps(str(tokenizer))}", f"data={json.dumps(data)}"]
    _evaluate(configs.load("tokenizer", [*given, *overrides]), show)


@evaluate.command("knn")
@recipe_options
@click.option("-k", default=20, show_default=True, help="Neighbours that vote.")
@click.option("--temperature", default=0.07, show_default=True, help="Of the weights of their votes.")
def evaluate_knn(recipe: str, overrides: tuple[str, ...], show: bool, k: int, temperature: float) -> None:
    """Classify by nearest neighbours in an encoder's features, for a classification RECIPE of `fourm finetune`."""
    from fourm import recipes
    from fourm.recipe.finetune_schema import FinetuneRecipe

    loaded = recipes.load(recipe, FinetuneRecipe, overrides, folder="finetune")
    if show:
        show_recipe(loaded)
        return
    from fourm.recipe.knn import run

    for name, value in run(loaded, k, temperature).items():
        click.echo(f"{name} {value:.4f}")


def _evaluate(config: Any, show: bool) -> None:
    from fourm.evaluate.configs import TokenizerEvaluation

    if show:
        show_recipe(config)
        return
    from rich.console import Console

    from fourm.evaluate import job
    from fourm.recipe.bundle import load_bundle
    from fourm.report.metrics import rows
    from fourm.report.table import metrics_table

    is_tokenizer = isinstance(config, TokenizerEvaluation)
    metrics = job.run_tokenizer(config) if is_tokenizer else job.run(config, load_bundle)
    console = Console()
    console.print(metrics_table(rows(metrics)))
    console.print(f"{config.output / job.REPORT_FILE}", soft_wrap=True)
