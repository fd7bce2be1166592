"""Options that several commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from fourm.generate.subjects import Subject

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)

device = click.option("--device", default="auto", show_default=True)
bf16 = click.option("--bf16", is_flag=True, help="Compute in bfloat16.")
num_samples = click.option(
    "--num-samples", type=click.IntRange(1), default=1, show_default=True, help="Answers, each with its own seed."
)
seed = click.option("--seed", type=int, default=0, show_default=True)
painter = click.option(
    "--painter", type=PATH, default=None,
    help="[text and images] Visual decoder to paint with. [default: that of MODEL]",
)  # fmt: skip


def text_tokenizer(help: str = "As in `fourm generate`.") -> Callable[[Command], Command]:
    """The file of a text tokenizer."""
    return click.option("--text-tokenizer", type=PATH, default=None, help=help)


def form(kind: str) -> Callable[[Command], Command]:
    """How prompts are written: token before them, and phrases.

    Args:
        kind: models that have these options, in front of their help.
    """
    return together(
        click.option(
            "--phrases", type=click.Choice(["plain", "vila", "emu2", "emu2_gen", "vl_gpt"]), default=None,
            help=f"{kind}How questions are put. [default: as the model was trained]",
        ),
        click.option(
            "--start", default=None, metavar="TOKEN",
            help=f"{kind}Token before the prompt, such as <s>. [default: the model's]",
        ),
    )  # fmt: skip


def together(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one, in this order."""

    def added(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return added


def sampling(kind: str = "", default: str = "0") -> Callable[[Command], Command]:
    """How words, or images of a row, are chosen.

    Args:
        kind: see `form`.
        default: temperature, in words.
    """
    return together(
        click.option(
            "--temperature", type=click.FloatRange(0), default=None,
            help=f"{kind}0 takes the likeliest. [default: {default}]",
        ),
        click.option(
            "--top-k", type=click.IntRange(1), default=None, help=f"{kind}Draw among so many of the likeliest."
        ),
        click.option(
            "--top-p", type=click.FloatRange(0, 1, min_open=True), default=None,
            help=f"{kind}Draw among the likeliest that make up this share.",
        ),
    )  # fmt: skip


ASKED = (
    *("subjects", "autoencode", "guided", "examples", "many_examples", "retrieve", "turns", "max_images"),
    *("phrases", "start", "system", "bare_images"),
)
"""Options of models of text and images that say what is asked, and in which form."""
WORDS = ("temperature", "top_k", "top_p", "beams", "max_tokens")
"""Options that say how words are chosen."""


def refuse(kind: str, why: str) -> None:
    """See that no option is given whose help says that it is for models of this kind.

    Args:
        kind: what stands in brackets before the help.
        why: said of options that are given all the same.

    Raises:
        UsageError: naming them.
    """
    context = click.get_current_context()
    given = [
        option.opts[0]
        for option in context.command.params
        if isinstance(option, click.Option)
        and (option.help or "").startswith(f"[{kind}]")
        and context.get_parameter_source(option.name or "") is not ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(f"for models of {kind} alone: {', '.join(given)}. {why}")


decoding = together(
    bf16,
    click.option(
        "--decoder-steps", type=click.IntRange(1), default=None, help="Steps of diffusion decoders. [default: as saved]"
    ),
    click.option(
        "--decoder-scheduler", type=click.Choice(["ddim", "dpm", "unipc"]), default=None,
        help="Scheduler of diffusion decoders. [default: as saved]",
    ),
    text_tokenizer("File to speak through. [default: the model's own, or FOURM_TEXT_TOKENIZER for published models]"),
    device,
)  # fmt: skip
"""How and where a model answers."""


class _Subject(click.ParamType):
    """A subject, read by `parse_subject`."""

    name = "subject"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Subject:
        from fourm.generate.subjects import parse_subject

        return parse_subject(value)


painting = together(
    click.option(
        "--subject", "subjects", multiple=True, type=_Subject(), metavar="WORDS=FILE@BOX",
        help="[text and images] How words of the text look, and where they are: 'a chair=chair.png@0.1,0.2,0.5,0.9' "
        "(left, top, right, bottom as shares of the image), without file or without box. May be repeated.",
    ),
    click.option(
        "--autoencode", type=PATH, default=None, metavar="FILE",
        help="[text and images] Paint this image anew from its vectors alone.",
    ),
    click.option("--guided", is_flag=True, help="[text and images] Move images away from that of the empty prompt."),
    painter,
)  # fmt: skip
"""What is painted by models of text and images, and how."""


asking = together(
    click.option(
        "--example", "examples", multiple=True, type=(PATH, str, str), metavar="IMAGE QUESTION ANSWER",
        help="[text and images] Shown before the question. May be repeated.",
    ),
    click.option(
        "--examples", "many_examples", type=PATH, default=None, metavar="PLACE",
        help="[text and images] Many examples: a folder of images, each with its answer in a .txt, or a file of lines "
        'such as {"image": "b.png", "question": "What is it?", "answer": "a chair"}.',
    ),
    click.option(
        "--retrieve", type=click.IntRange(1), default=None, metavar="NUMBER",
        help="[text and images] Show so many of the examples, those most like the first image. "
        "[default: all; 4 of --examples]",
    ),
    click.option(
        "--turn", "turns", multiple=True, type=(str, str), metavar="QUESTION ANSWER",
        help="[text and images] Said before the question, in a conversation. May be repeated.",
    ),
    click.option(
        "--max-images", type=click.IntRange(0), default=0, metavar="NUMBER",
        help="[text and images] Most images that the model may write into its answer, where it chooses to.",
    ),
    click.option(
        "--beams", type=click.IntRange(1), default=None,
        help="[text and images] Of the search for a likely text. [default: 1]",
    ),
    click.option(
        "--max-tokens", type=click.IntRange(1), default=None, help="[text and images] Of an answer. [default: 64]"
    ),
    form("[text and images] "),
    click.option(
        "--system",
        default=None,
        metavar="TEXT",
        help="[text and images] Words before a conversation; empty for none. [default: those of the model]",
    ),
    click.option(
        "--bare-images/--image-tokens", default=None,
        help="[text and images] Whether images stand without [IMG] and [/IMG] around them. "
        "[default: as the model was trained]",
    ),
)  # fmt: skip
"""What models of text and images are shown and asked, and how."""
