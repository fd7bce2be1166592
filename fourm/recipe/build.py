"""What all training jobs begin with: whether there is anything left to do."""

from __future__ import annotations

import logging

from fourm.recipe.finetune_schema import FinetuneRecipe
from fourm.recipe.schema import PretrainRecipe, TokenizerRecipe
from fourm.train.state import completed_state

_LOG = logging.getLogger(__name__)


def is_complete(recipe: PretrainRecipe | TokenizerRecipe | FinetuneRecipe) -> bool:
    """Whether the recipe's output already holds a run of at least its length; says so if it does."""
    if recipe.train.resume != "auto":
        return False
    done = completed_state(recipe.output, recipe.train)
    if done is None:
        return False
    _LOG.warning(
        "%s already holds a complete run of %d steps: nothing to do. To train on, raise train.max_%s; for a new run, "
        "set output=ANOTHER_FOLDER or remove this one",
        recipe.output,
        done.step,
        recipe.train.unit,
    )
    return True
