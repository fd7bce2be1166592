"""What `--check` says about a recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fourm.errors import ConfigError
from fourm.models.multimodal import Multimodal
from fourm.recipe.check import Cost, check, synthetic_sample
from tests.unit.recipe.conftest import recipe


def test_parameters_are_those_of_the_built_model() -> None:
    small = recipe()

    cost = check(small)

    model = Multimodal(small.modality_set(), small.model)
    assert sum(cost.parameters.values()) == sum(p.numel() for p in model.parameters())
    assert cost.parameters["encoder"] == sum(p.numel() for p in model.encoder.parameters())


def test_tokens_flops_and_memory_follow_from_the_recipe() -> None:
    one, two = (check(recipe(train={"max_steps": 1, "batch_size": size})) for size in (4, 8))

    assert (one.tokens_per_step, two.tokens_per_step) == (4 * 32, 8 * 32)
    assert two.flops_per_step == 2 * one.flops_per_step
    assert one.state_bytes == two.state_bytes == 16 * sum(one.parameters.values())


def test_flops_are_near_six_per_parameter_and_token_that_use_it() -> None:
    """Forward 2, backward 4 per weight and token; attention and padding come on top, embeddings are no products."""
    cost = check(
        recipe(model={"kind": "multimodal", "dim": 256, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 4})
    )

    trunk = 6 * 4 * 16 * (cost.parameters["encoder"] + cost.parameters["decoder"])
    assert 0.5 * trunk < cost.flops_per_step < 3 * trunk


def test_the_cost_is_told_in_words() -> None:
    lines = Cost({"encoder": 2_000_000, "heads": 500_000}, 3 * 10**12, 4096, 2**30).lines()

    assert lines[0].split() == ["parameters", "2.50", "M"]
    assert any("4,096" in line for line in lines)
    assert any("3.000e+12" in line for line in lines)
    assert any("1.00 GiB" in line for line in lines)


def test_synthetic_samples_have_the_form_of_data(rng: np.random.Generator) -> None:
    sample = synthetic_sample(recipe(modalities=["rgb@64", "tok_depth@64", "caption", "metadata"]).modality_set(), rng)

    assert sample["rgb@64"].shape == (3, 64, 64)
    assert sample["tok_depth@64"].shape == (64,)
    assert sample["tok_depth@64"].max() < 512
    assert sample["caption"].ndim == 1
    assert isinstance(sample["metadata"], list)


@pytest.mark.parametrize("reduction", ["token", "modality"])
def test_both_reductions_run_on_the_meta_device(reduction: str) -> None:
    objective = {"kind": "masked", "num_input_tokens": 16, "num_target_tokens": 16, "reduction": reduction}

    assert check(recipe(objective=objective)).flops_per_step > 0


def test_the_text_tokenizer_gives_the_vocabulary(text_file: Path) -> None:
    cost = check(recipe(tokenizers={"text": str(text_file)}))

    declared = check(recipe())
    assert cost.parameters["heads"] < declared.parameters["heads"]
    assert any(str(text_file) in line for line in cost.lines())


@pytest.mark.parametrize("tokenizers", [{}, {"text": "nowhere/text.json"}])
def test_without_it_the_output_says_what_was_assumed(tokenizers: dict[str, str]) -> None:
    lines = check(recipe(tokenizers=tokenizers)).lines()

    assert any("30,000 as declared" in line and "text" in line for line in lines)
    assert all("vocabulary" not in line for line in check(recipe(modalities=["rgb@64", "tok_depth@64"])).lines())


def test_a_vocabulary_that_is_too_small_is_a_clear_error() -> None:
    small = {"rgb@64": {}, "caption": {"content": {"vocab_size": 150}}}
    with pytest.raises(ConfigError, match="'caption': its vocabulary of 150"):
        check(recipe(modalities=small))


def test_tokens_count_by_the_budgets_of_the_components() -> None:
    own = [{"num_input_tokens": 40}, {"num_target_tokens": 10}]
    objective = {"kind": "masked", "num_input_tokens": 16, "num_target_tokens": 16, "components": own}
    assert check(recipe(objective=objective)).tokens_per_step == 4 * (40 + 16)


def test_a_data_set_of_which_nothing_is_asked_is_found() -> None:
    data = {"train": {"datasets": {"rooms": {"path": "rooms", "modalities": ["rgb@64"]}}}}
    with pytest.raises(ConfigError, match=r"data\.train\.datasets\.rooms"):
        check(recipe(data=data))
