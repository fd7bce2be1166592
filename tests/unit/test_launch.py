"""The launch files, with the programs they call replaced by small ones that note how they were called."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BASH = "/bin/bash"
pytestmark = pytest.mark.skipif(not Path(BASH).exists(), reason="needs bash")


def stub(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!{BASH}\n{body}\n")
    path.chmod(0o755)


def slurm(checkout: Path, tmp_path: Path, status: int | str, least: int = 0, **more: str) -> tuple[int, str, str]:
    """Exit status, what was called, and what was said, where `fourm` ends so, and another rank with `least`."""
    calls = tmp_path / "calls"
    stub(tmp_path, "scontrol", f'[ "$1" = show ] && echo node-a && exit\necho "scontrol $*" >> {calls}')
    srun = f"""while [[ $1 == --* ]]; do echo "srun $1" >> {tmp_path}/flags; shift; done
SLURM_PROCID=3 SLURM_LOCALID=1 "$@"
status=$?
exit $((status > {least} ? status : {least}))"""
    stub(tmp_path, "srun", srun)
    told = "rank=$RANK/$WORLD_SIZE local=$LOCAL_RANK/$LOCAL_WORLD_SIZE at $MASTER_ADDR"
    stub(tmp_path, "fourm", f'echo "fourm $* {told}" >> {calls}; exit {status}')
    env = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", **more,
    }  # fmt: skip
    command = [BASH, str(checkout / "cfgs/launch/slurm.sh"), "4m_b", "output=/runs/a b"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, calls.read_text(), done.stdout


def test_each_slurm_task_is_a_rank(checkout: Path, tmp_path: Path) -> None:
    status, calls, said = slurm(checkout, tmp_path, 0)
    assert calls == "fourm pretrain 4m_b output=/runs/a b rank=3/4 local=1/2 at node-a\n"
    assert (status, said) == (0, "complete\n")


@pytest.mark.parametrize("status", [143, 138, 137, 134, 75])
def test_what_may_go_well_the_next_time_goes_back_into_the_queue(checkout: Path, tmp_path: Path, status: int) -> None:
    found, calls, _ = slurm(checkout, tmp_path, status)
    assert found == status
    assert calls.endswith("scontrol requeue 7\n")


def test_an_error_of_the_user_is_not_tried_again(checkout: Path, tmp_path: Path) -> None:
    status, calls, said = slurm(checkout, tmp_path, 1)
    assert "requeue" not in calls
    assert (status, said) == (1, "status 1: not started again\n")


@pytest.mark.parametrize("others", [137, 75])
@pytest.mark.parametrize("status", [1, 2, 139])
def test_an_error_of_one_rank_is_not_hidden_by_how_the_others_end(
    checkout: Path, tmp_path: Path, status: int, others: int
) -> None:
    found, calls, _ = slurm(checkout, tmp_path, status, least=others)
    assert "requeue" not in calls
    assert found == (status if status < 50 else 50)


def test_a_job_does_not_go_back_into_the_queue_for_ever(checkout: Path, tmp_path: Path) -> None:
    again = {"SLURM_RESTART_COUNT": "3", "RESTARTS": "3"}
    status, calls, said = slurm(checkout, tmp_path, 75, **again)
    assert "requeue" not in calls
    assert (status, said) == (75, "status 75: started again 3 times already; RESTARTS allows more\n")


def test_ranks_have_the_processors_of_the_job_and_meet_at_its_first_node(checkout: Path, tmp_path: Path) -> None:
    _, calls, _ = slurm(checkout, tmp_path, 0, SLURM_CPUS_PER_TASK="8", MASTER_ADDR="node-of-another-job")
    assert (tmp_path / "flags").read_text() == "srun --kill-on-bad-exit=1\nsrun --cpus-per-task=8\n"
    assert calls.endswith("at node-a\n")


def test_a_signal_to_all_of_a_task_leaves_it_the_status_of_its_rank(checkout: Path, tmp_path: Path) -> None:
    status, calls, _ = slurm(checkout, tmp_path, "$(kill -USR1 $PPID; echo 138)")
    assert status == 138
    assert calls.endswith("scontrol requeue 7\n")


def torchrun(checkout: Path, tmp_path: Path, *statuses: int, **more: str) -> tuple[int, list[str]]:
    """Exit status and calls, where the ranks end with these statuses one time after the other."""
    stub(
        tmp_path, "python", f'echo "$*" >> {tmp_path}/calls\nexit $(sed -n "$(wc -l < {tmp_path}/calls)p" {tmp_path}/s)'
    )
    (tmp_path / "s").write_text("".join(f"{status}\n" for status in statuses))
    env = {"PATH": os.environ["PATH"], "PYTHON": str(tmp_path / "python"), "GPUS": "2", "RESTARTS": "2", **more}
    command = [BASH, str(checkout / "cfgs/launch/torchrun.sh"), "4m_b", "output=a"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, (tmp_path / "calls").read_text().splitlines()


def test_torchrun_starts_lost_ranks_again_and_stops_at_other_errors(checkout: Path, tmp_path: Path) -> None:
    status, calls = torchrun(checkout, tmp_path, 75, 137, 1)
    assert status == 1
    assert calls == ["-m fourm.pipeline.torchrun --standalone --nproc-per-node 2 -m fourm pretrain 4m_b output=a"] * 3


def test_torchrun_leaves_ranks_the_time_to_save_that_they_need(checkout: Path, tmp_path: Path) -> None:
    _, (call,) = torchrun(checkout, tmp_path, 0, SAVE_SECONDS="300")
    assert "--nproc-per-node 2 --shutdown-timeout 300 -m fourm pretrain" in call


def test_torchrun_gives_up_after_some_restarts(checkout: Path, tmp_path: Path) -> None:
    status, calls = torchrun(checkout, tmp_path, 75, 75, 75, 75)
    assert (status, len(calls)) == (75, 3)


@pytest.mark.slow
def test_a_killed_rank_shows_in_the_status(checkout: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    command = [sys.executable, "-m", "fourm.pipeline.torchrun", "--standalone", "--nproc-per-node=1", "--no-python"]
    done = subprocess.run([*command, sys.executable, "-c", code], cwd=checkout, timeout=100, check=False)
    assert done.returncode == 137
