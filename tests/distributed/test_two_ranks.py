"""Two processes on one machine train exactly as one."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.train.tracking import read_log
from tests.distributed.ranks import messages, run_ranks, start_ranks, wait
from tests.unit.train import toy_job
from tests.unit.train.toy_tokenizer import KINDS

pytestmark = pytest.mark.slow


def numbers(output: Path) -> torch.Tensor:
    """(steps, facts) what a record says; -1 where a part is absent."""
    found = [r for r in read_log(output / "log.jsonl") if r["kind"] == "train"]
    keys = sorted({key for r in found for key in r if key.startswith("loss")} | {"step", "grad_norm", "tokens"})
    return torch.tensor([[r.get(key, -1.0) for key in keys] for r in found], dtype=torch.float64)


@pytest.mark.parametrize(
    "options",
    [
        {"config": {"batch_size": 16, "accumulation": 2}},
        # One rank's batches have hardly a token of one part: means of means would differ.
        {"by_part": True, "config": {"optimizer": {"lr": 0.05, "clip_grad": 1.0}, "ema_decay": 0.9}},
        # Each rank makes some of the steps orthogonal, for both.
        {"config": {"optimizer": {"kind": "muon", "lr": 0.01, "matrices": ["*.weight"], "clip_grad": 1.0}}},
        {"model": "transfer", "config": {"accumulation": 2, "optimizer": {"lr": 1e-3}, "ema_decay": 0.9}},
        # Which boxes are scored each rank draws itself; all else is that of one.
        {"model": "detection", "drawn": False, "config": {"accumulation": 2, "optimizer": {"lr": 1e-3}}},
        *(
            {"model": kind, "config": {"accumulation": 2, "optimizer": {"lr": 1e-3}}}
            for kind in (*KINDS, "vqgan", "estimates", "documents", "contrastive")
        ),
    ],
    ids=[
        "linear",
        "by part",
        "muon",
        "transfer",
        "detection",
        *KINDS,
        "vqgan",
        "estimates",
        "documents",
        "contrastive",
    ],
)
def test_two_ranks_give_the_losses_of_one(tmp_path: Path, options: dict[str, Any]) -> None:
    toy_job.run({"output": str(tmp_path / "1"), **options})
    run_ranks(tmp_path / "2", **options)
    assert len(numbers(tmp_path / "1")) == 20
    torch.testing.assert_close(numbers(tmp_path / "2"), numbers(tmp_path / "1"), rtol=1e-4, atol=1e-6)


SPIKES = {"window": 6, "grad_ratio": 20.0, "loss_ratio": 30.0}


@pytest.mark.parametrize("on_spike", ["skip", "rollback"])
@pytest.mark.parametrize("model", ["linear", "multimodal"])
def test_two_ranks_know_the_spikes_of_one(tmp_path: Path, on_spike: str, model: str) -> None:
    config = {"on_spike": on_spike, "spike": SPIKES, "save_every_steps": 4, "log_every_steps": 2}
    options = {"config": config, "model": model, "spikes": [10]}
    sharded = {"parallel": {"kind": "fsdp"}} if model == "multimodal" else {}
    toy_job.run({"output": str(tmp_path / "1"), **options})
    run_ranks(tmp_path / "2", **{**options, "config": {**config, **sharded}})
    one, two = (read_log(tmp_path / ranks / "log.jsonl") for ranks in "12")
    assert sum(r.get("skipped", 0) for r in two) == (1 if on_spike == "skip" else 0)
    assert ("Back to step 8" in messages(tmp_path / "2")) == (on_spike == "rollback")
    assert [r.get("skipped") for r in one] == [r.get("skipped") for r in two]
    torch.testing.assert_close(numbers(tmp_path / "2"), numbers(tmp_path / "1"), rtol=1e-4, atol=1e-6)
    states = [
        json.loads((tmp_path / ranks / "checkpoints/step-00000020/state.json").read_text())["recent"] for ranks in "12"
    ]
    for name in ("grad_norm", "loss"):
        one, two = (torch.tensor(state[name]) for state in states)
        assert len(one) == 6
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    def config(steps: int) -> dict[str, Any]:
        return {"max_steps": steps, "schedule": {"kind": "constant"}}

    toy_job.run({"output": str(tmp_path / "one"), "config": config(12)})
    toy_job.run({"output": str(tmp_path / "parts"), "config": config(4)})
    run_ranks(tmp_path / "parts", config=config(8))
    toy_job.run({"output": str(tmp_path / "parts"), "config": config(12)})
    torch.testing.assert_close(numbers(tmp_path / "parts"), numbers(tmp_path / "one"), rtol=1e-4, atol=1e-6)


def test_a_signal_to_one_rank_stops_both_with_a_checkpoint(tmp_path: Path) -> None:
    ranks = start_ranks(tmp_path, 2, stop_rank=1, stop_at=6)
    assert wait(ranks) == [128 + signal.SIGTERM] * 2, messages(tmp_path)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]


def test_a_failure_of_the_main_rank_is_an_error_on_both(tmp_path: Path) -> None:
    ranks = start_ranks(tmp_path, 2, config={"save_every_steps": 4}, die_in="publish", die_step=4, fail=True)
    assert wait(ranks) == [1, 1], messages(tmp_path)
    for rank in (0, 1):
        assert "No space left on device" in (tmp_path / f"error-{rank}.txt").read_text()
    assert list((tmp_path / "checkpoints").iterdir()) == []
