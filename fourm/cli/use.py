"""`fourm tokenize`, `fourm generate` and `fourm serve`: trained networks at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fourm.cli import options as shared


@click.command()
@click.argument("tokenizer", type=click.Path(path_type=Path))
@click.argument("root", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Folder of the token shards. [default: ROOT]"
)
@click.option("--source", default=None, help="Name of the tokens' folder. [default: tok_ and the modality's name]")
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@shared.device
@click.option("--workers", type=click.IntRange(1), default=None, help="Processes. [default: GPUs, or else cores]")
@click.option("--overwrite", is_flag=True, help="Replace tokens that another tokenizer made.")
@click.option(
    "--teacher-weights",
    type=click.Path(path_type=Path),
    default=None,
    help="File with the weights of the network whose features are encoded. [default: as in training]",
)
def tokenize(tokenizer: Path, root: Path, **options: Any) -> None:
    """Turn a modality of the data set ROOT into token shards with a trained TOKENIZER, one row for each stored crop.

    Complete shards are skipped, so an interrupted run goes on where it stopped. Under torchrun, srun or a SLURM array
    every process makes its share of them. The tokens are the same for any number of processes.
    """
    from fourm.recipe.tokenize import run

    run(tokenizer, root, **options)


@click.command()
@click.argument("model")
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--modality", default=None, help="Which texts. [default: the only ones that MODEL reads]")
@click.option("--source", default=None, help="[models of documents] Folder of the texts. [default: caption]")
@shared.form("[models of documents] ")
@click.option("--out", default="text_vectors", show_default=True, help="Name of the new folder in ROOT.")
@click.option(
    "--num-tokens", type=click.IntRange(1), default=None,
    help="Vectors of each text; those behind its end are zeros. [default: as many as the modality has tokens]",
)  # fmt: skip
@click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True)
@shared.device
def embed(model: str, root: Path, **options: Any) -> None:
    """Store what MODEL says of the texts of the data set ROOT with it, for visual decoders to attend to.

    An encoder says what it makes of the text, a model of documents (Emu) the vectors that it generates for a picture.
    Complete shards are skipped, so an interrupted run goes on where it stopped.
    """
    from fourm.recipe.embed import embed as run

    run(model, root, **options)


@click.command()
@click.argument("model")
@click.option(
    "--given",
    multiple=True,
    metavar="NAME=VALUE",
    help="What the model sees: rgb=photo.jpg, caption='a red sofa'.",
)
@click.option(
    "--known",
    multiple=True,
    metavar="NAME=MASK",
    help="Part of an image that counts, white in rgb=mask.png; det=some: there may be more than the given boxes.",
)
@click.option(
    "--sees",
    multiple=True,
    metavar="TARGET=NAMES",
    help="What a target is made from, as rgb=semseg,caption; without it, from all that was given and made before.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME=PLACE",
    help="A further model, for what MODEL cannot generate, or for the steps of --plan that name it.",
)
@click.option(
    "--prompts",
    default=None,
    metavar="[NAMES=]PATH",
    help="Many inputs: captions.txt, a .jsonl file of names and values, rgb=FOLDER of images, or rgb,caption=DATA.",
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
@shared.num_samples
@click.option(
    "--ensemble", is_flag=True, help="One answer from all: means and votes, with maps of where they disagree."
)
@shared.seed
@click.option(
    "--expected", is_flag=True, help="One-step grids: decode the mean code under the probabilities, not the drawn one."
)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Answers computed together.")
@shared.painting
@shared.asking
@shared.sampling("[text and images] ")
@shared.decoding
def generate(
    model: str,
    given: tuple[str, ...],
    targets: str,
    prompts: str | None,
    models: tuple[str, ...],
    painter: Path | None,
    text_tokenizer: Path | None,
    **options: Any,
) -> None:
    """Generate any modalities from any others with a trained MODEL (a folder, or a repository on the Hub).

    With --prompts, answers lie in OUT/KEY/. Finished ones are skipped, so an interrupted run goes on where it stopped.
    Under torchrun, srun or a SLURM array every process does its share. Prompts that cannot be followed are named in
    OUT/rejected.jsonl.

    A model of text and images answers one row: --given image=a.png --given text="What is it?" --to text, or --to image;
    with --to text,image it chooses where images stand.
    """
    asking = {name: options.pop(name) for name in shared.ASKED}
    words = {name: options.pop(name) for name in shared.WORDS}
    if not targets and options["plan"] is None:
        raise click.UsageError("name what to generate: --to depth,caption, or a --plan")
    if not given and prompts is None and asking["autoencode"] is None:
        raise click.UsageError("say what the model sees: --given rgb=photo.jpg, or --prompts captions.txt")
    from fourm.generate.bundle import with_painter
    from fourm.generate.interleaved import writes_rows
    from fourm.generate.reading import parse_given
    from fourm.recipe.bundle import load_bundle, with_others

    places = parse_given(models, "--model", "large=outputs/large/model")
    opened = load_bundle(model, text_tokenizer)
    options.update(given=given, targets=[n for n in targets.split(",") if n])
    if painter is not None:
        opened = with_painter(opened, painter)
    if writes_rows(opened.model):
        from fourm.generate.interleaved_given import run as answer

        options["batch_size"] = 0
        for path in answer(opened, prompts=prompts, model=places, asking=asking, words=words, **options):
            click.echo(path)
        return
    shared.refuse("text and images", "This model is of another kind; the steps of a --plan say how it draws.")
    bundle = with_others(opened, options["plan"], places, text_tokenizer)
    if prompts is None:
        from fourm.generate.job import run

        for path in run(bundle, **options):
            click.echo(path)
    else:
        from fourm.generate.many import run_many

        done = run_many(bundle, prompts=prompts, **options)
        click.echo(done)


@click.command()
@click.argument("model")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; 0.0.0.0 lets other machines use the page."
)
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True)
@click.option(
    "--examples",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder with one folder per example. [text and images] To show before questions: a file of lines, or a folder "
    "of images, as for fourm prompt.",
)
@click.option(
    "--allow-host",
    multiple=True,
    metavar="NAME",
    help="Under which browsers may ask for the page, as that of a server in front of it. May be repeated.  "
    "[default: localhost, --host, this machine's name]",
)
@click.option("--max-queue", type=click.IntRange(1), default=20, show_default=True, help="Requests that may wait.")
@click.option("--max-upload-mb", type=click.IntRange(1), default=20, show_default=True, help="Size of a file.")
@click.option(
    "--max-megapixels", type=click.FloatRange(0, min_open=True), default=50, show_default=True, help="Size of an image."
)
@click.option("--max-text", type=click.IntRange(1), default=4000, show_default=True, help="Characters of a text.")
@click.option(
    "--max-images", type=click.IntRange(1), default=8, show_default=True, help="[text and images] Of a conversation."
)
@click.option(
    "--max-tokens", type=click.IntRange(1), default=512, show_default=True, help="[text and images] Of an answer."
)
@click.option("--max-samples", type=click.IntRange(1), default=8, show_default=True, help="Answers of a request.")
@shared.decoding
def serve(
    model: str,
    text_tokenizer: Path | None,
    max_queue: int,
    max_upload_mb: int,
    max_megapixels: float,
    max_text: int,
    max_samples: int,
    max_images: int,
    max_tokens: int,
    **options: Any,
) -> None:
    """Put a trained MODEL on a web page, where any modalities are generated from any others.

    The page of a model of text and images (Emu, Emu2, VL-GPT, VILA) is a conversation with it.
    """
    from fourm.recipe.bundle import load_bundle
    from fourm.serve.limits import Limits
    from fourm.serve.server import serve as run

    pixels = max(1, round(max_megapixels * 1e6))
    limits = Limits(max_upload_mb * 2**20, pixels, max_text, max_samples, max_queue, max_images, max_tokens)
    run(
        load_bundle(model, text_tokenizer), title="fourm: " + "/".join(Path(model).parts[-2:]), limits=limits, **options
    )
