"""`fourm prompt`: rows that go on, of images alone or of text and images."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from fourm.cli import options as shared


@click.command()
@click.argument("model")
@click.option("--image", "images", multiple=True, type=shared.PATH, help="What is seen, in order. May be repeated.")
@click.option("--question", default=None, help="[text and images] About the images.")
@click.option("--text", default=None, help="[text and images] Read as it is; <image> stands where an image belongs.")
@click.option(
    "--draw",
    default=None,
    metavar="TEXT",
    help="[text and images] Paint this; with --image a changed one, with several what they have in common.",
)
@shared.painting
@shared.asking
@click.option(
    "--pair",
    "pairs",
    multiple=True,
    nargs=2,
    type=shared.PATH,
    help="[images] An example: a question and its answer; --image is then the question.",
)
@click.option("--out", type=shared.PATH, default=None, help="Folder for images.")
@click.option("--count", type=click.IntRange(1), default=1, show_default=True, help="[images] Images to generate.")
@shared.num_samples
@shared.seed
@shared.sampling(default="text 0, images 1")
@click.option(
    "--window",
    type=click.IntRange(1),
    default=None,
    help="[images] Images seen before a new one. [default: with pairs all, else 15]",
)
@click.option(
    "--begin",
    type=click.IntRange(0),
    default=None,
    help="[images] Id before the prompt, as 8192 of LVM. [default: none]",
)
@click.option("--modality", default=None, help="[images] Of the row. [default: the only one]")
@shared.decoding
def prompt(
    model: str,
    device: str,
    bf16: bool,
    decoder_steps: int | None,
    decoder_scheduler: str | None,
    painter: Path | None,
    text_tokenizer: Path | None,
    **options: Any,
) -> None:
    """Go on with what MODEL is shown.

    A model of text and images (Emu, Emu2, VL-GPT, VILA) answers with text, or paints:

    \b
      fourm prompt vila --image a.png --question "How many chairs are there?"
      fourm prompt vila --image a.png --question "What is it?" --example b.png "What is it?" "a chair"
      fourm prompt vila --image a.png --question "What is it?" --examples FOLDER --retrieve 4
      fourm prompt vila --image a.png --turn "What is it?" "a chair" --question "Of which colour?"
      fourm prompt vl_gpt --text "a red chair" --max-images 1 --out answers
      fourm prompt emu --draw "a red chair" --out answers
      fourm prompt emu --image a.png --draw "make the chair blue" --out answers
      fourm prompt emu --draw "a room with a red chair" --subject "a red chair=a.png@0.1,0.2,0.5,0.9" --out answers
      fourm prompt emu --autoencode a.png --out answers

    A model of sentences of images (LVM, DeLVM) answers with images:

    \b
      fourm prompt lvm --pair photo1.png depth1.png --pair photo2.png depth2.png --image photo3.png --out answers
      fourm prompt lvm --image frame1.png --image frame2.png --count 4 --out film
    """
    import torch

    from fourm.generate.bundle import get_ready, with_painter
    from fourm.recipe.bundle import load_bundle

    bundle: Any = load_bundle(model, text_tokenizer)
    if painter is not None:
        bundle = with_painter(bundle, painter)
    made = dict.fromkeys(bundle.model.modalities)
    chosen = get_ready(
        bundle, made, device, bf16=bf16, decoder_steps=decoder_steps, decoder_scheduler=decoder_scheduler
    )
    asks = any(options[name] is not None for name in ("text", "question", "draw", "autoencode"))
    is_mixed = asks or any(m.is_slots for m in bundle.model.modalities.values())
    with torch.autocast(chosen.type, torch.bfloat16, enabled=bf16):
        for line in (_mixed if is_mixed else _sentence)(bundle, options):
            click.echo(line)


def _mixed(bundle: Any, options: dict[str, Any]) -> list[str]:
    from fourm.generate.interleaved_job import Asked, writing_of
    from fourm.generate.interleaved_job import prompt as run

    shared.refuse("images", "This model answers with text, or paints with --draw: leave them out.")
    asked = Asked(**{field.name: options[field.name] for field in fields(Asked)})
    num_samples = options["num_samples"]
    writing = writing_of(asked, num_samples=num_samples, **{key: options[key] for key in shared.WORDS})
    return run(bundle, asked, options["out"], num_samples=num_samples, seed=options["seed"], writing=writing)


def _sentence(bundle: Any, options: dict[str, Any]) -> list[Path]:
    from fourm.generate.rows import RowSampling
    from fourm.generate.visual import prompt as run

    shared.refuse("text and images", "This model goes on with rows of images: leave them out.")
    if options["out"] is None:
        raise click.UsageError("this model answers with images: give the folder for them with --out")
    heat = 1.0 if options["temperature"] is None else options["temperature"]
    keys = ("pairs", "count", "num_samples", "seed", "window", "begin", "modality")
    return run(
        bundle,
        options["out"],
        frames=options["images"],
        sampling=RowSampling(heat, options["top_k"], options["top_p"]),
        **{key: options[key] for key in keys},
    )
