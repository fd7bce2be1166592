"""The `fourm` command. Heavy imports happen inside the commands, so that help and config errors answer at once."""

from __future__ import annotations

import errno
import sys

import click

from fourm import __version__
from fourm.cli.convert import convert, export, upload
from fourm.cli.evaluate import evaluate
from fourm.cli.prepare import prepare
from fourm.cli.prompt import prompt
from fourm.cli.retrieve import retrieve
from fourm.cli.train import finetune, pretrain, train_tokenizer, train_wordpiece
from fourm.cli.use import embed, generate, serve, tokenize
from fourm.cli.watch import watch
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


for command in (
    *(prepare, train_tokenizer, train_wordpiece, tokenize, embed, pretrain, finetune),
    *(generate, prompt, serve, retrieve, evaluate, convert, export, upload, watch),
):
    cli.add_command(command)


@cli.command()
@click.option("--quick", is_flag=True, help="Leave out what is tried on GPUs, which takes some minutes.")
def doctor(quick: bool) -> None:
    """Say what of the installation works and what is missing.

    With GPUs: whether they compute what the CPU does, compile, attend and shard, and how fast they exchange and train.
    """
    from fourm import doctor as checks

    report = checks.report()
    if checks.exit_status(report) == 0:
        from fourm.recipe import gpu_checks

        report += gpu_checks.skipped("--quick") if quick else gpu_checks.gpu_checks()
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
