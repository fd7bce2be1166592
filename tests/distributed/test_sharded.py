"""Replicated, sharded or alone: the same losses, gradients and checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from fourm.train.checkpoint import CheckpointStore
from fourm.train.distributed import World
from fourm.train.tracking import read_log
from tests.distributed.ranks import run_ranks
from tests.unit.train import toy_job

pytestmark = pytest.mark.slow
STEPS: dict[str, Any] = {"max_steps": 4, "batch_size": 8, "optimizer": {"lr": 1e-3}}


def run(output: Path, num_ranks: int, config: dict[str, Any], **options: Any) -> None:
    output.mkdir(parents=True, exist_ok=True)
    given = {"model": "multimodal", "gradients": True, "config": {**STEPS, **config}, **options}
    if num_ranks == 1:
        toy_job.run({"output": str(output), **given})
    else:
        run_ranks(output, num_ranks, **given)


def gradients(output: Path) -> dict[str, Tensor]:
    return torch.load(output / "gradients.pt")


def numbers(output: Path) -> Tensor:
    """(records, facts): losses of all steps and parts, gradient norms, and the size of the weights at the end."""
    found = read_log(output / "log.jsonl")
    keys = sorted({k for r in found for k in r if k.startswith("loss") or k in ("grad_norm", "weights", "step")})
    return torch.tensor([[r.get(key, -1.0) for key in keys] for r in found], dtype=torch.float64)


def averages(output: Path) -> dict[str, Tensor]:
    """The averaged weights of the last checkpoint."""
    store = CheckpointStore(output / "checkpoints", World())
    path = store.latest()
    saved = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    return store.load(path, lambda names: {n: torch.zeros(saved[n].size) for n in names if n.startswith("ema/")})  # type: ignore[union-attr]


def same(one: Path, other: Path) -> None:
    ours, theirs = gradients(one), gradients(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    torch.testing.assert_close(numbers(one), numbers(other), rtol=1e-5, atol=1e-6)
    # Where gradients are as small as rounding errors, Adam's steps of 1e-3 differ a little.
    torch.testing.assert_close(averages(one), averages(other), rtol=0, atol=3e-4)


def fsdp(**options: Any) -> dict[str, Any]:
    return {"parallel": {"kind": "fsdp", **options}}


MUON = {"kind": "muon", "lr": 1e-3, "matrix_lr": 1e-3, "clip_grad": 0.5, "skip_grad": 1e6}


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({"parallel": {"kind": "ddp"}}, {}),
        (fsdp(), {}),
        (fsdp() | {"ema_decay": 0.9, "accumulation": 2}, {"options": {"activation_checkpointing": True}}),
        (fsdp(reshard_after_forward=False) | {"freeze": ["encoder.*", "heads.weight"]}, {"reduction": "token"}),
        (fsdp() | {"freeze_modalities": ["rgb", "codes"], "optimizer": {"lr": 1e-3, "weight_decay": 0.5}}, {}),
        (fsdp(shard_ranks=1) | {"optimizer": MUON}, {"options": {"tie_heads": False}}),
        (fsdp() | {"optimizer": MUON}, {"options": {"share_modality_embeddings": True}}),
        ({"parallel": {"kind": "ddp"}, "accumulation": 2}, {"options": {"alone": True}}),
        (fsdp() | {"optimizer": MUON}, {"options": {"alone": True}}),
        ({"parallel": {"kind": "ddp"}}, {"options": {"alone": True, "fed": True}}),
        (fsdp(), {"options": {"alone": True, "fed": True}}),
        ({"parallel": {"kind": "ddp"}}, {"options": {"alone": True, "code_dim": 5}}),
        (fsdp(), {"options": {"alone": True, "code_dim": 5}}),
        ({"parallel": {"kind": "ddp"}}, {"options": {"alone": True, "slots": True}}),
        (fsdp(), {"options": {"alone": True, "slots": True}}),
        ({"parallel": {"kind": "ddp"}}, {"model": "contrastive"}),
        (fsdp(), {"model": "contrastive"}),
        (
            fsdp() | {"optimizer": {"lr": 0.02}, "batch_size": 16, "max_steps": 16},
            {"model": "contrastive", "most": 1.0},
        ),
    ],
    ids=[
        "ddp",
        "fsdp",
        "accumulated averaged recomputed",
        "frozen tied head",
        "frozen rows",
        "hsdp muon untied",
        "fsdp muon",
        "decoder ddp",
        "decoder fsdp muon",
        "fed ddp",
        "fed fsdp",
        "codes ddp",
        "codes fsdp",
        "slots ddp",
        "slots fsdp",
        "contrastive ddp",
        "contrastive fsdp",
        "contrastive fsdp at its largest scale",
    ],
)
def test_two_ranks_without_a_common_modality_train_as_one(tmp_path: Path, config: Any, options: Any) -> None:
    alone = {key: value for key, value in config.items() if key not in ("parallel", "accumulation")}
    run(tmp_path / "one", 1, alone, **options)
    run(tmp_path / "two", 2, config, **options)
    same(tmp_path / "two", tmp_path / "one")


def test_replicas_of_sharded_groups_train_as_one(tmp_path: Path) -> None:
    run(tmp_path / "one", 1, {})
    run(tmp_path / "four", 4, fsdp(shard_ranks=2))
    same(tmp_path / "four", tmp_path / "one")


def test_weights_gathered_in_bf16_train_nearly_as_one(tmp_path: Path) -> None:
    run(tmp_path / "one", 1, {"precision": "bf16"})
    run(tmp_path / "two", 2, {"precision": "bf16", **fsdp()})
    torch.testing.assert_close(numbers(tmp_path / "two"), numbers(tmp_path / "one"), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "ranks", [(2, 1), (1, 2), (2, 4)], ids=["two then one", "one then two", "two then four"]
)  # fmt: skip
def test_a_sharded_run_goes_on_with_another_number_of_ranks(tmp_path: Path, ranks: tuple[int, int]) -> None:
    def part(steps: int) -> dict[str, Any]:
        return {**fsdp(), "max_steps": steps, "ema_decay": 0.9, "schedule": {"kind": "constant"}}

    run(tmp_path / "whole", 1, part(6))
    run(tmp_path / "parts", ranks[0], part(3))
    run(tmp_path / "parts", ranks[1], part(6))
    whole, parts = numbers(tmp_path / "whole"), numbers(tmp_path / "parts")
    evaluated = len(parts) - len(whole)  # the first part ends with an evaluation of its own
    assert evaluated == 1
    torch.testing.assert_close(torch.cat([parts[:3], parts[4:]]), whole, rtol=1e-5, atol=1e-6)
