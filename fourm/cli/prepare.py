"""`fourm prepare`: make aligned data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fourm.machine import num_cores


@click.group()
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

    render(out, num=num, size=size, seed=seed, workers=workers or num_cores(), shard_size=shard_size)


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

    prepare_fashion(out, num_train=num_train, num_test=num_test, workers=workers or num_cores())


@prepare.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--num", type=click.IntRange(1), default=1000, show_default=True, help="Number of scenes.")
@click.option("--size", type=click.IntRange(32), default=128, show_default=True, help="Pixels per side.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other scenes.")
@click.option(
    "--split",
    type=click.Choice(["all", "train", "val"]),
    default="all",
    show_default=True,
    help="Which photographs they are made of; those of train and val are disjoint.",
)
@click.option("--stamps", type=click.Path(path_type=Path), default=None, help="Folder of Tux Paint's stamps.")
@click.option(
    "--backgrounds", type=click.Path(path_type=Path), default=None, help="Folder of photographs to put behind."
)
@click.option("--workers", type=click.IntRange(1), default=None, help="Processes. [default: cores]")
def scenes(
    out: Path,
    num: int,
    size: int,
    seed: int,
    split: Any,
    stamps: Path | None,
    backgrounds: Path | None,
    workers: int | None,
) -> None:
    """Compose cut-out photographs into scenes with exact boxes and masks, in COCO's form."""
    from fourm.prepare.scenes.cutouts import BACKGROUNDS, STAMPS
    from fourm.prepare.scenes.job import prepare_scenes

    prepare_scenes(
        out, num=num, size=size, seed=seed, split=split, stamps=stamps or STAMPS,
        backgrounds=backgrounds or BACKGROUNDS, workers=workers or num_cores(),
    )  # fmt: skip


@prepare.command()
@click.argument("rooms", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--workers", type=click.IntRange(1), default=None, help="Processes. [default: cores]")
def coco(rooms: Path, out: Path, workers: int | None) -> None:
    """Write the rooms below ROOMS in COCO's form, with the exact mask of every piece of furniture."""
    from fourm.prepare.scenes.rooms import export_rooms

    export_rooms(rooms, out, workers=workers or num_cores())


@prepare.command()
@click.argument("data", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed gives other documents.")
@click.option("--task", "tasks", multiple=True, help="What to make; may be given several times. [default: everything]")
@click.option("--workers", type=click.IntRange(1), default=None, help="Processes. [default: cores]")
def documents(data: Path, out: Path, seed: int, tasks: tuple[str, ...], workers: int | None) -> None:
    """Write documents of text and images about the rooms or clothes below IN: captions, stories, questions, chats.

    IN is one split of `fourm prepare rooms` or `fourm prepare fashion`. The same command goes on where an interrupted
    one stopped.
    """
    from fourm.prepare.documents.job import prepare_documents

    prepare_documents(data, out, seed=seed, tasks=tasks, workers=workers or num_cores())


@prepare.command()
@click.argument("source", metavar="IN")
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--recipe", default="photos", show_default=True, help="YAML file, or name of a shipped one: what to make."
)
@click.option("--workers", type=click.IntRange(1), default=None, help="Processes. [default: GPUs, or else cores]")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where the processes run: on this machine, or on a Ray cluster.",
)
@click.option(
    "--retry", is_flag=True, help="Make shards anew that files were left out of, if they are repaired by now."
)
@click.option("--print", "show", is_flag=True, help="Show the resolved recipe, and stop.")
def photos(
    source: str,
    out: Path,
    overrides: tuple[str, ...],
    recipe: str,
    workers: int | None,
    engine: Any,
    retry: bool,
    show: bool,
) -> None:
    """Turn photographs into aligned shards with labels: depth, segments, boxes, captions, edges, colours, your own.

    IN is a folder of photographs or of tars, tars as 'photos/{00000..00099}.tar' or pipe:COMMAND, a URL of any, a data
    set of the Hub as hf:NAME[:CONFIG][:SPLIT], or Parquet files.
    The same command goes on where an interrupted one stopped, and makes only what is missing. Under torchrun, srun
    or a SLURM array every process makes its share.
    """
    from fourm import recipes
    from fourm.cli.recipes import show_recipe
    from fourm.machine import part_from_environment
    from fourm.prepare.photos.recipe import PhotosRecipe

    given = [f"input={_quoted(source)}", f"output={_quoted(str(out))}"]
    loaded = recipes.load(recipe, PhotosRecipe, [*given, *overrides], folder="prepare")
    if show:
        show_recipe(loaded)
        return
    from fourm.prepare.photos.job import prepare_photos

    prepare_photos(loaded, workers=workers, part=part_from_environment(), engine=engine, retry=retry)


def _quoted(text: str) -> str:
    """Text as a value of YAML that stays text."""
    import json

    return json.dumps(text, ensure_ascii=False)


@prepare.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--print", "show", is_flag=True, help="Show the resolved recipe, and stop.")
@click.option("--pictures", type=click.Path(path_type=Path), help="Draw eight samples here, to prompt with, and stop.")
def sentences(recipe: str, overrides: tuple[str, ...], show: bool, pictures: Path | None) -> None:
    """Turn aligned data into visual sentences of tokens: pairs, annotations, clips, classes, colours, gaps.

    RECIPE is a YAML file, or the name of a shipped one: rooms, rooms_tail, fashion.
    """
    from fourm import recipes
    from fourm.cli.recipes import show_recipe
    from fourm.prepare.sentences.recipe import SentencesRecipe

    loaded = recipes.load(recipe, SentencesRecipe, overrides, folder="sentences")
    if show:
        show_recipe(loaded)
        return
    from fourm.prepare.sentences.job import prepare_sentences, write_pictures

    if pictures is None:
        prepare_sentences(loaded)
    else:
        for path in write_pictures(loaded, pictures):
            click.echo(path)


@prepare.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--num", type=click.IntRange(1), required=True, help="Documents to join into one.")
def concat(source: Path, out: Path, num: int) -> None:
    """Join documents of tokens, such as pairs of images, NUM by NUM: SOURCE.bin or .jsonl to OUT.bin with its index."""
    from fourm.data.documents import DocumentFile, DocumentWriter, concatenate

    file = DocumentFile(source)
    with DocumentWriter(out) as writer:
        for ids in concatenate((file.read(n) for n in range(len(file))), num):
            writer.write(ids)


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


@prepare.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--image", "image_source", default="rgb", show_default=True, help="Folder of the images.")
@click.option("--side", type=click.IntRange(1), default=4, show_default=True, help="Pixels per side of a thumbnail.")
def thumbnails(root: Path, **options: Any) -> None:
    """Store the thumbnail of each image with the data set ROOT as one vector, for tokenizers of vectors."""
    from fourm.prepare.thumbnails import write_thumbnails

    write_thumbnails(root, **options)


@prepare.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--workers", type=click.IntRange(1), default=None, help="Processes. [default: cores]")
@click.option(
    "--report", type=click.Path(path_type=Path), default=None, metavar="FILE", help="Write all problems here, as JSON."
)
@click.option("--lines", type=click.IntRange(0), default=20, show_default=True, help="Most problems to show.")
def verify(out: Path, workers: int | None, report: Path | None, lines: int) -> None:
    """Check all shards below OUT: complete, aligned, unchanged, decodable, in range. Every bad file is named.

    The exit status is 1 if anything is wrong.
    """
    import sys

    from rich.console import Console

    from fourm.prepare.verify import table
    from fourm.prepare.verify import verify as check

    verdict = check(out, workers=workers or num_cores())
    if report is not None:
        verdict.save(report)
    for problem in verdict.problems[:lines]:
        click.echo(problem)
    if len(verdict.problems) > lines:
        click.echo(f"... and {len(verdict.problems) - lines} more problems; {report or '--report FILE'} names all")
    Console().print(table(verdict))
    sys.exit(1 if verdict.problems else 0)


@prepare.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--num", type=click.IntRange(1), default=12, show_default=True, help="Number of samples.")
@click.option(
    "--out", "page", type=click.Path(path_type=Path), default=None, metavar="FILE.html",
    help="The page. [default: OUT/overview.html]",
)  # fmt: skip
def show(out: Path, num: int, page: Path | None) -> None:
    """Write a page that shows what is below OUT: aligned samples and their sources, or documents of text and images."""
    if (out / "documents.json").is_file():
        from fourm.prepare.documents.show import show_documents as write
    else:
        from fourm.prepare.show import show as write

    click.echo(write(out, page or out / "overview.html", num=num))
