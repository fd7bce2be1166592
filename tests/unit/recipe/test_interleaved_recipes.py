"""The published sizes and stages of VILA, Emu, Emu2 and VL-GPT, as their recipes have them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pytest
import torch

from fourm import recipes
from fourm.errors import ConfigError
from fourm.recipe.pretrain import with_lora
from fourm.recipe.schema import PretrainRecipe
from fourm.registry import implementation
from fourm.train.optimizer import parameter_groups, select_trainable

FEEDER = "input_embedder.feeders.image"
TOWER, POOLER, UP = f"{FEEDER}.tower.*", f"{FEEDER}.pooler.*", f"{FEEDER}.projection.*"
LANGUAGE = ("decoder.*", "input_embedder.table.*", "heads.*")
DOWN = "vector_heads.*"
LORA = "*.lora_*"
LLAMA = {"7b": 6_738_415_616, "13b": 13_015_864_320, "33b": 32_528_943_616, "sheared": 2_701_560_320}
"""Parameters of the language models as they were published, with their 32,000 ids."""
DIM = {"7b": 4096, "13b": 5120, "33b": 6656, "sheared": 2560}


@dataclass(frozen=True)
class Stage:
    """What a paper says of one of its stages.

    Args:
        language: size of the language model.
        tokens: of the vocabulary.
        image: vectors of an image, and pixels per side.
        trained: patterns of what learns.
        rates: pattern -> learning rate.
        steps, batch: None: not published.
        pooler: parameters between tower and language model; 0: not published.
        total: billions of parameters of the whole, without what LoRA adds; None: not published.
        regresses: vectors of images are predicted.
    """

    language: str
    tokens: int
    image: tuple[int, int]
    trained: tuple[str, ...]
    rates: dict[str, float]
    steps: int | None = None
    batch: int | None = None
    pooler: int = 0
    total: float | None = None
    regresses: bool = False


def linear(features: int, dim: int) -> int:
    return features * dim + dim


def vila(language: str, trained: tuple[str, ...], lr: float) -> Stage:
    size = linear(1024, DIM[language])
    return Stage(language, 32_000, (576, 336), trained, {"*": lr}, pooler=size)


def shuffled(trained: tuple[str, ...], lr: float) -> Stage:
    size = 2 * 4608 + linear(4608, 2560) + linear(2560, 2560)
    return Stage("sheared", 32_000, (196, 384), trained, {"*": lr}, pooler=size)


def emu2(size: int, trained: tuple[str, ...], steps: int, batch: int | None, rates: Any, **facts: Any) -> Stage:
    own = {"tokens": 32_272, "image": (64, size), "pooler": 1792 * 6656, "total": 37.0, **facts}
    return Stage("33b", trained=trained, steps=steps, batch=batch, rates=rates, **own)


WARM = {TOWER: 5e-5, UP: 1e-4, "decoder.*": 3e-5, "heads.*": 3e-5}
FROZEN_TOWER = (UP, DOWN, *LANGUAGE)
STAGES = {
    **{f"vila_{s}_1": vila(s, (POOLER,), 1e-3) for s in ("7b", "13b")},
    **{f"vila_{s}_2": vila(s, (POOLER, *LANGUAGE), 5e-5) for s in ("7b", "13b")},
    **{f"vila_{s}_3": vila(s, (POOLER, *LANGUAGE), 2e-5) for s in ("7b", "13b")},
    "vila15_3b_1": shuffled((POOLER,), 1e-3),
    "vila15_3b_2": shuffled((POOLER, *LANGUAGE), 5e-5),
    "vila15_3b_3": shuffled((TOWER, POOLER, *LANGUAGE), 1e-4),
    "emu_13b_1": Stage(
        "13b", 32_004, (32, 224), ("*",), {TOWER: 4e-5, POOLER: 1e-4, "decoder.*": 3e-5}, 10_000,
        pooler=12 * (4 * 768**2 + 2 * 768**2 + 2 * 768 * 1408 + 2 * 768 * 3072 + 3 * 768)
        + 768 + 32 * 12 + 32 * 768 + 2 * 1408 + linear(768, 5120),
        total=14.0, regresses=True,
    ),
    "emu_13b_instruct": Stage("13b", 32_006, (32, 224), (LORA,), {}, total=14.0, regresses=True),
    "emu2_33b_1": emu2(224, (TOWER, UP, *LANGUAGE), 35_200, 6912, WARM),
    "emu2_33b_1_448": emu2(448, (TOWER, UP, *LANGUAGE), 4_000, 6912, WARM),
    "emu2_33b_2": emu2(448, FROZEN_TOWER, 20_350, 23_200, {"*": 1e-5}, regresses=True),
    "emu2_33b_chat": emu2(448, (UP, *LANGUAGE), 8_000, 768, {"*": 1e-5}, tokens=32_274, image=(256, 448)),
    "emu2_33b_gen": emu2(448, FROZEN_TOWER, 3_000, 9_728, {"*": 5e-5}, regresses=True),
    "emu2_33b_gen_tune": emu2(448, FROZEN_TOWER, 900, None, {"*": 1e-5}, regresses=True),
    "vl_gpt_7b_1": Stage(
        "7b", 32_002, (32, 224), (LORA, DOWN, "input_embedder.table.*", "heads.*"), {"*": 2e-4}, 20_000, 4096,
        total=7.18,  # 7.26 with LoRA; the published 7.5 have the detokenizer too, whose width is not known
        regresses=True,
    ),
    "vl_gpt_7b_instruct": Stage(
        "7b", 32_002, (32, 224), (LORA, DOWN, "input_embedder.table.*", "heads.*"), {"*": 5e-5}, 10_000, 512,
        total=7.18,  # 7.26 with LoRA; the published 7.5 have the detokenizer too, whose width is not known
        regresses=True,
    ),
}  # fmt: skip
stages = pytest.mark.parametrize("name", STAGES)


@cache
def load(name: str) -> PretrainRecipe:
    return recipes.load(name, PretrainRecipe, folder="pretrain")


MODELS: dict[str, tuple[Any, dict[str, bool]]] = {}
"""Models on the meta device, and which of their parameters could learn; stages of one architecture share one."""


@cache
def built(name: str) -> tuple[PretrainRecipe, dict[str, int], set[str], dict[str, float]]:
    """The recipe; the numbers of its parameters, the names of those that would move, and their learning rates."""
    recipe = load(name)
    key = repr(([*recipe.modality_set().values()], recipe.model, recipe.lora))
    if key not in MODELS:
        with torch.device("meta"):
            model = implementation(recipe.model.target)(recipe.modality_set(), recipe.model)
        model = with_lora(recipe, model)
        MODELS[key] = model, {name: p.requires_grad for name, p in model.named_parameters()}
    model, learnable = MODELS[key]
    for parameter, p in model.named_parameters():
        p.requires_grad_(learnable[parameter])
    select_trainable(model, recipe.train.trainable, recipe.train.freeze)
    names = {id(p): parameter for parameter, p in model.named_parameters()}
    rates = {
        names[id(p)]: recipe.train.peak_lr * group["lr_scale"]
        for group in parameter_groups(model, recipe.train.optimizer)
        for p in group["params"]
    }
    assert all(p.is_meta for p in model.parameters())
    numbers = {parameter: p.numel() for parameter, p in model.named_parameters()}
    return recipe, numbers, {parameter for parameter, p in model.named_parameters() if p.requires_grad}, rates


def total(numbers: dict[str, int], *patterns: str) -> int:
    return sum(number for key, number in numbers.items() if any(fnmatchcase(key, p) for p in patterns))


@stages
def test_the_parts_have_the_published_numbers_of_parameters(name: str) -> None:
    stage, (recipe, numbers, _, _) = STAGES[name], built(name)
    plain = {key: number for key, number in numbers.items() if ".lora_" not in key}

    added = 2 * (stage.tokens - 32_000) * DIM[stage.language]
    assert total(plain, *LANGUAGE) == LLAMA[stage.language] + added
    if stage.pooler:
        between = total(plain, POOLER, UP)
        assert between == stage.pooler
    if stage.total is not None:
        assert sum(plain.values()) / 1e9 == pytest.approx(stage.total, rel=0.04)
    image, text = recipe.modality_set()["image"], recipe.modality_set()["text"]
    assert (image.num_tokens, image.image_size) == (stage.image[0], (stage.image[1],) * 2)
    assert text.vocab_size == stage.tokens
    assert (total(plain, DOWN) > 0) == image.is_predicted == stage.regresses


@stages
def test_what_learns_is_what_the_table_of_stages_says(name: str) -> None:
    stage, (_, numbers, moved, _) = STAGES[name], built(name)

    assert moved == {key for key in numbers if any(fnmatchcase(key, pattern) for pattern in stage.trained)}
    assert all(any(fnmatchcase(key, pattern) for key in moved) for pattern in stage.trained)


@stages
def test_rates_steps_and_batches_are_the_published_ones(name: str) -> None:
    stage, (recipe, _, _, rates) = STAGES[name], built(name)

    for pattern, rate in stage.rates.items():
        found = {lr for key, lr in rates.items() if fnmatchcase(key, pattern)}
        assert found, pattern
        assert all(lr == pytest.approx(rate) for lr in found), pattern
    assert stage.steps in (None, recipe.train.max_steps)
    assert stage.batch in (None, recipe.train.batch_size)


def test_lora_changes_queries_keys_values_and_outputs_in_emu_and_all_layers_in_vl_gpt() -> None:
    emu, vl_gpt = built("emu_13b_instruct")[1], built("vl_gpt_7b_1")[1]

    assert total(emu, LORA) == 40 * 4 * 16 * 2 * 5120
    assert total(vl_gpt, LORA) == 32 * 32 * (4 * 2 * 4096 + 3 * (4096 + 11008))


@stages
def test_every_stage_starts_from_the_one_before_it(name: str) -> None:
    """What a stage leaves behind is what its successor reads: same trunk, a vocabulary that only grows."""
    recipe = load(name)
    outputs = {str(load(other).output): load(other) for other in STAGES}
    before = outputs.get(str(recipe.init_from))
    if before is None:
        assert name.endswith("_1")
        assert not str(recipe.init_from).startswith("outputs")
        return

    assert before.name != recipe.name
    assert (before.model.dim, before.model.decoder_depth) == (recipe.model.dim, recipe.model.decoder_depth)
    assert before.modality_set()["text"].vocab_size <= recipe.modality_set()["text"].vocab_size
    assert (
        not set(before.data.train.datasets) & set(recipe.data.train.datasets)
        or before.data == recipe.data
        or (name == "emu2_33b_gen_tune")
    )


def test_the_ambiguities_are_options_with_the_published_code_s_defaults() -> None:
    emu = load("emu_13b_1")

    assert emu.objective.regress_end
    assert all(d.packing.ask_image_tokens == "none" for d in emu.data.train.datasets.values())
    assert (emu.objective.reduction, emu.objective.modality_weights) == ("weighted", {})
    off = recipes.load("emu_13b_1", PretrainRecipe, ["objective.regress_end=false"], folder="pretrain")
    assert not off.objective.regress_end
    with pytest.raises(ConfigError, match="regress_end asks for an embedding"):
        recipes.load("emu2_33b_2", PretrainRecipe, ["objective.regress_end=true"], folder="pretrain")
