import logging

import pytest

from fourm.train.progress import Progress, duration, short

RECORD = {"loss": 1.25, "lr": 1e-3, "tokens_per_second": 12_300.0}


def test_without_a_terminal_there_is_a_line_at_the_start_and_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("steps", 100, 0) as progress:
        for step in range(1, 101):
            progress.advance(step)
            progress.record(step, step, RECORD)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("step 1 (1%)  loss 1.2500  lr 1.00e-03  12.3k tokens/s")


def test_other_ranks_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress("steps", 1, 0, shown=False) as progress:
        progress.record(1, 1, RECORD)
    assert caplog.messages == []


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (125, "2:05"), (3723, "1:02:03"), (-1, "0:00")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("number", "text"), [(950, "950"), (12_340, "12.3k"), (4.5e6, "4.5M"), (2e9, "2.0G")])
def test_numbers(number: float, text: str) -> None:
    assert short(number) == text
