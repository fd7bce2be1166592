"""Two ranks with half a batch each follow it as one process does with all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from fourm.config import build
from fourm.registry import implementation
from fourm.tokenizers.configs import VQVAEConfig

EMA = {"kind": "ema", "codebook_size": 24, "dim": 3, "revive_below": 0.2}
CONFIGS: dict[str, dict[str, Any]] = {
    "directions": EMA,
    "distances": {**EMA, "cosine": False},
    "directions, k-means": {**EMA, "kmeans_steps": 3, "codebook_size": 8},
    "distances, k-means": {**EMA, "cosine": False, "kmeans_steps": 3},
    "fsq": {"kind": "fsq", "levels": [4, 3, 3]},
    "memcodes": {"kind": "memcodes", "num_heads": 3, "codebook_size": 5, "dim": 3},
}
STEPS = 4


def make(name: str) -> Any:
    torch.manual_seed(0)
    config = build(VQVAEConfig, {"quantizer": CONFIGS[name]}).quantizer
    return implementation(config.target)(config)


def batch(step: int) -> torch.Tensor:
    return torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(step))


def follow(names: list[str], part: slice) -> dict[str, dict[str, torch.Tensor]]:
    """State and usage after some steps on a part of each batch."""
    found = {}
    for name in names:
        quantizer = make(name)
        for step in range(STEPS):
            quantizer(batch(step)[part], torch.arange(4)[part])
        found[name] = {**quantizer.state_dict(), **quantizer.usage()}
    return found


def run_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(follow(list(CONFIGS), slice(2 * rank, 2 * rank + 2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(run_rank, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_two_ranks_move_as_one_process_on_the_joint_batch(ranks, name: str) -> None:
    joint = follow([name], slice(None))[name]
    assert "perplexity" in joint
    for key, value in joint.items():
        assert torch.equal(ranks[0][name][key], ranks[1][name][key])
        torch.testing.assert_close(ranks[0][name][key], value, rtol=1e-6, atol=1e-6)
