"""Commands and files of the documentation, as tests run them: as they stand, with settings that make them small."""

from __future__ import annotations

import re
import shlex

from tests.end_to_end.conftest import TOKENIZER

_MODEL = [
    "train.max_steps=2", "train.batch_size=4", "train.device=cpu", "train.precision=fp32", "train.tensorboard=false",
    "model.dim=32", "model.encoder_depth=1", "model.decoder_depth=1",
]  # fmt: skip
_SMALL = {"train-tokenizer": TOKENIZER, "pretrain": _MODEL}


def blocks(page: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a page marks with `<!-- test: NAME -->` and with `<!-- file: NAME -->`, by name."""
    tests = re.findall(r"<!-- test: ([\w-]+) -->\n```\w+\n(.*?)```", page, re.DOTALL)
    files = re.findall(r"<!-- file: ([\w.-]+) -->\n```\w+\n(.*?)```", page, re.DOTALL)
    return dict(tests), dict(files)


def words(block: str) -> list[list[str]]:
    """The words of a block's commands, without comments."""
    return [found for line in block.splitlines() if (found := shlex.split(line, comments=True))]


def small(command: list[str]) -> list[str]:
    """The words behind `fourm`, with settings that make the command small."""
    assert command[0] == "fourm"
    return [*command[1:], *(_SMALL.get(command[1], []) if not {"--print", "--check"}.intersection(command) else [])]
