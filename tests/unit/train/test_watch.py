"""What hangs ends, with its reason and a status that schedulers start again."""

from __future__ import annotations

import threading
import time

import pytest

from fourm.errors import DataError
from fourm.train.distributed import World
from fourm.train.watch import RankLostError, Watch, explain

SHORT = 0.2 / 60


class Ends:
    """Takes the place of `os._exit`."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.ended = threading.Event()
        self.reasons: list[str] = []

    def __call__(self, status: int) -> None:
        self.status = status
        self.ended.set()


def test_a_read_that_stalls_ends_the_process_with_status_75_and_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    end = Ends()
    with Watch(SHORT, end.reasons.append, end) as watch, watch.over("waiting for data"):
        assert end.ended.wait(10)
    assert end.status == 75
    assert end.reasons[0].endswith("this process has been waiting for data")
    assert "train.timeout_minutes" in caplog.text


def test_what_gets_on_is_left_alone_and_so_is_what_is_not_looked_after() -> None:
    end = Ends()
    with Watch(SHORT, end.reasons.append, end) as watch:
        for _ in range(5):
            with watch.over("busy"):
                time.sleep(0.08)
        time.sleep(0.5)
    assert end.status is None


def test_without_a_limit_nobody_looks() -> None:
    end = Ends()
    before = threading.active_count()
    with Watch(None, end.reasons.append, end) as watch, watch.over("busy"):
        assert threading.active_count() == before


class Pair(World):
    """Two ranks, of which the other may have left word."""

    def __init__(self, word: dict[int, str]) -> None:
        super().__init__(rank=0, size=2)
        object.__setattr__(self, "word", word)
        object.__setattr__(self, "said", [])

    def told(self) -> dict[int, str]:
        return self.word  # type: ignore[attr-defined, no-any-return]

    def tell(self, reason: str) -> None:
        self.said.append(reason)  # type: ignore[attr-defined]


def test_a_broken_connection_is_explained_by_what_the_other_rank_said() -> None:
    world = Pair({1: "DataError: shard 3 is cut short"})
    found = explain(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), world, 7)
    assert isinstance(found, RankLostError)
    assert found.exit_status == 75
    assert "after step 7. rank 1: DataError: shard 3 is cut short" in str(found)
    assert world.said == []  # type: ignore[attr-defined]


def test_a_rank_that_left_no_word_was_probably_killed() -> None:
    found = explain(RuntimeError("Connection reset by peer"), Pair({}), 7)
    assert "left no word: it was killed, ran out of memory" in str(found)


@pytest.mark.parametrize("error", [DataError("cut short"), RuntimeError("shape [2] is invalid")])
def test_an_error_of_ones_own_stays_and_the_others_hear_of_it(error: Exception) -> None:
    world = Pair({})
    assert explain(error, world, 7) is error
    assert world.said == [f"{type(error).__name__}: {error}"]  # type: ignore[attr-defined]
