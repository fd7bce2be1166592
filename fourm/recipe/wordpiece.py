"""Train a WordPiece tokenizer on the texts of a data set."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

from fourm.data import decode as decoding
from fourm.data.source import open_source
from fourm.data.tables import Table, is_table
from fourm.errors import ConfigError
from fourm.modality import Discrete, Modality, Sequence
from fourm.recipe.schema import TextTokenizerRecipe
from fourm.tokenizers.text import train_wordpiece

_LOG = logging.getLogger(__name__)


def run(recipe: TextTokenizerRecipe) -> None:
    """Train and save the tokenizer.

    Raises:
        ConfigError: if no sources are named.
        DataError: if the texts are missing or damaged.
    """
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
        source = open_source(str(recipe.path), [name])
        modality = Modality("text", Sequence(1), Discrete(1), source=name, decode="text")
        for n in range(len(source)):
            value = decoding.decode(source.read(n)[name], modality, partial(source.where, n, name))
            yield from [value] if isinstance(value, str) else value
