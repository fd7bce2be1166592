"""Every toy recipe of VILA, Emu, Emu2 and VL-GPT: killed it goes on bit for bit, and two ranks give the losses of one.

With their real loaders and packed documents, LoRA, frozen parts, feeders of tokenizers, dropped conditions, and the
stages they start from.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fourm import recipes
from fourm.train.tracking import read_log
from tests.distributed.ranks import COMMAND, messages, start_ranks, wait
from tests.end_to_end.conftest import run
from tests.end_to_end.systems import NUM_STEPS, Systems, make, toys

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
KILLED_IN = 4
"""The step, after the checkpoint of step 2 and before that of step 4."""
every_recipe = pytest.mark.parametrize("recipe", toys())


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Systems:
    """All of them, trained for a few steps without being disturbed."""
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    return make(tmp_path_factory.mktemp("systems"))


def command(systems: Systems, recipe: str, *more: str) -> list[str]:
    assert recipe in systems.commands, f"no pipeline trains {recipe}: say how in tests/end_to_end/systems.py"
    return [str(word) for word in (*systems.commands[recipe], *more)]


def records(output: Path) -> list[dict[str, Any]]:
    """What was logged of every step and of the evaluation: losses, their parts, gradient norm and what was counted."""
    kept = ("step", "loss", "grad_norm", "tokens")
    return [{k: v for k, v in r.items() if k in kept or k.startswith("loss/")} for r in read_log(output / "log.jsonl")]


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model/model.safetensors")


@every_recipe
def test_a_killed_run_goes_on_bit_for_bit(systems: Systems, tmp_path: Path, recipe: str) -> None:
    words = command(systems, recipe, f"output={tmp_path}")
    killed = start_ranks(tmp_path, 1, COMMAND, command=[*words, "data.num_workers=1"], killed_in=KILLED_IN)
    assert wait(killed) == [-signal.SIGKILL], messages(tmp_path)
    assert [r["step"] for r in records(tmp_path)] == [*range(1, KILLED_IN)]

    assert run(*words) == 0

    found, expected = records(tmp_path), records(systems.outputs[recipe])
    assert [r["step"] for r in expected] == [*range(1, NUM_STEPS + 1), NUM_STEPS]
    assert found == expected
    ours, theirs = weights(tmp_path), weights(systems.outputs[recipe])
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


@every_recipe
def test_two_ranks_give_the_losses_of_one(systems: Systems, tmp_path: Path, recipe: str) -> None:
    # Dropout of LoRA is drawn by each rank for itself.
    drawn = (recipes.read(recipes.find(recipe)).get("lora") or {}).get("dropout")
    alike = ["lora.dropout=0"] if drawn else []
    one = systems.outputs[recipe]
    if alike:
        one = tmp_path / "1"
        assert run(*command(systems, recipe, *alike, f"output={one}")) == 0

    ranks = start_ranks(tmp_path / "2", 2, COMMAND, command=command(systems, recipe, *alike, f"output={tmp_path}/2"))
    assert wait(ranks) == [0, 0], messages(tmp_path / "2")

    found, expected = records(tmp_path / "2"), records(one)
    assert [r.keys() for r in found] == [r.keys() for r in expected]
    torch.testing.assert_close(numbers(found[:2]), numbers(expected[:2]), rtol=1e-4, atol=1e-6)
    # What rounding differs by then grows: by Muon's orthogonal steps in bfloat16, or by a gain of 100 before a U-Net.
    torch.testing.assert_close(numbers(found, "loss"), numbers(expected, "loss"), rtol=5e-3, atol=1e-6)


def numbers(found: list[dict[str, Any]], of: str = "") -> torch.Tensor:
    """All values of records whose names begin so."""
    values = [value for record in found for key, value in record.items() if key.startswith(of)]
    return torch.tensor(values, dtype=torch.float64)
