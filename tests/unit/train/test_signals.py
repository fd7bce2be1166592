import os
import signal
from pathlib import Path

import pytest

from fourm.errors import DataError
from fourm.train.signals import Interrupted, StopRequest
from tests.unit.train.toy import toy_config, toy_trainer


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_exit_status_names_the_signal(number: int, status: int) -> None:
    assert Interrupted(number).code == status


def test_a_signal_is_noted_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        assert stop.number == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.number == signal.SIGTERM
        # A second one would end the process at once.
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_loader_processes_that_the_signal_ends_within_an_evaluation_are_no_error(tmp_path: Path) -> None:
    def evaluate() -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise DataError("a loader process died")

    with pytest.raises(Interrupted) as ended:
        toy_trainer(tmp_path, toy_config(max_steps=4, eval_every_steps=2), evaluate=evaluate).fit()
    assert ended.value.code == 143
