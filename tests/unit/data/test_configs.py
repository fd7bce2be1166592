from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from fourm.config import build, to_dict
from fourm.data.configs import CropConfig, DataConfig, DatasetConfig
from fourm.errors import ConfigError

RECIPE = {
    "train": {"datasets": {"rooms": {"path": "data/train", "crop": {"kind": "crop_settings"}, "modalities": ["rgb"]}}},
    "val": {"datasets": {"rooms": {"path": "data/val"}}},
    "num_workers": 2,
}


def test_a_recipe_builds_with_its_defaults() -> None:
    config = build(DataConfig, RECIPE)
    assert config.train.datasets["rooms"] == DatasetConfig(
        "data/train", modalities=("rgb",), crop=CropConfig("crop_settings")
    )
    assert config.val.datasets["rooms"].weight == 1.0
    assert config.num_workers == 2


def test_a_config_survives_a_round_trip_through_plain_values() -> None:
    config = build(DataConfig, RECIPE)
    assert build(DataConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({}, "path is missing"),
        ({"path": "x", "wieght": 1}, "Did you mean 'weight'"),
        ({"path": "x", "weight": -1}, "weight is -1"),
        ({"path": "x", "hflip": 1.5}, "hflip is 1.5"),
        ({"path": "x", "jitter": 1.0}, "jitter is 1.0"),
        ({"path": "x", "format": "tar"}, "format is 'tar'"),
        ({"path": "x", "max_samples": 0}, "max_samples is 0"),
        ({"path": "x", "crop": {"kind": "centre"}}, "Did you mean 'center'"),
        ({"path": "x", "crop": {"scale": [0, 1]}}, "crop.scale"),
        ({"path": "x", "crop": {"ratio": [2, 1]}}, "crop.ratio"),
        ({"path": "x", "crop": {"kind": "crop_settings"}, "hflip": 0.5}, "hflip: 0"),
        ({"path": "x", "weight": 0}, "all weights are 0"),
    ],
)
def test_wrong_values_are_named(dataset: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(DataConfig, {"train": {"datasets": {"rooms": dataset}}})


@pytest.mark.parametrize(("key", "value"), [("num_workers", -1), ("shuffle_window", 0)])
def test_numbers_out_of_range_are_named(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{key} is {value}"):
        build(DataConfig, {**RECIPE, key: value})


def test_configs_do_not_import_torch() -> None:
    code = "import sys, fourm.data.configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
