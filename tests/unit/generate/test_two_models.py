"""Chains over several models: what one generates is given to the next, as for super-resolution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm import recipes
from fourm.errors import ConfigError
from fourm.generate.answer import any_to_any
from fourm.generate.handover import as_given
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.planning import make_plan
from fourm.layouts import Discrete, Grid
from fourm.modality import Modality, ModalitySet
from fourm.recipe.bundle import Bundle, generate, with_others
from fourm.tokens import SpecialIds
from tests.unit.generate.toy import LEVELS, Mosaic, ToyBundle, build_model, image, text, tokens

LARGE = Modality(
    "tok_rgb@32", Grid(8, 8, 4), Discrete(LEVELS), source="tok_rgb@32", decode="tokens", tokenizer="rgb@32"
)
CAPTION = {"caption": ["a red sofa", "two chairs"]}
SEEDS = torch.tensor([3, 4])
SMALL_STEP = Step("tok_rgb@16", num_steps=4, guidance=2.0)
LARGE_STEP = Step("tok_rgb@32", "maskgit", num_steps=4, guidance=2.0)
CHAIN = GenerationPlan([SMALL_STEP, replace(LARGE_STEP, model="super")])


@pytest.fixture
def super_bundle(bundle: ToyBundle) -> ToyBundle:
    assert bundle.text is not None
    small, caption = tokens("tok_rgb@16", "rgb@16"), text("caption", bundle.text.vocab_size)
    tokenizers = {"tok_rgb@16": Mosaic(image("rgb@16", "image", 3)), "tok_rgb@32": Mosaic(image("rgb@32", "image", 3))}
    return ToyBundle(build_model(ModalitySet([caption, small, LARGE]), seed=1), tokenizers, bundle.text)


@pytest.fixture
def both(bundle: ToyBundle, super_bundle: ToyBundle) -> ToyBundle:
    return replace(bundle, others={"super": super_bundle})


def test_the_second_model_is_given_what_the_first_generated_and_what_was_given(
    both: ToyBundle, bundle: ToyBundle, super_bundle: ToyBundle
) -> None:
    found = any_to_any(both, CAPTION, ["tok_rgb@16", "tok_rgb@32"], plan=CHAIN, seeds=SEEDS)
    first = any_to_any(bundle, CAPTION, ["tok_rgb@16"], plan=GenerationPlan([SMALL_STEP]), seeds=SEEDS)["tok_rgb@16"]
    assert torch.equal(found["tok_rgb@16"], first)
    ids = super_bundle.tokenizers["tok_rgb@16"].encode(first * 2 - 1)
    given = {"tok_rgb@16": ids, **CAPTION}
    alone = any_to_any(super_bundle, given, ["tok_rgb@32"], plan=GenerationPlan([LARGE_STEP]), seeds=SEEDS)
    assert torch.equal(found["tok_rgb@32"], alone["tok_rgb@32"])
    other = any_to_any(super_bundle, {**given, "tok_rgb@16": 15 - ids}, ["tok_rgb@32"],
                       plan=GenerationPlan([LARGE_STEP]), seeds=SEEDS)  # fmt: skip
    assert not torch.equal(found["tok_rgb@32"], other["tok_rgb@32"])


def test_each_target_is_decoded_by_the_tokenizer_of_its_model(both: ToyBundle) -> None:
    found = any_to_any(both, CAPTION, [], plan=CHAIN, seeds=SEEDS)
    assert found["tok_rgb@16"].shape == (2, 3, 16, 16)
    assert found["tok_rgb@32"].shape == (2, 3, 32, 32)
    assert [modality.name for modality in found.shown.values()] == ["rgb@16", "rgb@32"]


def test_neither_batch_nor_the_wish_for_entropies_changes_an_answer(both: ToyBundle) -> None:
    whole = any_to_any(both, CAPTION, [], plan=CHAIN, seeds=SEEDS)["tok_rgb@32"]
    parts = any_to_any(both, CAPTION, [], plan=CHAIN, seeds=SEEDS, batch_size=1, ensemble=True)
    assert torch.equal(whole, parts["tok_rgb@32"])
    assert parts.uncertainty["tok_rgb@32"].shape == (2, 32, 32)


def test_without_a_plan_the_further_model_makes_what_the_first_cannot(both: ToyBundle) -> None:
    plan, names = make_plan(both, ["rgb@16", "rgb@32", "depth"], ["caption"], None)
    assert list(names.values()) == ["tok_rgb@16", "tok_rgb@32", "tok_depth@16"]
    large = plan.steps[1]
    assert [step.model for step in plan.steps] == [None, "super", None]
    assert (large.scheme, large.num_steps, large.guidance) == ("maskgit", 8, 3.0)
    assert plan.models == {"super": "toy"}
    found = any_to_any(both, CAPTION, ["rgb@16", "rgb@32", "depth"], seeds=SEEDS)
    assert found["depth"].shape == (2, 1, 16, 16)


def test_the_plan_that_is_written_names_the_models(both: ToyBundle, bundle: ToyBundle, tmp_path: Path) -> None:
    any_to_any(both, CAPTION, [], plan=CHAIN, seeds=SEEDS).save(tmp_path / "a")
    any_to_any(bundle, CAPTION, ["depth"], seeds=SEEDS).save(tmp_path / "b")
    plan = recipes.load(tmp_path / "a" / "plan.yaml", GenerationPlan)
    assert plan.models == {"super": "toy"}
    assert [step.model for step in plan.steps] == [None, "super"]
    assert "models" not in (tmp_path / "b" / "plan.yaml").read_text()
    assert (tmp_path / "a" / "tok_rgb@32_01.png").is_file()


def test_tokens_of_different_tokenizers_are_not_handed_on(both: ToyBundle, super_bundle: ToyBundle) -> None:
    super_bundle.tokenizers["tok_rgb@16"].hash = "another"
    with pytest.raises(ConfigError, match="know 'tok_rgb@16' in tokens of different tokenizers"):
        any_to_any(both, CAPTION, [], plan=CHAIN)
    blind = GenerationPlan([SMALL_STEP, replace(LARGE_STEP, model="super", sees=["caption"])])
    assert "tok_rgb@32" in any_to_any(both, CAPTION, [], plan=blind)


def test_words_of_different_text_tokenizers_are_not_handed_on(both: ToyBundle, bundle: ToyBundle) -> None:
    class Other:
        hash, special = "another", SpecialIds(num_sentinels=20)

    other = replace(both.others["super"], text=Other())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="know 'caption' in words of different text tokenizers"):
        any_to_any(replace(bundle, others={"super": other}), CAPTION, [], plan=CHAIN)


def test_a_modality_of_another_size_is_not_handed_on(bundle: ToyBundle) -> None:
    small = replace(tokens("tok_rgb@16", "rgb@16"), content=Discrete(LEVELS + 1))
    other = ToyBundle(build_model(ModalitySet([small, LARGE])), {}, bundle.text)
    with pytest.raises(ConfigError, match="know 'tok_rgb@16' as .*16.* and as .*17"):
        any_to_any(replace(bundle, others={"super": other}), {}, [], plan=CHAIN)


def test_generated_sequences_are_given_with_their_end() -> None:
    modality, special = text("caption", 400), SpecialIds(num_sentinels=20)
    ids = as_given(torch.tensor([[7, 8, -1], [9, -1, -1]]), modality, special)["ids"]
    assert ids.tolist() == [[7, 8, special.end], [9, special.end, -1]]


def ours(toy: ToyBundle) -> Bundle:
    return Bundle(toy.model, toy.tokenizers, toy.text)


def test_further_models_come_by_name(bundle: ToyBundle, super_bundle: ToyBundle) -> None:
    found = generate(
        ours(bundle), CAPTION, ["tok_rgb@32"], plan=CHAIN, seeds=SEEDS, models={"super": ours(super_bundle)}
    )
    assert found["tok_rgb@32"].shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("plan", "models", "error"),
    [
        (CHAIN, {"large": "x", "super": "y"}, "--model large: no step of the plan names this model"),
        (replace(CHAIN, models={"super": "nowhere"}), {}, "there is no model or tokenizer in nowhere"),
        (replace(CHAIN, models={"super": "nowhere"}), {"super": "elsewhere"}, "there is no model .* in elsewhere"),
    ],
)
def test_models_that_are_not_needed_or_not_there_are_told(
    plan: GenerationPlan, models: dict[str, Any], error: str, bundle: ToyBundle
) -> None:
    with pytest.raises(ValueError, match=error):
        with_others(ours(bundle), plan, models)
