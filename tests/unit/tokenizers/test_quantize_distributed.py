from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from fourm.tokenizers.configs import EmaConfig
from fourm.tokenizers.quantize import EmaQuantizer

CONFIG = EmaConfig(codebook_size=24, dim=3, revive_below=0.2)
STEPS = 4


def batch(step: int) -> torch.Tensor:
    return torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(step))


def run_rank(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    quantizer = EmaQuantizer(CONFIG)
    for step in range(STEPS):
        quantizer(batch(step)[2 * rank : 2 * rank + 2])
    torch.save(quantizer.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_move_the_codebook_as_one_process_on_the_joint_batch(tmp_path: Path):
    joint = EmaQuantizer(CONFIG)
    for step in range(STEPS):
        joint(batch(step))
    multiprocessing.spawn(run_rank, (str(tmp_path),), nprocs=2)
    states = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for name, value in joint.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        torch.testing.assert_close(states[0][name], value, rtol=1e-5, atol=1e-6)
