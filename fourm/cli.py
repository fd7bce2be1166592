"""The `fourm` command. Heavy imports happen inside the commands, so that help and config errors answer at once."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import click

from fourm import __version__
from fourm.errors import FourmError

_RANK_SECONDS = 3.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="fourm")
@click.option("-v", "--verbose", is_flag=True, help="Show debug messages.")
def cli(verbose: bool) -> None:
    """Any-to-any masked multimodal modeling: tokenize, pretrain, generate, evaluate.

    Recipes are YAML files, or names of shipped ones such as `4m_tiny`; any key can be set behind them:
    train.max_steps=100
    """
    import logging

    level = logging.DEBUG if verbose else logging.INFO
    logging.basicConfig(level=level if verbose else logging.WARNING, format="%(message)s")
    logging.getLogger("fourm").setLevel(level)


@cli.group()
def prepare() -> None:
    """Make aligned data."""


@prepare.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--num", type=click.IntRange(1), default=4000, show_default=True, help="Number of rooms.")
@click.option("--size", type=int, default=64, show_default=True, help="Pixels per side, at least 16.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other rooms.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    default=None,
    help="Processes; the rooms are the same for any number. [default: cores]",
)
@click.option("--shard-size", type=click.IntRange(1), default=250, show_default=True, help="Rooms per shard.")
def rooms(out: Path, num: int, size: int, seed: int, workers: int | None, shard_size: int) -> None:
    """Render furnished rooms with exact depth, normals, labels, boxes, captions and edges."""
    from fourm.prepare.rooms import render

    render(out, num=num, size=size, seed=seed, workers=workers or _cores(), shard_size=shard_size)


@prepare.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--num-train", type=click.IntRange(1), default=None, help="Use only the first so many training photographs."
)
@click.option("--num-test", type=click.IntRange(1), default=None, help="Use only the first so many test photographs.")
@click.option("--workers", type=click.IntRange(1), default=None, help="Processes. [default: cores]")
def fashion(out: Path, num_train: int | None, num_test: int | None, workers: int | None) -> None:
    """Turn Fashion-MNIST's photographs into images, silhouettes, edges and captions."""
    from fourm.prepare.fashion import prepare_fashion

    prepare_fashion(out, num_train=num_train, num_test=num_test, workers=workers or _cores())


@prepare.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--sources", default="", metavar="NAMES", help="Subfolders to pack: rgb,caption. [default: all]")
@click.option("--shard-size", type=click.IntRange(1), default=1000, show_default=True, help="Samples per shard.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of the samples.")
def shards(root: Path, out: Path, sources: str, shard_size: int, seed: int) -> None:
    """Pack files of your own, ROOT/<modality>/<class>/<stem>.<ext>, into shards."""
    from fourm.prepare.pack import pack

    pack(root, out, sources=[name for name in sources.split(",") if name], shard_size=shard_size, seed=seed)


@prepare.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--image", "image_source", default="rgb", show_default=True, help="Folder of the images whose sizes count."
)
@click.option(
    "--num-crops", type=click.IntRange(1), default=2, show_default=True, help="Per image: the centre, then random ones."
)
@click.option(
    "--min-scale",
    type=click.FloatRange(0.01, 1.0),
    default=1.0,
    show_default=True,
    help="Smallest share of the area in a random crop.",
)
@click.option(
    "--hflip",
    type=click.FloatRange(0.0, 1.0),
    default=0.5,
    show_default=True,
    help="Probability of mirroring a random crop.",
)
@click.option("--aspect", type=click.FloatRange(0.1, 10.0), default=1.0, show_default=True, help="Width : height.")
@click.option("--seed", type=int, default=0, show_default=True)
def crops(root: Path, **options: Any) -> None:
    """Store random crops and flips with the data set ROOT, for tokens made beforehand to follow."""
    from fourm.prepare.crops import write_crops

    write_crops(root, **options)


@cli.command()
@click.argument("tokenizer", type=click.Path(path_type=Path))
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Folder of the token shards. [default: ROOT]"
)
@click.option("--source", default=None, help="Name of the tokens' folder. [default: tok_ and the modality's name]")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--overwrite", is_flag=True, help="Replace tokens that another tokenizer made.")
@click.option(
    "--teacher-weights",
    type=click.Path(path_type=Path),
    default=None,
    help="File with the weights of the network whose features are encoded. [default: as in training]",
)
def tokenize(tokenizer: Path, root: Path, **options: Any) -> None:
    """Turn a modality of the data set ROOT into token shards with a trained TOKENIZER, one row for each stored crop.

    Complete shards are skipped, so an interrupted run goes on where it stopped. Under torchrun the ranks share the
    shards.
    """
    from fourm.recipe.tokenize import run

    run(tokenizer, root, **options)


def _recipe_options(command: Any) -> Any:
    """Arguments and options of all commands that run a recipe."""
    command = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(command)
    command = click.argument("recipe", metavar="RECIPE")(command)
    return click.option("--print", "show", is_flag=True, help="Show the resolved recipe and stop.")(command)


@cli.command()
@_recipe_options
@click.option(
    "--check", is_flag=True, help="Build on the meta device, report parameters, FLOPs, tokens and memory, and stop."
)
def pretrain(recipe: str, overrides: tuple[str, ...], show: bool, check: bool) -> None:
    """Train an any-to-any model. The same command goes on where an interrupted run stopped."""
    from fourm import config as configs
    from fourm.recipe.schema import PretrainRecipe

    loaded = configs.load(recipe, PretrainRecipe, overrides, folder="pretrain")
    if show:
        _show(loaded)
    elif check:
        from fourm.recipe.check import check as check_recipe

        click.echo("\n".join(check_recipe(loaded).lines()))
    else:
        from fourm.recipe.pretrain import run

        run(loaded)


@cli.command("train-tokenizer")
@_recipe_options
def train_tokenizer(recipe: str, overrides: tuple[str, ...], show: bool) -> None:
    """Train a tokenizer for an image-like modality."""
    from fourm import config as configs
    from fourm.recipe.schema import TokenizerRecipe

    loaded = configs.load(recipe, TokenizerRecipe, overrides, folder="tokenizers")
    if show:
        _show(loaded)
    else:
        from fourm.recipe.tokenizer import run

        run(loaded)


@cli.command("train-wordpiece")
@_recipe_options
def train_wordpiece(recipe: str, overrides: tuple[str, ...], show: bool) -> None:
    """Train a WordPiece text tokenizer."""
    from fourm import config as configs
    from fourm.recipe.schema import TextTokenizerRecipe

    loaded = configs.load(recipe, TextTokenizerRecipe, overrides, folder="tokenizers")
    if show:
        _show(loaded)
    else:
        from fourm.recipe.wordpiece import run

        run(loaded)


@cli.command()
@click.argument("model")
@click.option(
    "--given",
    multiple=True,
    required=True,
    metavar="NAME=VALUE",
    help="What the model sees: rgb=photo.jpg, caption='a red sofa'.",
)
@click.option(
    "--to",
    "targets",
    default="",
    metavar="NAMES",
    help="What to generate, in this order: depth,normal,semseg,caption,det. [default: all of --plan]",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option("--plan", default=None, help="YAML with the steps of the chain, or the name of a shipped one.")
@click.option(
    "--num-samples", type=click.IntRange(1), default=1, show_default=True, help="Answers, each with its own seed."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--expected", is_flag=True, help="One-step grids: decode the mean code under the probabilities, not the drawn one."
)
@click.option("--bf16", is_flag=True, help="Compute in bfloat16.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Answers computed together.")
@click.option(
    "--decoder-steps", type=click.IntRange(1), default=None, help="Steps of diffusion decoders. [default: as saved]"
)
@click.option(
    "--decoder-scheduler",
    type=click.Choice(["ddim", "dpm", "unipc"]),
    default=None,
    help="Scheduler of diffusion decoders. [default: as saved]",
)
@click.option("--device", default="auto", show_default=True)
def generate(model: str, given: tuple[str, ...], targets: str, **options: Any) -> None:
    """Generate any modalities from any others with a trained MODEL (a folder, or a repository on the Hub)."""
    if not targets and options["plan"] is None:
        raise click.UsageError("name what to generate: --to depth,caption, or a --plan")
    from fourm.generate.job import run
    from fourm.recipe.bundle import load_bundle

    for path in run(load_bundle(model), given=given, targets=[n for n in targets.split(",") if n], **options):
        click.echo(path)


class _RecipeFirst(click.Group):
    """A group whose first argument may also be a recipe: then the command `recipe` is meant."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["recipe", *args]
        return super().parse_args(ctx, args)


@cli.group(cls=_RecipeFirst, subcommand_metavar="RECIPE [KEY=VALUE]... | tokenizer TOKENIZER DATA [KEY=VALUE]...")
def evaluate() -> None:
    """Measure a trained model or tokenizer on held-out data; writes metrics.json, report.html and pictures.

    RECIPE is a YAML file or the name of a shipped one, `rooms` or `fashion`:

    \b
      fourm evaluate rooms num_samples=64
      fourm evaluate tokenizer outputs/quickstart/tokenizers/rgb outputs/quickstart/rooms/test
    """


@evaluate.command("recipe")
@_recipe_options
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


def _evaluate(config: Any, show: bool) -> None:
    from fourm.evaluate.configs import TokenizerEvaluation

    if show:
        _show(config)
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


@cli.command()
def finetune() -> None:
    """Train for detection, segmentation, depth or classification (not part of this version yet)."""
    raise FourmError("fine-tuning is not part of this version yet; `fourm --help` lists what is")


@cli.command()
def doctor() -> None:
    """Say what of the installation works and what is missing."""
    from fourm import doctor as checks

    report = checks.report()
    click.echo(checks.render(report))
    sys.exit(checks.exit_status(report))


@cli.command()
@click.argument("pipeline")
@click.argument("overrides", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--list", "listing", is_flag=True, help="Show the stages and their commands, and stop.")
def run(pipeline: str, overrides: tuple[str, ...], listing: bool) -> None:
    """Run the stages of a PIPELINE (`quickstart`, `fashion`, or a YAML file).

    Complete stages are skipped, and an interrupted one resumes.
    """
    from fourm.pipeline import describe, load, run_pipeline

    loaded = load(pipeline, overrides)
    if listing:
        click.echo(describe(loaded))
    else:
        run_pipeline(loaded)


def _show(recipe: Any) -> None:
    import yaml

    from fourm import config as configs

    click.echo(yaml.safe_dump(configs.to_dict(recipe), sort_keys=False).rstrip())


def _cores() -> int:
    from fourm.machine import num_cores

    return num_cores()


def _let_rank_0_speak() -> None:
    """What is wrong for all ranks is told once: torchrun ends the others soon after the first of them.

    A rank that fails alone tells it after this moment.
    """
    import os
    import time

    if int(os.environ.get("RANK", "0")) > 0:
        time.sleep(_RANK_SECONDS)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of the user end with one message and exit status 1."""
    try:
        cli(args=arguments, standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except FourmError as error:
        _let_rank_0_speak()
        click.echo(f"{type(error).__name__}: {error}", err=True)
        sys.exit(getattr(error, "exit_status", 1))
    except OSError as error:
        if error.errno not in (*_FULL, *_FORBIDDEN):
            raise
        _let_rank_0_speak()
        remedy = "free some space" if error.errno in _FULL else "choose a folder you may write to"
        click.echo(
            f"cannot write {error.filename or ''}: {error.strerror}; {remedy} and run the same command again", err=True
        )
        sys.exit(1)
