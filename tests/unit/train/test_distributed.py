import pytest
import torch

from fourm.errors import DataError
from fourm.train.distributed import World, num_threads, session


def test_alone_everything_is_local() -> None:
    world = World()
    assert world.is_main
    assert world.sum(torch.tensor([2.0])).tolist() == [2.0]
    assert world.broadcast({"a": 1}) == {"a": 1}
    assert world.on_main(lambda: 5) == 5
    world.barrier()


def test_an_error_on_the_main_rank_is_raised() -> None:
    def fail() -> None:
        raise DataError("shard 3 is cut short")

    with pytest.raises(DataError, match="shard 3"):
        World().on_main(fail)


def test_a_session_without_torchrun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    with session("cpu", threads=1) as world:
        assert (world.rank, world.size, world.device.type) == (0, 1, "cpu")
        assert torch.get_num_threads() == 1
        assert not torch.distributed.is_initialized()
    torch.set_num_threads(before)


def test_processes_times_threads_is_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [num_threads(None, size) for size in (1, 2, 4, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert num_threads(None, 1) == 3  # the user's wish
    assert num_threads(None, 2) == 4  # torchrun's default
    assert num_threads(5, 2) == 5
