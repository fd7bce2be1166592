"""`fourm prepare photos --engine ray`: shards made by the actors of a Ray cluster, through Ray Data.

Every node has to see the folders of the recipe under the same paths, and have fourm installed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fourm.errors import FourmError, MissingExtraError
from fourm.prepare.photos.shard import ShardTask
from fourm.workers import Start, error_of


def run_on_ray(
    start: Start[ShardTask],
    tasks: Sequence[ShardTask],
    workers: int | None,
    on_step: Callable[[int], None],
    *,
    gpu: bool,
) -> None:
    """Do all tasks on the Ray cluster of the environment, or on one of this machine where there is none.

    Ray gives what a lost node was doing to another one.

    Args:
        start: makes what an actor does.
        tasks: in the order in which they are handed out.
        workers: actors; None: one for each GPU, or else core, of the cluster.
        on_step: called with the number of steps done.
        gpu: give each actor a GPU, where the cluster has any.

    Raises:
        FourmError: what an actor met. What others have finished stays.
        MissingExtraError: if Ray is not installed.
    """
    if not tasks:
        return
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("ray[data]", "ray", "--engine ray") from None
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(logging_level=logging.WARNING)
    try:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if gpu else 0
        size = workers or gpus or int(resources.get("CPU", 1))
        items = [{"shard": task.shard, "piece": json.dumps(task.piece)} for task in tasks]
        actor: Any = _Actor
        done = ray.data.from_items(items, override_num_blocks=len(items)).map(
            actor,
            fn_constructor_args=(start, os.getcwd()),
            compute=ray.data.ActorPoolStrategy(size=min(size, len(items))),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        for row in done.iter_rows():
            if row["error"]:
                raise error_of(row["error"], row["message"])
            on_step(row["steps"])
    finally:
        if is_ours:
            ray.shutdown()


class _Actor:
    """Makes shards in a process of the cluster. Errors travel as values, so that they arrive as they were raised."""

    def __init__(self, start: Start[ShardTask], folder: str) -> None:
        if Path(folder).is_dir():  # what recipes name is relative to where the command runs
            os.chdir(folder)
        self.start = start
        self.work: Any = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        steps = 0

        def on_step() -> None:
            nonlocal steps
            steps += 1

        try:
            self.work = self.work or self.start(0)
            self.work(ShardTask(row["shard"], json.loads(row["piece"])), on_step)
        except FourmError as error:
            return {"steps": steps, "error": type(error).__name__, "message": str(error)}
        return {"steps": steps, "error": "", "message": ""}
