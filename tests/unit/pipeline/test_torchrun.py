"""Several ranks of one command."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def run(code: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "fourm.pipeline.torchrun", "--standalone", "--nproc-per-node=2", "--no-python"]
    return subprocess.run([*launcher, sys.executable, "-c", code], capture_output=True, text=True)


def test_every_rank_knows_its_place() -> None:
    # In one write, so that the ranks do not mix their lines.
    ended = run('import os; os.write(1, f\'rank {os.environ["RANK"]} of {os.environ["WORLD_SIZE"]}\\n\'.encode())')

    assert ended.returncode == 0
    assert sorted(ended.stdout.splitlines()) == ["rank 0 of 2", "rank 1 of 2"]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_failure_of_a_rank_ends_the_others_and_is_told_once(rank: int) -> None:
    ended = run(
        "import os, sys, time\n"
        f"if os.environ['RANK'] == '{rank}': sys.exit(print('the reason', file=sys.stderr) or 3)\n"
        "time.sleep(60)"
    )

    assert ended.returncode == 3
    assert ended.stderr.strip() == "the reason"


def test_what_is_wrong_for_all_ranks_is_told_once() -> None:
    ended = run("from fourm.cli import main; main(['pretrain', 'rooms', 'train.max_stps=3'])")

    assert ended.returncode == 1
    assert ended.stderr.count("ConfigError") == 1
    assert "Traceback" not in ended.stderr
