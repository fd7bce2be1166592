"""`fourm convert` and `fourm upload`: checkpoints of others and ours, and the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from fourm.convert import checkpoints
from fourm.tokenizers import published_text


@click.group()
def convert() -> None:
    """Turn published checkpoints into folders of fourm, and trained models into the published layout."""


@convert.command("ml4m")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
@click.option("--modality", default=None, help="For a tokenizer: what it encodes, such as depth@224. [default: found]")
@click.option(
    "--tokenizer",
    "tokenizers",
    multiple=True,
    metavar="NAME=PATH",
    help="For a model: a converted tokenizer to copy along, tok_rgb@224=tokenizers/rgb.",
)
@click.option(
    "--text-tokenizer",
    type=click.Path(path_type=Path),
    envvar=published_text.TEXT_TOKENIZER_VARIABLE,
    default=None,
    help=f"For a model: the published file {published_text.TEXT_TOKENIZER_FILE}.",
)
def ml4m(
    source: str, out: Path, modality: str | None, tokenizers: tuple[str, ...], text_tokenizer: Path | None
) -> None:
    """Convert a published 4M model or tokenizer SRC to the folder DST.

    SRC is a repository on the Hub, a folder with config.json and model.safetensors, a .safetensors file with its
    config inside, or a .pth file of a training with the public code.

    \b
      fourm convert ml4m EPFL-VILAB/4M_tokenizers_rgb_16k_224-448 tokenizers/rgb
      fourm convert ml4m EPFL-VILAB/4M-21_B 4m21_b --tokenizer tok_rgb@224=tokenizers/rgb
    """
    named = dict(_pair(text) for text in tokenizers)
    from fourm.convert.job import from_ml4m

    _say(from_ml4m(source, out, modality=modality, tokenizers=named, text_tokenizer=text_tokenizer))


@convert.command("vqgan")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
def vqgan(source: str, out: Path) -> None:
    """Convert LVM's image tokenizer SRC, a VQGAN, to the folder DST.

    SRC is a repository on the Hub, or a folder with config.json and model.safetensors (or pytorch_model.bin).

    \b
      fourm convert vqgan Emma02/vqvae_ckpts tokenizers/lvm
    """
    from fourm.convert.job import from_vqgan

    _say(from_vqgan(source, out))


_LAYERS = "Blocks the probe averages: last, best, or numbers such as 14-19. [default: found, or the last six]"
_HEADS = "Attention heads, where there is no config. [default: one for each 128 channels, as published]"


@convert.command("aim")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
@click.option("--head", type=click.Path(path_type=Path), default=None, help="File of the probe, published apart.")
@click.option("--layers", default=None, help=_LAYERS)
@click.option("--heads", type=click.IntRange(1), default=None, help=_HEADS)
def aim(source: str, out: Path, head: Path | None, layers: str | None, heads: int | None) -> None:
    """Convert a published AIM encoder SRC to the folder DST, which fourm.backbone reads and finetune starts from.

    SRC is a folder with config.json and model.safetensors, a .safetensors file, a .pth file or a repository.

    \b
      fourm convert aim aim_600m_2bimgs_attnprobe_backbone.pth aim_600m \\
        --head aim_600m_2bimgs_attnprobe_head_best_layers.pth
    """
    from fourm.recipe.aim import convert as write

    _say(write(source, out, version="aim", head=head, layers=layers, num_heads=heads))


@convert.command("aimv2")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
@click.option("--heads", type=click.IntRange(1), default=None, help=_HEADS)
def aimv2(source: str, out: Path, heads: int | None) -> None:
    """Convert a published AIMv2 encoder SRC, with learned or native positions, to the folder DST.

    \b
      fourm convert aimv2 apple/aimv2-large-patch14-224 aimv2_large
    """
    from fourm.recipe.aim import convert as write

    _say(write(source, out, version="aimv2", num_heads=heads))


@convert.command("llama")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
@click.option("--modality", default="visual", show_default=True, help="What its ids are called.")
@click.option("--tokenizer", type=click.Path(path_type=Path), default=None, help="Converted image tokenizer to copy.")
@click.option(
    "--text-tokenizer", type=click.Path(path_type=Path), default=None, help="The same of text. [default: found]"
)
@click.option(
    "--add",
    "tokens",
    multiple=True,
    metavar="TOKEN[=WORDS]",
    help="Of text: a new token, whose embeddings begin as the mean of all, or of those of the words.",
)
def llama(
    source: str, out: Path, modality: str, tokenizer: Path | None, text_tokenizer: Path | None, tokens: tuple[str, ...]
) -> None:
    """Convert a language model SRC of Llama's layout, such as LVM, DeLVM, Vicuna or Qwen 2, to the folder DST.

    SRC is a folder with config.json and model.safetensors, or a repository on the Hub. Ids called text are text.

    \b
      fourm convert llama Emma02/LVM_ckpts lvm_7b --tokenizer tokenizers/lvm
      fourm convert llama llama_7b text_7b --modality text --add [IMG] --add [/IMG] --add [USER]=user
    """
    from fourm.convert.llama import from_llama

    added = {token: words or None for token, _, words in (text.partition("=") for text in tokens)}
    _say(from_llama(source, out, modality=modality, tokenizer=tokenizer or text_tokenizer, tokens=added))


_TEXT = "Its tokenizer.json, to be copied along. [default: found, if there is one]"


@convert.command("vila")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
@click.option("--text-tokenizer", type=click.Path(path_type=Path), default=None, help=_TEXT)
def vila(source: str, out: Path, text_tokenizer: Path | None) -> None:
    """Convert a model SRC of VILA's layout to the folder DST.

    SRC is a folder with the folders llm, vision_tower and mm_projector, or a repository on the Hub.

    \b
      fourm convert vila Efficient-Large-Model/VILA1.5-3b vila_3b
    """
    from fourm.convert.vila import from_vila

    _say(from_vila(source, out, text_tokenizer=text_tokenizer))


_TOKENIZER = "Its tokenizer.json, with its special tokens, to be copied along."


@convert.command("emu")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
@click.option("--text-tokenizer", type=click.Path(path_type=Path), default=None, help=_TOKENIZER)
def emu(source: str, out: Path, text_tokenizer: Path | None) -> None:
    """Convert Emu SRC, without its image decoder, to the folder DST. LoRA of Emu-I is merged.

    SRC is the folder pretrain of the repository, its folder multimodal_encoder, or a file of weights.

    \b
      fourm convert emu Emu/pretrain emu_14b --text-tokenizer tokenizer.json
    """
    from fourm.convert.emu import from_emu

    _say(from_emu(source, out, "emu", text_tokenizer=text_tokenizer))


@convert.command("emu2")
@click.argument("source", metavar="SRC")
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
@click.option("--num-tokens", type=click.IntRange(1), default=64, show_default=True, help="Of an image; 256 for Chat.")
@click.option("--text-tokenizer", type=click.Path(path_type=Path), default=None, help=_TOKENIZER)
def emu2(source: str, out: Path, num_tokens: int, text_tokenizer: Path | None) -> None:
    """Convert Emu2 SRC, without its image decoder, to the folder DST.

    SRC is a folder with config.json and safetensors, one with the folder multimodal_encoder (Emu2-Gen), a file of
    weights, or a repository on the Hub.

    \b
      fourm convert emu2 BAAI/Emu2-Chat emu2_chat --num-tokens 256
    """
    from fourm.convert.emu import from_emu

    _say(from_emu(source, out, "emu2", num_tokens=num_tokens, text_tokenizer=text_tokenizer))


@convert.command("to-llama")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
def to_llama(source: Path, out: Path) -> None:
    """Write the decoder SRC of one modality as a folder DST that transformers loads as LlamaForCausalLM."""
    from fourm.convert.llama import to_llama as write

    _say(write(source, out))


@convert.command("to-ml4m")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
def to_ml4m(source: Path, out: Path) -> None:
    """Write the model or tokenizer SRC in the published layout.

    DST becomes a folder with config.json and model.safetensors, or one file if it ends in .safetensors. What was
    converted from the published layout comes back bit for bit.
    """
    from fourm.convert.job import to_ml4m as write

    _say(write(source, out))


@convert.command("list")
def list_checkpoints() -> None:
    """List the published checkpoints with what they are and their licence."""
    width = max(map(len, checkpoints.CHECKPOINTS))
    for one in checkpoints.CHECKPOINTS.values():
        click.echo(f"{one.repository:<{width}}  {one.content}")
    licences = sorted({one.licence for one in checkpoints.CHECKPOINTS.values()})
    click.echo(f"\nLicence of the weights: {'; '.join(licences)}")


@click.command()
@click.argument("source", metavar="RUN")
@click.argument("out", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--averaged/--last", default=None, help="The running mean of the weights, or the last. [default: the mean, if any]"
)
def export(source: str, out: Path, averaged: bool | None) -> None:
    """Write the newest checkpoint of a RUN as a model folder DST, with safetensors, while it trains or after.

    RUN is the output folder, the folder of the checkpoints or one of them, on a disk or at a URL.
    """
    from fourm.recipe.export import export as write

    click.echo(write(source, out, averaged=averaged))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repository")
@click.option("--private", is_flag=True, help="Only you and whom you name can see it.")
@click.option("--message", default="Upload with fourm", show_default=True, help="Of the commit.")
def upload(folder: Path, repository: str, private: bool, message: str) -> None:
    """Put a model or tokenizer on the Hugging Face Hub, as REPOSITORY (ORGANISATION/NAME).

    It is loaded from there by that name. Log in first, with `hf auth login` or the variable HF_TOKEN.
    """
    from fourm.convert.hub import upload as put

    click.echo(put(folder, repository, private=private, message=message))


def _pair(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not name or not path:
        raise click.UsageError(f"--tokenizer is '{text}'; expected NAME=PATH, such as tok_rgb@224=tokenizers/rgb")
    return name, Path(path)


def _say(lines: list[str]) -> None:
    for line in lines:
        click.echo(line)
