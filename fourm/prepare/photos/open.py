"""The kind of input that a recipe's `input` means."""

from __future__ import annotations

from pathlib import Path

from fourm.prepare.photos.inputs import FolderInputs, Inputs
from fourm.prepare.photos.recipe import PhotosRecipe


def open_inputs(recipe: PhotosRecipe) -> Inputs:
    """The photographs a recipe names.

    Raises:
        ConfigError: if a table of labels is not there.
        DataError: if they are not there.
    """
    return FolderInputs(Path(recipe.input), recipe.templates(), recipe.shard_size, recipe.tables(), recipe.seed)
