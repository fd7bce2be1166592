"""`fourm retrieve`: find things through features that a model predicts from whatever it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fourm.cli import options as shared


@click.group()
def retrieve() -> None:
    """Find photographs by captions, or anything by anything, through features that a model predicts."""


@retrieve.command()
@click.argument("model")
@click.argument("prompts", metavar="DATA")
@click.option("--feature", required=True, metavar="NAME", help="Target that decodes to features: tok_dinov2_global.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the index.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@shared.text_tokenizer()
@shared.bf16
@shared.device
def index(model: str, text_tokenizer: Path | None, **options: Any) -> None:
    """Turn everything in DATA (as in `fourm generate --prompts`: rgb=FOLDER, rgb=DATA, captions.txt) into vectors.

    Under torchrun, srun or a SLURM array every process makes its share; shares that are there are not made again.
    """
    from fourm.generate.retrieve import build
    from fourm.recipe.bundle import load_bundle

    click.echo(build(load_bundle(model, text_tokenizer), model=model, **options))


@retrieve.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="INDEX")
@click.option("--given", multiple=True, required=True, metavar="NAME=VALUE", help="As in `fourm generate`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for hits.json and hits.png.")
@click.option("--top", type=click.IntRange(1), default=8, show_default=True, help="Most hits.")
@click.option("--model", default=None, help="Where the model is now. [default: where it was]")
@shared.text_tokenizer()
@shared.bf16
@shared.device
def query(folder: Path, model: str | None, text_tokenizer: Path | None, **options: Any) -> None:
    """Show what of an INDEX is nearest to what is given: caption='a red sofa', rgb=photo.jpg, depth=depth.png."""
    from fourm.generate.retrieve import Index
    from fourm.generate.retrieve import query as ask
    from fourm.recipe.bundle import load_bundle

    index = Index(folder)
    for hit in ask(load_bundle(model or index.model, text_tokenizer), index, **options):
        click.echo(f"{hit.score:.4f} {hit.key}")
