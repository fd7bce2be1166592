import math

import pytest

from fourm.train.configs import OptimizerConfig, ScheduleConfig, TrainConfig
from fourm.train.schedule import Schedule, schedule_of


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    schedule = Schedule("cosine", peak=2.0, min_lr=0.0, total=100, warmup=4)
    assert [schedule.lr(step) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]


def test_cosine_follows_its_formula_to_min_lr() -> None:
    schedule = Schedule("cosine", peak=1.0, min_lr=0.1, total=110, warmup=10)
    for step in (10, 35, 60, 85, 109):
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * (step - 10) / 100)) / 2
        assert schedule.lr(step) == pytest.approx(expected)
    assert schedule.lr(110) == pytest.approx(0.1)
    assert schedule.lr(500) == pytest.approx(0.1)


def test_inverse_square_root_follows_its_formula() -> None:
    schedule = Schedule("inverse_sqrt", peak=1.0, min_lr=0.0, total=10_000, warmup=100, timescale=100)
    assert schedule.lr(100) == 1.0
    assert schedule.lr(400) == pytest.approx(0.5)  # sqrt(100 / (100 + 300))
    assert schedule.lr(1600) == pytest.approx(0.25)


def test_cool_down_is_linear_from_where_the_shape_stands_to_min_lr() -> None:
    schedule = Schedule("constant", peak=1.0, min_lr=0.2, total=100, cooldown=10)
    assert schedule.lr(89) == 1.0
    assert schedule.lr(90) == 1.0
    assert schedule.lr(95) == pytest.approx(0.6)
    assert schedule.lr(100) == pytest.approx(0.2)
    root = Schedule("inverse_sqrt", peak=1.0, min_lr=0.0, total=400, cooldown=100, timescale=100)
    assert root.lr(300) == pytest.approx(0.5)
    assert root.lr(350) == pytest.approx(0.25)


def test_tokens_and_steps_give_the_same_curve() -> None:
    def schedule(**length: int) -> Schedule:
        shape = ScheduleConfig(warmup_fraction=0.1)
        return schedule_of(TrainConfig(**length, optimizer=OptimizerConfig(lr=1.0), schedule=shape))

    steps, tokens = schedule(max_steps=50), schedule(max_tokens=50 * 256)
    for step in range(50):
        assert tokens.lr(step * 256, 256) == pytest.approx(steps.lr(step))


def test_the_timescale_defaults_to_the_warm_up() -> None:
    shape = ScheduleConfig(kind="inverse_sqrt", warmup_steps=25)
    assert schedule_of(TrainConfig(max_steps=100, schedule=shape)).timescale == 25
