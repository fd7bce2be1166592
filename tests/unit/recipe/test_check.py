"""What `--check` says about a recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fourm.data.interleaved_configs import InterleavedConfig
from fourm.errors import ConfigError
from fourm.models.multimodal import Multimodal
from fourm.objectives.masked import Masked
from fourm.recipe.check import Cost, check
from fourm.recipe.cost import forward_flops, peak_activation_bytes
from fourm.recipe.machines import Machines
from fourm.recipe.synthetic import images_per_row, synthetic_sample
from tests.unit.recipe.conftest import recipe


def test_parameters_are_those_of_the_built_model() -> None:
    small = recipe()

    cost = check(small)

    model = Multimodal(small.modality_set(), small.model)
    assert sum(cost.parameters.values()) == sum(p.numel() for p in model.parameters())
    assert cost.parameters["encoder"] == sum(p.numel() for p in model.encoder.parameters())


def test_a_decoder_alone_has_a_cost_too() -> None:
    model = {
        "kind": "multimodal",
        "dim": 32,
        "encoder_depth": 0,
        "decoder_depth": 1,
        "num_heads": 2,
        "tie_heads": False,
    }
    cost = check(recipe(model=model, objective={"kind": "autoregressive"}))

    assert "encoder" not in cost.parameters
    assert cost.tokens_per_step == 4 * (64 + 64 + 25 - 1)
    assert cost.forward_flops["decoder"] > 0


def test_tokens_flops_and_memory_follow_from_the_recipe() -> None:
    one, two = (check(recipe(train={"max_steps": 1, "batch_size": size})) for size in (4, 8))

    assert (one.tokens_per_step, two.tokens_per_step) == (4 * 32, 8 * 32)
    assert two.flops_per_step == pytest.approx(2 * one.flops_per_step)
    assert one.state_bytes == two.state_bytes == 16 * sum(one.parameters.values())


def test_memory_counts_what_is_trained_and_how() -> None:
    def state(**train: Any) -> int:
        return check(recipe(train={"max_steps": 1, "batch_size": 4, **train})).state_bytes

    parts = check(recipe()).parameters
    whole, frozen = sum(parts.values()), parts["encoder"]
    assert state(ema_decay=0.9) == 20 * whole
    assert state(freeze=["encoder.*"]) == 16 * (whole - frozen) + 4 * frozen
    assert 12 * whole < state(optimizer={"kind": "muon"}) < 16 * whole
    with pytest.raises(ConfigError, match=r"train\.freeze: 'encodr\.\*' matches no parameter"):
        state(freeze=["encodr.*"])


def test_flops_are_near_six_per_parameter_and_token_that_use_it() -> None:
    """Forward 2, backward 4 per weight and token; attention and padding come on top, embeddings are no products."""
    cost = check(
        recipe(model={"kind": "multimodal", "dim": 256, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 4})
    )

    trunk = 6 * 4 * 16 * (cost.parameters["encoder"] + cost.parameters["decoder"])
    assert 0.5 * trunk < cost.flops_per_step < 3 * trunk


def test_the_cost_is_told_in_words() -> None:
    lines = a_cost().lines()

    assert lines[0].split() == ["parameters", "2.50", "M"]
    assert any("4,096" in line for line in lines)
    assert any("3.000e+12" in line for line in lines)
    assert any("1.00 GiB" in line for line in lines)


def a_cost(**changes: Any) -> Cost:
    facts: dict[str, Any] = {
        "parameters": {"encoder": 2_000_000, "heads": 500_000},
        "forward_flops": {"encoder": 8 * 10**11, "heads": 2 * 10**11},
        "batch_size": 16,
        "tokens_per_step": 4096,
        "num_steps": 1000,
        "peak_lr": 1e-3,
        "state_bytes": 2**30,
        "sample_bytes": 2**28,
    }
    return Cost(**{**facts, **changes})


def test_days_and_memory_are_those_of_the_stated_machines() -> None:
    cost = a_cost()
    # 1000 steps of 3e12 operations at half of 2 x 312e12 per second
    assert cost.days(Machines(2, "a100", 0.5)) == pytest.approx(3e15 / 312e12 / 86400)
    assert cost.bytes_per_gpu(Machines(2)) == 2**30 + 8 * 2**28 // 2  # eight samples each, halved by bfloat16
    assert cost.bytes_per_gpu(Machines(2), sharded=True) == 2**29 + 8 * 2**28 // 2
    assert replace(cost, micro_batches=4).bytes_per_gpu(Machines(2)) == 2**30 + 2 * 2**28 // 2
    assert any("2 x a100" in line for line in cost.lines(Machines(2)))


def test_memory_is_that_of_the_recipe_s_own_way_to_share_the_model() -> None:
    cost, on = a_cost(state_bytes=100 * 2**30), Machines(2)
    assert cost.bytes_per_gpu(on) == cost.bytes_per_gpu(on, sharded=False)
    assert any("replicas do not fit" in line for line in cost.lines(on))
    cost = replace(cost, sharded=True)
    assert cost.bytes_per_gpu(on) == cost.bytes_per_gpu(on, sharded=True)
    assert not any("not fit" in line or "needed" in line for line in cost.lines(on))
    assert any("more micro-batches are needed" in line for line in replace(cost, sample_bytes=2**34).lines(on))
    assert check(recipe(train={"max_steps": 4, "batch_size": 4, "parallel": {"kind": "fsdp"}})).sharded


def test_copies_of_a_sharded_state_are_spread_over_their_own_gpus_only() -> None:
    parallel = {"kind": "fsdp", "shard_ranks": 2}
    over_two, over_all = (
        check(recipe(train={"max_steps": 4, "batch_size": 4, "parallel": p})) for p in (parallel, {"kind": "fsdp"})
    )
    saved = over_two.bytes_per_gpu(Machines(8), sharded=True) - over_all.bytes_per_gpu(Machines(8), sharded=True)
    assert saved == pytest.approx(over_all.state_bytes * (1 / 2 - 1 / 8), rel=1e-6)


def test_recomputed_parts_cost_their_forward_pass_once_more() -> None:
    cost = a_cost(recomputed=("encoder",))
    assert cost.flops_per_step == 3 * 10**12
    assert cost.executed_flops_per_step == 3 * 10**12 + 8 * 10**11
    assert any("recomputation" in line for line in cost.lines())


def test_an_unknown_gpu_is_named() -> None:
    with pytest.raises(ConfigError, match="'a1000' is not known.*Did you mean 'a100'"):
        Machines(8, "a1000")


def test_forward_operations_are_those_that_torch_counts() -> None:
    """fvcore traces the module, torch's counter listens to the operations: two ways to the same number."""
    small = recipe()
    modalities, objective = small.modality_set(), Masked(small.objective, small.modality_set())
    with torch.device("meta"):
        model = Multimodal(modalities, small.model)
    draw = np.random.default_rng(0)
    batch = objective.collate([objective.prepare(synthetic_sample(modalities, draw), draw) for _ in range(3)])
    with FlopCounterMode(display=False) as counter:
        objective.loss(model, batch.to("meta"))

    flops = forward_flops(model, objective, batch.to("meta"))

    assert sum(flops.values()) == counter.get_total_flops()
    assert set(flops) == {"encoder", "decoder", "heads", "input_embedder", "context_projection"}


def test_activations_are_what_lives_at_once() -> None:
    """Two products of (8, 4) and (4, 4): input and result of the first are kept, and the second adds its own."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).to("meta")
    x = torch.empty(8, 4, device="meta")

    forward_alone = 8 * 4 * 4 * 2 + 4  # both results and the sum, in bytes
    assert forward_alone <= peak_activation_bytes(model, lambda: model(x).sum()) <= 2 * forward_alone + 2 * 4 * 4 * 4


def test_checkpointing_needs_less_memory_and_more_operations() -> None:
    deep = {"kind": "multimodal", "dim": 32, "encoder_depth": 6, "decoder_depth": 6, "num_heads": 2}
    plain, again = (check(recipe(model={**deep, "activation_checkpointing": on})) for on in (False, True))

    assert again.sample_bytes < 0.6 * plain.sample_bytes
    assert again.forward_flops == plain.forward_flops
    trunks = again.forward_flops["encoder"] + again.forward_flops["decoder"]
    assert again.executed_flops_per_step == plain.executed_flops_per_step + trunks


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


def documents(**packing: Any) -> Any:
    """A small recipe of text and images, whose data follows `packing`."""
    tower = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"depth": 1}}
    pooler = {"kind": "average"}
    own = {"path": "own", "packing": {"kind": "interleaved", "num_tokens": 64, **packing}}
    return recipe(
        modalities={
            "text": {"layout": {"kind": "sequence", "max_tokens": 64, "num_positions": 64},
                     "content": {"kind": "discrete", "vocab_size": 50}, "decode": "text", "tokenizer": "text"},
            "image": {"layout": {"kind": "slots", "num_tokens": 4, "height": 32, "width": 32},
                      "content": {"kind": "continuous", "dim": 192}, "source": "rgb", "decode": "image", "channels": 3,
                      "normalization": "half", "direction": "input"},
        },
        data={"train": {"datasets": {"own": own}}},
        model={"kind": "multimodal", "dim": 192, "encoder_depth": 0, "decoder_depth": 1, "num_heads": 2,
               "feeders": {"image": {"kind": "vision", "tower": tower, "pooler": pooler}}},
        objective={"kind": "autoregressive", "max_tokens": 64},
    )  # fmt: skip


def test_documents_cost_what_their_images_cost_and_rows_are_full() -> None:
    one, three, none = (
        check(documents(reader=reader, max_images=count))
        for reader, count in (("mmc4", 1), ("mmc4", 3), ("text", None))
    )

    assert one.tokens_per_step == three.tokens_per_step == 4 * 64
    assert three.forward_flops["input_embedder"] == 3 * one.forward_flops["input_embedder"]
    assert 4 * none.forward_flops["input_embedder"] == one.forward_flops["input_embedder"]  # of one blank image a batch


@pytest.mark.parametrize(
    ("packing", "images"),
    [
        ({"reader": "pairs"}, 1),
        ({"reader": "pairs", "group": 4}, 4),
        ({"reader": "pairs", "pack": True}, 1),
        ({"reader": "pairs", "pack": True, "num_tokens": 1024}, 28),
        ({"reader": "frames", "max_images": 8}, 8),
        ({"reader": "obelics", "max_images": 100}, 15),
        ({"reader": "chat"}, 1),
        ({"reader": "text"}, 0),
    ],
)
def test_rows_have_as_many_images_as_their_rules_tell(packing: dict[str, Any], images: int) -> None:
    assert images_per_row(InterleavedConfig(**{"num_tokens": 64, **packing}), 4) == images
