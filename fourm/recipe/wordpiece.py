"""Train a WordPiece tokenizer on the texts of a data set, or give that of a language model further tokens."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from fourm.data import decode as decoding
from fourm.data.interleaved_configs import ChatConfig, InterleavedConfig
from fourm.data.interleaved_files import LineDocuments
from fourm.data.interleaved_parts import Text
from fourm.data.source import open_source
from fourm.data.tables import Table, is_table
from fourm.errors import ConfigError
from fourm.layouts import Discrete, Sequence
from fourm.modality import Modality
from fourm.recipe.schema import TextTokenizerRecipe
from fourm.tokenizers.text import TextTokenizer, train_wordpiece

_LOG = logging.getLogger(__name__)


def run(recipe: TextTokenizerRecipe) -> None:
    """Make and save the tokenizer.

    Raises:
        ConfigError: if no sources are named.
        DataError: if the texts are missing or damaged.
    """
    if recipe.extend is not None:
        extended = TextTokenizer.load(recipe.extend).extended(recipe.tokens, recipe.special)
        extended.save(recipe.output)
        _LOG.info("%s: %d entries", recipe.output, extended.vocab_size)
        return
    if not recipe.sources:
        raise ConfigError("sources is empty; name the folders with texts, for instance sources=[caption]")
    tokenizer = train_wordpiece(
        texts(recipe),
        recipe.vocab_size,
        recipe.classes,
        recipe.output,
        num_sentinels=recipe.num_sentinels,
        num_coordinates=recipe.num_coordinates,
        tokens=recipe.tokens,
    )
    _LOG.info("%s: %d entries", recipe.output, tokenizer.vocab_size)


def texts(recipe: TextTokenizerRecipe) -> Iterator[str]:
    """Every text of every sample, all alternatives of a caption included."""
    if is_table(str(recipe.path)):
        table = Table(str(recipe.path))
        for column in recipe.sources:
            yield from table.texts(column)
        return
    for name in recipe.sources:
        if (recipe.path / f"{name}.jsonl").is_file():
            yield from _of_documents(recipe.path, name)
            continue
        source = open_source(str(recipe.path), [name])
        modality = Modality("text", Sequence(1), Discrete(1), source=name, decode="text")
        for n in range(len(source)):
            value = decoding.decode(source.read(n)[name], modality, partial(source.where, n, name))
            yield from [value] if isinstance(value, str) else value


def _of_documents(folder: Path, name: str) -> Iterator[str]:
    """The texts of a file of documents; what it holds is said beside it, or it is of our own form."""
    try:
        reader = json.loads((folder / "documents.json").read_bytes())[name]["reader"]
    except (OSError, ValueError, KeyError, TypeError):
        reader = "documents"
    template = ChatConfig(user="", assistant="")
    documents = LineDocuments(str(folder / f"{name}.jsonl"), InterleavedConfig(reader=reader, chat=template))
    for n in range(documents.sizes[0]):
        for part in documents.read(0, n):
            if isinstance(part, Text):
                yield from [part.text] if isinstance(part.text, str) else part.text
