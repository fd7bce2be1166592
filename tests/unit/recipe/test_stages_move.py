"""Every stage of the toys moves its own parts by training, and leaves the others as they were, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourm import recipes
from fourm.recipe.job import train_config
from fourm.recipe.pretrain import build_model, build_objective
from fourm.recipe.schema import PretrainRecipe
from fourm.recipe.synthetic import synthetic
from fourm.rng import generator
from fourm.train.distributed import World
from fourm.train.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

FEEDER = "input_embedder.feeders.image"
POOLER, PROJECTION, TOWER = f"{FEEDER}.pooler.*", f"{FEEDER}.projection.*", f"{FEEDER}.tower.*"
LANGUAGE, REGRESSION, LORA = ("decoder.*", "input_embedder.table.*", "heads.*"), "vector_heads.*", "*.lora_*"
EMU2 = (*LANGUAGE, PROJECTION)
VL_GPT = (LORA, REGRESSION, "input_embedder.table.*", "heads.*")
MOVED = {
    "rooms_language": LANGUAGE,
    "vila_rooms_1": (POOLER,),
    "vila_rooms_2": (*LANGUAGE, POOLER),
    "vila_rooms_3": (*LANGUAGE, POOLER),
    "emu_rooms_1": (*LANGUAGE, POOLER, REGRESSION),
    "emu_fashion_1": (*LANGUAGE, POOLER, REGRESSION),
    "emu_fashion_instruct": (LORA,),
    "emu2_fashion_1": EMU2,
    "emu2_fashion_2": (*EMU2, REGRESSION),
    "emu2_fashion_chat": EMU2,
    "emu2_fashion_gen": (*EMU2, REGRESSION),
    "emu2_fashion_gen_tune": (*EMU2, REGRESSION),
    "vl_gpt_fashion_1": VL_GPT,
    "vl_gpt_fashion_instruct": VL_GPT,
}
"""Stage -> patterns of the parameters that learn in it."""
WITHOUT_FILES = ("init_from=null", "variables.tower=null")
SHORT = (
    "train.max_steps=3",
    "train.batch_size=2",
    "train.device=cpu",
    "train.precision=fp32",
    "train.tensorboard=false",
)


def load(name: str) -> PretrainRecipe:
    """A recipe as shipped, for a few steps from random weights."""
    own = ("model.feeders.image.from_tokenizer=false",) if name.startswith("vl_gpt") else ()
    return recipes.load(name, PretrainRecipe, [*WITHOUT_FILES, *SHORT, *own], folder="pretrain")


def batches(recipe: PretrainRecipe, objective: Any) -> Any:
    """A loader of random rows of the recipe's form."""

    def loader(cursor: Any) -> Iterator[Any]:
        rng = np.random.default_rng(0)
        while True:
            rows = [synthetic(recipe, recipe.modality_set(), rng) for _ in range(recipe.train.batch_size)]
            yield objective.collate([objective.prepare(row, generator(0, n)) for n, row in enumerate(rows)]), {}

    return loader


@pytest.mark.parametrize("name", MOVED)
def test_what_learns_moves_and_nothing_else(name: str, tmp_path: Path) -> None:
    recipe = load(name)
    model = build_model(recipe, recipe.modality_set(), {})
    objective = build_objective(recipe, recipe.modality_set(), None)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    Trainer(model, objective, batches(recipe, objective), train_config(recipe), output=tmp_path, world=World()).fit()

    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if any(fnmatchcase(key, pattern) for pattern in MOVED[name])}
    assert all(any(fnmatchcase(key, pattern) for key in moved) for pattern in MOVED[name])
    assert name == "rooms_language" or any(fnmatchcase(key, TOWER) for key in before)
