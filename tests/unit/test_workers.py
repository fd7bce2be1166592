"""Tasks done in several processes. Those of rooms show that kills are survived."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fourm.errors import CheckpointError, FourmError, MissingExtraError
from fourm.workers import error_of, run_tasks


class Writing:
    """Writes each task into a file of its own, in as many steps as the task says."""

    def __init__(self, folder: Path, number: int) -> None:
        self.folder, self.number = folder, number

    def __call__(self, task: tuple[str, int], on_step: Callable[[], None]) -> None:
        name, steps = task
        if name == "broken":
            raise CheckpointError("the weights are damaged")
        if name == "bare":
            raise MissingExtraError("ray", "ray", "the engine")
        for _ in range(steps):
            on_step()
        (self.folder / name).write_text(str(self.number))


TASKS = [("a", 3), ("b", 1), ("c", 0), ("d", 2)]


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_all_tasks_are_done_and_their_steps_counted(tmp_path: Path, workers: int) -> None:
    counts: list[int] = []

    run_tasks(partial(Writing, tmp_path), TASKS, workers, counts.append)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d"]
    assert {path.read_text() for path in tmp_path.iterdir()} <= {str(n) for n in range(workers)}
    assert sum(counts) == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("broken", CheckpointError, "the weights are damaged"),
        ("bare", MissingExtraError, r"pip install 'fourm\[ray\]'"),
    ],
)
def test_an_error_keeps_its_class_and_words_between_processes(
    tmp_path: Path, name: str, kind: type[FourmError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        run_tasks(partial(Writing, tmp_path), [(name, 1), ("b", 1)], 2, lambda number: None)


def test_errors_are_made_again_from_their_names_and_words() -> None:
    for error in (MissingExtraError("ray", "ray", "the engine"), CheckpointError("x")):
        again = error_of(type(error).__name__, str(error))
        assert (type(again), str(again)) == (type(error), str(error))
    assert type(error_of("Unheard", "x")) is FourmError
