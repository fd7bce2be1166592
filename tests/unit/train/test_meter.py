import pytest

from fourm.train.distributed import World
from fourm.train.meter import Meter
from fourm.train.state import RunState


def test_samples_and_utilisation_follow_from_tokens_per_second() -> None:
    """Two devices of 1e12 operations, 32 samples of 256 tokens a step, 1e9 operations each."""
    meter = Meter(World(size=2), batch_size=32, flops_per_sample=1e9, tflops=1.0)
    meter.start(RunState(step=10, tokens=10 * 32 * 256))

    figures = meter.figures(RunState(step=20, tokens=20 * 32 * 256), tokens_per_second=256_000.0)

    assert figures["samples_per_second"] == pytest.approx(1000)
    assert figures["mfu"] == pytest.approx(1000 * 1e9 / 2e12)
    assert 0.01 < figures["memory_gib"] < 1000


def test_only_what_came_since_the_last_record_counts() -> None:
    meter = Meter(World(), batch_size=4)
    meter.start(RunState(step=100, tokens=6400))
    meter.figures(RunState(step=101, tokens=6464), 16.0)
    assert meter.figures(RunState(step=103, tokens=6464 + 2 * 32), 16.0)["samples_per_second"] == pytest.approx(2.0)


@pytest.mark.parametrize(("flops", "tflops"), [(None, 1.0), (1e9, None)])
def test_without_operations_or_a_known_peak_there_is_no_utilisation(flops: float | None, tflops: float | None) -> None:
    assert "mfu" not in Meter(World(), 4, flops, tflops).figures(RunState(step=1, tokens=4), 4.0)
