"""Options that several commands have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

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
