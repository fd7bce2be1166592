"""The pretraining recipes are the published ones: sizes, budgets, batches, rates, lengths and mixtures (4M, 4M-21)."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from fourm import recipes
from fourm.objectives.masked import Masked
from fourm.recipe.pretrain import build_objective
from fourm.recipe.schema import PretrainRecipe
from fourm.registry import implementation

# recipe: (input, target tokens, samples per step, rate for 256 samples, tokens, warm-up tokens, start), in 10^9 tokens
PUBLISHED: dict[str, tuple[int, int, int, float, int, int, str]] = {
    "4m_b": (128, 128, 8192, 1e-4, 500, 10, ""),
    "4m_l": (128, 128, 8192, 1e-4, 500, 10, ""),
    "4m_xl": (128, 128, 8192, 2e-5, 500, 10, ""),
    "4m21_b": (256, 256, 4096, 1e-4, 500, 10, "4m_b"),
    "4m21_l": (256, 256, 4096, 1e-4, 500, 10, "4m_l"),
    "4m21_xl": (256, 256, 4096, 2e-5, 500, 10, "4m_xl"),
    "4m_t2i_b": (256, 256, 4096, 1e-4, 100, 10, "4m_b"),
    "4m_t2i_l": (256, 256, 8192, 1e-4, 100, 10, "4m_l"),
    "4m_t2i_xl": (256, 256, 4096, 2e-5, 100, 5, "4m_xl"),
    "4m_sr_l": (1024, 1024, 4096, 1e-4, 100, 5, "4m_l"),
}
TRUNKS = {"b": (84.95, 113.87), "l": (301.99, 403.75), "xl": (1208, 1615)}
NUM_MODALITIES = {"4m": (8, 7), "4m21": (19, 17), "sr": (14, 5)}


@cache
def load(name: str) -> PretrainRecipe:
    return recipes.load(name, PretrainRecipe, folder="pretrain")


@pytest.mark.parametrize("name", PUBLISHED)
def test_budgets_batches_rates_and_lengths(name: str) -> None:
    recipe = load(name)
    inputs, targets, batch_size, rate, tokens, warmup, start = PUBLISHED[name]

    assert (recipe.objective.num_input_tokens, recipe.objective.num_target_tokens) == (inputs, targets)
    assert recipe.train.batch_size == batch_size
    assert recipe.train.optimizer.base_lr == rate
    assert recipe.train.peak_lr == pytest.approx(rate * batch_size / 256)
    assert recipe.train.max_tokens == tokens * 10**9
    assert recipe.train.schedule.warmup_tokens == warmup * 10**9
    assert str(recipe.init_from or "") == (f"outputs/{start}/model" if start else "")
    assert build_objective(recipe, recipe.modality_set(), None).budget == inputs + targets


@pytest.mark.parametrize("name", [n for n in PUBLISHED if "t2i" in n or "sr" in n])
def test_specialized_models_see_as_few_as_64_tokens(name: str) -> None:
    assert load(name).objective.min_input_tokens == 64


@pytest.mark.parametrize("name", PUBLISHED)
def test_trunks_have_the_published_number_of_parameters(name: str) -> None:
    recipe = load(name)
    with torch.device("meta"):
        model: Any = implementation(recipe.model.target)(recipe.modality_set(), recipe.model)

    encoder, decoder, between = (
        sum(p.numel() for p in part.parameters()) / 1e6
        for part in (model.encoder, model.decoder, model.context_projection)
    )
    decoder += between  # as they are counted
    expected = TRUNKS[name.rpartition("_")[2]]
    assert (encoder, decoder) == (pytest.approx(expected[0], rel=1e-3), pytest.approx(expected[1], rel=1e-3))


@pytest.mark.parametrize("name", PUBLISHED)
def test_modalities_read_and_predicted(name: str) -> None:
    modalities = load(name).modality_set()
    kind = "4m21" if "21" in name else "sr" if "sr" in name else "4m"
    assert (len(modalities.inputs), len(modalities.outputs)) == NUM_MODALITIES[kind]


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n.endswith("xl")])
def test_the_largest_models_clip_gradients_and_recompute_activations(name: str) -> None:
    recipe = load(name)
    assert recipe.train.optimizer.clip_grad == 3.0
    assert recipe.model.activation_checkpointing


def table(name: str, kind: str, modality: str) -> list[float]:
    """The alphas of one modality, component by component."""
    recipe = load(name)
    objective = Masked(recipe.objective, recipe.modality_set())
    return [getattr(c, f"{kind}_alphas")[objective.names.index(modality)] for c in objective.components]


@pytest.mark.parametrize(
    ("name", "kind", "modality", "alphas"),
    [
        ("4m_b", "input", "rgb@224", [0.01, 0.1, 1, 10, 1000, 0.05]),
        ("4m_b", "input", "caption", [0.01, 0.1, 1, 10, 0, 5]),
        ("4m_b", "target", "caption", [0.01, 0.1, 1, 10, 0.5, 0.5]),
        ("4m_b", "target", "rgb@224", [0] * 6),
        ("4m_b_rgb2dense", "target", "det", [0, 0.5]),
        ("4m_b_rgb2dense", "target", "tok_depth@224", [0.5, 0.5]),
        ("4m21_b", "input", "rgb@224", [0.01, 0.1, 1, 10, 1000, 0.05, 0.05]),
        ("4m21_b", "input", "caption", [0.01, 0.1, 1, 10, 0, 5, 0]),
        ("4m21_b", "input", "t5_caption", [0.01, 0.1, 1, 10, 0, 0, 5]),
        ("4m21_b", "target", "caption", [0.01, 0.1, 1, 10, 0.5, 0, 0.5]),
        ("4m21_b", "target", "tok_dinov2_global", [0.01, 0.1, 1, 10, 0.5, 0.5, 0.5]),
        ("4m_t2i_b", "input", "caption", [5, 0.2, 1]),
        ("4m_t2i_b", "input", "tok_clip@224", [0.05, 0.2, 1]),
        ("4m_t2i_b", "target", "tok_rgb@224", [1, 1, 1]),
        ("4m_sr_l", "input", "tok_rgb@224", [5, 0.05, 0.2, 1]),
        ("4m_sr_l", "input", "caption", [0.05, 5, 0.2, 1]),
        ("4m_sr_l", "target", "tok_rgb@448", [5, 1, 1, 1]),
        ("4m_sr_l", "target", "tok_depth@448", [0.05, 1, 1, 1]),
        ("4m_sr_l", "target", "tok_rgb@224", [0] * 4),
    ],
)
def test_mixtures(name: str, kind: str, modality: str, alphas: list[float]) -> None:
    assert table(name, kind, modality) == alphas


def test_4m21_draws_from_three_data_sets_of_which_two_have_mixtures_of_their_own() -> None:
    recipe = load("4m21_b")
    objective = build_objective(recipe, recipe.modality_set(), None)

    assert {n: d.weight for n, d in recipe.data.train.datasets.items()} == {"cc12m": 0.6, "coyo700m": 0.2, "c4": 0.2}
    assert [len(objective.for_dataset(name).components) for name in ("cc12m", "coyo700m", "c4")] == [7, 6, 1]
    assert objective.for_dataset("cc12m") is objective
    assert [c.weight for c in recipe.objective.components] == [1, 1, 1, 1, 1, 0.5, 0.5]


def test_keep_of_4m21() -> None:
    keeps = [c.keep for c in load("4m21_b").objective.components]

    assert all(keep["color_palette"] == "binary" for keep in keeps)
    assert [keep.get("caption") for keep in keeps] == [None] * 5 + ["all", None]
    assert [keep.get("t5_caption") for keep in keeps] == [None] * 6 + ["all"]


def test_all_of_them_are_evaluated_with_fixed_budgets_too() -> None:
    for name in PUBLISHED:
        evaluation = load(name).evaluation
        assert (evaluation.fixed_input_tokens, evaluation.fixed_target_tokens) == (128, 128)


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_but_the_base_size_share_their_weights_out(name: str) -> None:
    assert load(name).train.parallel.kind == ("ddp" if name.endswith("_b") else "fsdp")
