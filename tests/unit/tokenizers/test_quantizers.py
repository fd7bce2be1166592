"""What all quantizers keep to, whatever their kind."""

from __future__ import annotations

import copy
import importlib
import math

import pytest
import torch

from fourm.config import build
from fourm.tokenizers.configs import QUANTIZERS, VQVAEConfig
from fourm.tokenizers.quantize import Quantizer, RecentUsage, perplexity

CONFIGS = {
    "ema": {"kind": "ema", "codebook_size": 24, "dim": 8},
    "ema, distances": {"kind": "ema", "codebook_size": 24, "dim": 8, "cosine": False, "kmeans_steps": 2},
    "fsq": {"kind": "fsq", "levels": [5, 4, 3]},
    "memcodes": {"kind": "memcodes", "num_heads": 4, "codebook_size": 12, "dim": 8},
    "memcodes, one head": {"kind": "memcodes", "num_heads": 1, "codebook_size": 12, "dim": 8},
    "memcodes, six heads": {"kind": "memcodes", "num_heads": 6, "codebook_size": 5, "dim": 12},
}


def make(name: str):
    torch.manual_seed(0)
    config = build(VQVAEConfig, {"quantizer": CONFIGS[name]}).quantizer
    module, _, attribute = config.target.partition(":")
    return getattr(importlib.import_module(module), attribute)(config)


def latents_of(quantizer, batch: int = 2, seed: int = 0, **options) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 2, quantizer.dim, generator=generator).requires_grad_(**options)


@pytest.fixture(params=CONFIGS)
def quantizer(request: pytest.FixtureRequest):
    return make(request.param)


def test_every_kind_is_tried_here():
    assert {config["kind"] for config in CONFIGS.values()} == set(QUANTIZERS)


def test_keeps_the_protocol(quantizer):
    assert isinstance(quantizer, Quantizer)


def test_ids_fill_the_grid_that_the_block_declares(quantizer):
    rows, columns = quantizer.block
    result = quantizer(latents_of(quantizer))
    assert result.ids.shape == (2, 3 * rows, 2 * columns)
    assert result.ids.dtype == torch.int64
    assert 0 <= result.ids.min() <= result.ids.max() < quantizer.vocab_size
    assert result.vectors.shape == (2, 3, 2, quantizer.dim)
    assert result.commitment.shape == (2,)


def test_in_evaluation_vectors_are_what_the_assigned_ids_look_up(quantizer):
    quantizer(latents_of(quantizer))  # a codebook begins with its first batch
    quantizer.eval()
    latents = latents_of(quantizer, seed=1)
    result = quantizer(latents)
    assert torch.equal(result.ids, quantizer.assign(latents))
    torch.testing.assert_close(result.vectors, quantizer.lookup(result.ids))


def test_in_training_vectors_are_those_of_the_ids_too(quantizer):
    quantizer(latents_of(quantizer))
    before = copy.deepcopy(quantizer)  # a codebook moves after it was read
    result = quantizer(latents_of(quantizer, seed=1))
    torch.testing.assert_close(result.vectors, before.lookup(result.ids))


def test_each_place_is_quantized_by_itself(quantizer):
    quantizer(latents_of(quantizer))
    quantizer.eval()
    latents = latents_of(quantizer, batch=1, seed=1)
    whole = quantizer(latents)
    rows, columns = quantizer.block
    alone = quantizer(latents[:, 1:2, 1:2])
    assert torch.equal(alone.ids, whole.ids[:, rows : 2 * rows, columns : 2 * columns])
    torch.testing.assert_close(alone.vectors, whole.vectors[:, 1:2, 1:2])


def test_the_codebook_holds_what_ids_look_up(quantizer):
    codebook = quantizer.codebook
    if quantizer.block != (1, 1):
        assert codebook is None
        return
    assert codebook.shape == (quantizer.vocab_size, quantizer.dim)
    ids = torch.arange(quantizer.vocab_size).view(1, 1, -1)
    assert torch.equal(quantizer.lookup(ids)[0, 0], codebook)


def test_gradients_reach_latents_and_all_parameters(quantizer):
    latents = latents_of(quantizer, requires_grad=True)
    result = quantizer(latents)
    ((result.vectors * torch.randn_like(result.vectors)).sum() + result.commitment.sum()).backward()
    assert latents.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in quantizer.parameters())


def test_a_sample_is_quantized_alike_in_any_batch_and_whatever_was_drawn_before(quantizer):
    """In training mode, given its seed. Codebooks read the whole batch in their first step, so they are past it."""
    quantizer(latents_of(quantizer))
    latents, seeds = latents_of(quantizer, batch=3, seed=1), torch.tensor([7, 8, 9])
    whole = copy.deepcopy(quantizer)(latents, seeds)
    torch.rand(5)
    alone = copy.deepcopy(quantizer)(latents[1:2], seeds[1:2])
    assert torch.equal(alone.ids, whole.ids[1:2])
    torch.testing.assert_close(alone.vectors, whole.vectors[1:2])


def test_the_global_generator_is_left_alone(quantizer):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    quantizer(latents_of(quantizer))
    assert torch.equal(torch.rand(1), expected)


def test_stays_in_float32_under_autocast(quantizer):
    plain = copy.deepcopy(quantizer)(latents_of(quantizer))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = quantizer(latents_of(quantizer))
        assert quantizer.lookup(result.ids).dtype == torch.float32
    assert result.vectors.dtype == result.commitment.dtype == torch.float32
    assert torch.equal(result.ids, plain.ids)


def test_a_training_step_runs_on_meta_tensors():
    for name in CONFIGS:
        with torch.device("meta"):
            quantizer = make(name)
        latents = torch.randn(2, 3, 2, quantizer.dim, device="meta", requires_grad=True)
        result = quantizer(latents, torch.zeros(2, dtype=torch.int64, device="meta"))
        (result.vectors.sum() + result.commitment.sum()).backward()
        assert quantizer.usage()["used"].device.type == "meta"


def test_usage_counts_training_and_not_evaluation(quantizer):
    quantizer.eval()
    quantizer(latents_of(quantizer))
    assert quantizer.usage().get("used", torch.tensor(0)) == 0
    quantizer.train()
    quantizer(latents_of(quantizer))
    usage = quantizer.usage()
    assert set(usage) == {"perplexity", "used"}
    assert 0 < usage["perplexity"] <= quantizer.vocab_size


def test_a_state_loads_into_a_quantizer_built_without_numbers(quantizer):
    """As saved tokenizers are loaded: built on the meta device, then filled."""
    for name in CONFIGS:
        trained = make(name)
        trained(latents_of(trained))
        with torch.device("meta"):
            loaded = make(name)
        loaded.load_state_dict(trained.state_dict(), assign=True)
        loaded.to("cpu")
        assert torch.equal(loaded.assign(latents_of(trained)), trained.assign(latents_of(trained)))


def test_perplexity_of_even_use_is_the_number_of_codes_and_of_one_code_is_one():
    assert perplexity(torch.tensor([3.0, 3.0, 3.0, 3.0])).item() == pytest.approx(4)
    assert perplexity(torch.tensor([0.0, 7.0, 0.0])).item() == pytest.approx(1)


def test_recent_usage_is_that_of_the_window(monkeypatch):
    monkeypatch.setattr("fourm.tokenizers.quantize._WINDOW", 4)
    usage = RecentUsage()
    assert usage.values() == {}
    usage.add(torch.tensor([9, 9, 9]))
    usage.add(torch.tensor([5, 5, 2]))  # the window holds 9 5 5 2
    found = usage.values()
    assert found["used"] == 3
    assert found["perplexity"].item() == pytest.approx(math.exp(0.5 * math.log(2) + 2 * 0.25 * math.log(4)))


def test_recent_usage_of_several_vocabularies_is_their_mean():
    usage = RecentUsage()
    usage.add(torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]]))
    assert usage.values()["used"] == 2.5
    assert usage.values()["perplexity"].item() == pytest.approx(2.5)
