"""What recipes check before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from fourm import config as configs
from fourm.errors import ConfigError
from fourm.recipe.schema import TokenizerRecipe
from tests.unit.recipe.conftest import recipe

ALONE = {"kind": "multimodal", "dim": 32, "encoder_depth": 0, "decoder_depth": 1, "num_heads": 2}

FED = {**ALONE, "tie_heads": False, "vector_head": {"kind": "linear"}, "feeders": {"rgb@64": ALONE}}
PIXELS = {"rgb@64": {"direction": "both"}, "caption": {}}


def test_modalities_come_as_names_or_inline() -> None:
    assert list(recipe().modality_set()) == ["rgb@64", "tok_depth@64", "caption"]
    assert list(recipe(modalities=["rgb@64", "caption"]).modality_set()) == ["rgb@64", "caption"]
    assert recipe().modality_set()["caption"].num_tokens == 24


def test_trunks_that_read_first_go_with_prefixes_of_theirs_or_what_is_only_read() -> None:
    fed = {"kind": "autoregressive", "prefix": "fed"}
    assert recipe(modalities=PIXELS, model=FED, objective=fed).objective.prefix == "fed"
    shown = {"rgb@64": {"direction": "input"}, "caption": {}}
    assert recipe(modalities=shown, model=FED, objective={"kind": "autoregressive"}).objective.prefix == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizers": {"rgb@64": "x"}}, "'rgb@64' is not a token modality"),
        ({"tokenizers": {"txt": "x"}}, "Did you mean 'text'"),
        ({"pictures": {"given": ["rbg@64"]}}, "pictures: 'rbg@64'.*Did you mean 'rgb@64'"),
        ({"pictures": {"targets": ["depth@64"]}}, "Did you mean 'tok_depth@64'"),
        (
            {"data": {"train": {}, "val": {"datasets": {"rooms": {"path": "x", "modalities": ["rbg@64"]}}}}},
            r"data\.val\.datasets\.rooms\.modalities: 'rbg@64'.*Did you mean 'rgb@64'",
        ),
        ({"train": {"batch_size": 4}}, "max_steps, train.max_tokens: neither is given"),
        ({"train": {"max_steps": 4, "schedule": {"warmup_steps": 9}}}, "exceed the run"),
        ({"objective": {"kind": "reconstruct"}}, "reconstruct is for `fourm train-tokenizer`"),
        ({"objective": None}, "objective.kind is missing"),
        ({"objective": {"kind": "autoregressive"}}, "a decoder that reads its own table: set model.encoder_depth to 0"),
        ({"model": ALONE}, "objective.kind masked shows tokens to an encoder, but model.encoder_depth is 0"),
        (
            {
                "model": ALONE,
                "objective": {"kind": "autoregressive"},
                "evaluation": {"fixed_input_tokens": 8, "fixed_target_tokens": 8},
            },
            "evaluation.fixed_input_tokens fixes the budgets of objective.kind masked",
        ),
        (
            {"modalities": PIXELS, "model": FED, "objective": {"kind": "autoregressive", "prefix": "uniform"}},
            r"prefix is uniform, with which all patches of 'rgb@64' see one another in model\.feeders.*set .* to fed",
        ),
        (
            {"modalities": PIXELS, "model": FED, "objective": {"kind": "autoregressive"}},
            "prefix is none, with which all patches of 'rgb@64' see one another",
        ),
        (
            {"modalities": PIXELS, "model": ALONE, "objective": {"kind": "autoregressive", "prefix": "fed"}},
            "prefix fed is for images that a trunk of model.feeders reads first, and there is none",
        ),
        ({"data": {"train": {}, "resolutions": [32]}}, "data.resolutions is for `fourm train-tokenizer`"),
        ({"model": None}, "model.kind is missing"),
        ({"modalities": ["rgb@65"]}, "Did you mean 'rgb@64'"),
        ({"modalities": ["rgb@224", "clip@224"]}, "'clip@224' is made of images by a network.*use .*tok_clip@224"),
        ({"modalities": 5}, "modalities is 5"),
        ({"modalities": {"rgb@64": 5}}, "modality 'rgb@64' is 5"),
        ({"evaluation": {"batch_size": 0}}, "evaluation: batch_size is 0; expected 1 or more"),
        ({"evaluation": {"max_samples": 0}}, "evaluation: max_samples is 0"),
        ({"pictures": {"num_samples": 0}}, "pictures: num_samples is 0"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


def test_a_text_that_holds_codes_may_name_their_tokenizer() -> None:
    instances = {"sam_instance": {}, "caption": {}}
    assert recipe(modalities=instances, tokenizers={"sam_instance": "masks"}).tokenizers["sam_instance"].name == "masks"
    with pytest.raises(ConfigError, match="'caption' is not a token modality"):
        recipe(modalities=instances, tokenizers={"caption": "masks"})


TOKENIZER = {"name": "t", "data": {"train": {}}, "tokenizer": {"kind": "vqvae"}, "train": {"max_steps": 1}}
HEAT = {"base": "depth@64", "source": "heat"}


@pytest.mark.parametrize(("modality", "name"), [("depth@64", "depth@64"), ({"heat@64": HEAT}, "heat@64")])
def test_a_tokenizer_is_for_one_modality(modality: Any, name: str) -> None:
    assert configs.build(TokenizerRecipe, {**TOKENIZER, "modality": modality}).raw_modality().name == name


def test_a_tokenizer_is_not_trained_on_masks() -> None:
    with pytest.raises(ConfigError, match="masked is for `fourm pretrain`"):
        configs.build(TokenizerRecipe, {**TOKENIZER, "modality": "depth@64", "objective": {"kind": "masked"}})


@pytest.mark.parametrize("modality", [{}, {"a": HEAT, "b": HEAT}, {"a": None}, 3])
def test_no_modality_or_several_are_refused(modality: Any) -> None:
    with pytest.raises(ConfigError, match="expected one name"):
        configs.build(TokenizerRecipe, {**TOKENIZER, "modality": modality})


DIVAE = {"kind": "divae", "encoder": {"kind": "conv"}, "denoiser": {"kind": "unet"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"train": {}, "resolutions": [64, 68]}},
            "at 68 pixels.*do not divide.*multiples of 8, for instance 64",
        ),
        ({"data": {"train": {}, "resolutions": [64, 72]}, "tokenizer": DIVAE}, "at 72 pixels.*multiples of 32"),
        ({"data": {"train": {}, "resolutions": [0]}}, r"resolutions\[0\] is 0; expected 1 or more"),
        ({"tokenizer": {"kind": "vqvae", "freeze_encoder": True}}, "set encoder_from"),
        ({"init_from": "a", "encoder_from": "b"}, "give one of them"),
    ],
)
def test_contradictions_of_a_tokenizer_recipe_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configs.build(TokenizerRecipe, {**TOKENIZER, "modality": "depth@64", **changes})


def test_a_tokenizer_recipe_takes_resolutions_that_divide() -> None:
    data = {"train": {}, "resolutions": [32, 64, 96]}
    built = configs.build(TokenizerRecipe, {**TOKENIZER, "modality": "depth@64", "data": data, "tokenizer": DIVAE})
    assert built.data.resolutions == (32, 64, 96)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": {"x": {"base": "clip@224", "teacher": "clap"}}}, "teacher is 'clap'.*Known: clip_b16"),
        ({"tokenizer": {"kind": "vqvae", "teacher": {"kind": "timm", "name": "x"}}}, "only a modality with `teacher"),
        ({"tokenizer": {"kind": "vqvae", "teacher": {"kind": "tim"}}}, "teacher.kind is 'tim'.*Did you mean 'timm'"),
        (
            {
                "modality": "clip@224",
                "data": {"train": {}, "resolutions": [224, 232]},
                "tokenizer": {
                    "kind": "vqvae",
                    "encoder": {"kind": "vit", "preset": "small", "patch_size": 1},
                    "decoder": {"kind": "vit", "preset": "small", "patch_size": 1},
                },
            },
            "at 232 pixels.*multiples of 16, for instance 224",
        ),
        ({"objective": {"kind": "reconstruct", "perceptual": {"kind": "lpisp"}}}, "Did you mean 'lpips'"),
        (
            {
                "tokenizer": {"kind": "divae", "noise": {"prediction": "v"}},
                "objective": {"kind": "reconstruct", "perceptual": {"kind": "lpips"}},
            },
            "perceptual compares images, but this denoiser predicts 'v': set tokenizer.noise.prediction to sample",
        ),
        (
            {
                "tokenizer": {"kind": "vqcontrolnet"},
                "objective": {"kind": "reconstruct", "perceptual": {"kind": "lpips"}},
            },
            "this tokenizer is trained on noise",
        ),
    ],
)
def test_tokenizers_have_the_networks_beside_them_that_they_need(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configs.build(TokenizerRecipe, {**TOKENIZER, "modality": "rgb@64", **changes})


def test_denoisers_of_images_may_have_a_perceptual_loss() -> None:
    objective = {"kind": "reconstruct", "perceptual": {"kind": "features", "weight": 0.5}}
    parts = {"tokenizer": {"kind": "divae"}, "objective": objective}
    assert (
        configs.build(TokenizerRecipe, {**TOKENIZER, "modality": "rgb@64", **parts}).objective.perceptual.weight == 0.5
    )
