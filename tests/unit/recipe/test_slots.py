"""A kind that another package brings is built wherever a recipe names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourm.models.configs import MODELS
from fourm.models.folder import save_model
from fourm.objectives.configs import OBJECTIVES
from fourm.recipe import pretrain
from fourm.recipe.bundle import load_model
from fourm.recipe.check import check
from tests.unit.recipe.conftest import recipe
from tests.unit.recipe.third_party import OwnModel

OWN_MODEL = {"kind": "own", "dim": 32, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2}
OWN_OBJECTIVE = {"kind": "own", "num_input_tokens": 16, "num_target_tokens": 16}


@pytest.fixture(autouse=True)
def entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, name in ((MODELS, "OwnModelConfig"), (OBJECTIVES, "OwnMaskedConfig")):
        monkeypatch.setitem(registry._kinds, "own", f"tests.unit.recipe.third_party:{name}")


def test_training_builds_the_model_that_the_recipe_names() -> None:
    own = recipe(model=OWN_MODEL)

    assert type(pretrain.build_model(own, own.modality_set(), {})) is OwnModel


def test_an_exported_model_comes_back_as_what_it_was(tmp_path: Path) -> None:
    own = recipe(model=OWN_MODEL)
    save_model(pretrain.build_model(own, own.modality_set(), {}), tmp_path)

    assert type(load_model(tmp_path)) is OwnModel


def test_check_builds_model_and_objective_of_the_recipe() -> None:
    plain, own = check(recipe()), check(recipe(model=OWN_MODEL, objective=OWN_OBJECTIVE))

    assert own.tokens_per_step == 2 * plain.tokens_per_step
