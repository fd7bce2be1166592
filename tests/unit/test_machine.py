from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from fourm import machine
from fourm.errors import ConfigError
from fourm.machine import (
    WHOLE,
    Part,
    choose_device,
    has_bf16,
    local_place,
    num_processes,
    part_from_environment,
    use_bf16,
)

CPU = torch.device("cpu")


def test_unknown_and_missing_devices_are_named() -> None:
    with pytest.raises(ConfigError, match="'gpu'; expected auto, cpu"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="use device: auto"):
            choose_device("cuda")
        assert choose_device("auto").type in ("cpu", "mps")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({}, False), ({"avx512_f": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)],
)
def test_a_cpu_has_bf16_if_it_has_the_instructions(
    capabilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bf16(CPU) is expected
    assert use_bf16("auto", CPU) is expected


def test_a_named_precision_is_kept() -> None:
    assert use_bf16("bf16", CPU)
    assert not use_bf16("fp32", CPU)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """An environment without a launcher, to fill."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SLURM") and "RANK" not in k and "WORLD" not in k}
    monkeypatch.setattr(os, "environ", kept)
    return kept


def torchrun(rank: int, size: int, local: int = 0, local_size: int = 1) -> dict[str, str]:
    return {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(local), "LOCAL_WORLD_SIZE": str(local_size)
    }  # fmt: skip


def array(index: int, least: int, most: int, count: int) -> dict[str, str]:
    values = {"ID": index, "MIN": least, "MAX": most, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def srun(task: int, tasks: int, local: int = 0, nodes: str = "1") -> dict[str, str]:
    return {
        "SLURM_PROCID": str(task), "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_LOCALID": str(local),
        "SLURM_STEP_TASKS_PER_NODE": nodes, "SLURM_NTASKS": str(tasks),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, WHOLE),
        (torchrun(5, 8), Part(5, 8)),
        (array(0, 0, 15, 16), Part(0, 16)),
        (array(7, 1, 8, 8), Part(6, 8)),  # --array=1-8
        (array(8, 2, 14, 3), Part(1, 3)),  # --array=2-14:6
        (array(3, 3, 3, 1), WHOLE),  # one element alone, to make what is missing
        (srun(2, 4), Part(2, 4)),
        ({**array(2, 0, 3, 4), **srun(1, 2)}, Part(5, 8)),
        ({**array(2, 0, 3, 4), **torchrun(1, 2)}, Part(5, 8)),
        ({**srun(1, 2), **torchrun(9, 16)}, Part(9, 16)),  # srun starts one torchrun on each node
        # A batch script of several tasks runs itself only once.
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, WHOLE),
    ],
    ids=str,
)
def test_launchers_share_the_work(given: dict[str, str], expected: Part, environment: dict[str, str]) -> None:
    environment.update(given)
    assert part_from_environment() == expected


def test_the_shares_of_an_array_of_steps_cover_all_work_once(environment: dict[str, str]) -> None:
    owners = []
    for element in range(3):
        for task in range(2):
            environment.update({**array(10 + 5 * element, 10, 20, 3), **srun(task, 2)})
            part = part_from_environment()
            owners += [shard for shard in range(20) if part.has(shard)]
    assert sorted(owners) == list(range(20))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RANK": "0"}, "WORLD_SIZE"),
        (torchrun(4, 4), "part 4 of 4"),
        (array(3, 1, 7, 3), "from 1 to 7 are not evenly spaced: give a range"),  # --array=1,3,7
        ({"SLURM_ARRAY_TASK_ID": "one"}, "torchrun and SLURM set it"),
    ],
)
def test_numbers_that_make_no_sense_are_an_error(given: dict[str, str], said: str, environment: dict[str, str]) -> None:
    environment.update(given)
    with pytest.raises(ConfigError, match=said):
        part_from_environment()


def test_processes_of_one_machine_share_its_cores(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda: 8)
    assert num_processes("cpu") == 8
    environment.update(srun(5, 8, local=1, nodes="4(x1),4"))
    assert local_place() == Part(1, 4)
    assert num_processes("cpu") == 8  # of those it is bound to
    environment.update(torchrun(2, 4, 2, 4))
    assert local_place() == Part(2, 4)
    assert num_processes("cpu") == 2


def freed(code: str, **environment: str) -> float:
    """Share of 128 MB that a new process gives back when it frees them, after running some code."""
    script = f"""
import os
from pathlib import Path
from fourm.machine import keep_freed_memory
import torch
{code}
def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
block = torch.zeros(2**25)
full = megabytes()
del block
print((full - megabytes()) / 128)
"""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    said = subprocess.run(
        [sys.executable, "-c", script], env=kept | environment, capture_output=True, text=True, check=True
    )
    return float(said.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator of another kind")
def test_freed_memory_is_kept_where_a_training_asks_for_it() -> None:
    assert freed("") > 0.9
    assert freed("keep_freed_memory()") < 0.1
    assert freed("from fourm.train.distributed import start; start('cpu')") < 0.1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator of another kind")
def test_the_allocator_obeys_the_environment_first() -> None:
    assert freed("keep_freed_memory()", MALLOC_MMAP_THRESHOLD_="65536") > 0.9
