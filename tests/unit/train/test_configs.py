import subprocess
import sys

import pytest

from fourm.config import build
from fourm.errors import ConfigError
from fourm.train.configs import OptimizerConfig, ScheduleConfig, TrainConfig


def test_importing_the_configs_does_not_import_torch() -> None:
    code = "import sys, fourm.train.configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_base_lr_scales_with_the_global_batch() -> None:
    config = TrainConfig(max_steps=1, batch_size=8192, optimizer=OptimizerConfig(base_lr=1e-4))
    assert config.peak_lr == pytest.approx(1e-4 * 8192 / 256)
    assert TrainConfig(max_steps=1, batch_size=64, optimizer=OptimizerConfig(lr=0.5)).peak_lr == 0.5


def test_the_micro_batch_is_the_share_of_one_rank_and_one_accumulation_step() -> None:
    assert TrainConfig(max_steps=1, batch_size=64, accumulation=2).micro_batch_size(world_size=4) == 8


def test_a_batch_that_does_not_divide_is_an_error_with_the_nearest_that_does() -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 10, .*4 ranks x 1 accumulation.* 8"):
        TrainConfig(max_steps=1, batch_size=10).check(world_size=4)


@pytest.mark.parametrize("lengths", [{}, {"max_steps": 1, "max_tokens": 1}])
def test_the_length_is_given_exactly_once(lengths: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"max_steps, train\.max_tokens"):
        TrainConfig(**lengths).check()


def test_a_warm_up_in_the_other_unit_names_the_key_to_use() -> None:
    config = TrainConfig(max_tokens=1000, schedule=ScheduleConfig(warmup_steps=10))
    with pytest.raises(ConfigError, match=r"warmup_steps is in steps.*give warmup_tokens or warmup_fraction"):
        config.check()


def test_fractions_follow_the_length() -> None:
    config = TrainConfig(max_steps=200, schedule=ScheduleConfig(warmup_fraction=0.1, cooldown_fraction=0.25))
    assert (config.amount("warmup"), config.amount("cooldown"), config.amount("timescale")) == (20, 50, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_steps": 0}, "max_steps is 0"),
        ({"max_steps": 5, "accumulation": 0}, "accumulation is 0"),
        ({"max_steps": 5, "ema_decay": 1.0}, "ema_decay is 1"),
        ({"max_steps": 5, "precision": "fp8"}, "precision is 'fp8'"),
        ({"max_steps": 5, "optimizer": {"lr": 1.0, "base_lr": 1.0}}, "both given"),
        ({"max_steps": 5, "optimizer": {"betas": [0.9, 1.0]}}, "betas"),
        ({"max_steps": 5, "schedule": {"warmup_steps": 1, "warmup_fraction": 0.1}}, "keep one"),
        ({"max_steps": 5, "schedule": {"warmup_fraction": 1.5}}, "warmup_fraction is 1.5"),
        ({"max_step": 5}, "Did you mean 'max_steps'"),
    ],
)
def test_wrong_values_are_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(TrainConfig, values, "recipe.yaml", "train")


def test_warm_up_and_cool_down_fit_into_the_run() -> None:
    with pytest.raises(ConfigError, match="exceed the run"):
        TrainConfig(max_steps=10, schedule=ScheduleConfig(warmup_steps=8, cooldown_steps=8)).check()


def test_min_lr_lies_below_the_peak() -> None:
    with pytest.raises(ConfigError, match="min_lr"):
        TrainConfig(max_steps=10, optimizer=OptimizerConfig(lr=1e-4), schedule=ScheduleConfig(min_lr=1.0)).check()
