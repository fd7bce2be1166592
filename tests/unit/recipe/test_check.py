"""What `--check` says about a recipe."""

from __future__ import annotations

import numpy as np
import pytest

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
