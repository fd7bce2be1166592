from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fourm.data.configs import DatasetConfig, MixtureConfig
from fourm.data.mixture import Draw, Mixture, MixtureOrder, build_mixture
from fourm.errors import CheckpointError, DataError
from fourm.modality import ModalitySet


@pytest.fixture
def modalities(data: type) -> ModalitySet:
    return data.modalities.subset(["rgb", "caption"])


@pytest.fixture
def mixture(tmp_path: Path, data: type, modalities: ModalitySet) -> Mixture:
    for name, sizes in (("a", [3, 2]), ("b", [4])):
        data.write_shards(tmp_path / name, sizes, ["rgb", "caption"])
    datasets = {
        "a": DatasetConfig(str(tmp_path / "a"), weight=3.0),
        "b": DatasetConfig(str(tmp_path / "b"), weight=1.0, modalities=("caption",)),
        "off": DatasetConfig("nowhere", weight=0.0),
    }
    return build_mixture(MixtureConfig(datasets), modalities)


def test_data_sets_of_weight_zero_are_not_even_opened(mixture: Mixture) -> None:
    assert list(mixture.datasets) == ["a", "b"]
    assert len(mixture) == 9


def test_draws_follow_the_weights(mixture: Mixture) -> None:
    order = MixtureOrder(mixture, 0, 8)
    counts = Counter(order.next().dataset for _ in range(2000))
    assert abs(counts["a"] / 2000 - 0.75) < 0.04


def test_a_small_data_set_goes_on_with_its_next_epoch(mixture: Mixture) -> None:
    order = MixtureOrder(mixture, 0, 8)
    drawn: list[Draw] = [order.next() for _ in range(60)]
    of_b = [draw for draw in drawn if draw.dataset == "b"][:8]
    assert [draw.epoch for draw in of_b] == [0] * 4 + [1] * 4
    assert sorted(draw.n for draw in of_b[:4]) == sorted(draw.n for draw in of_b[4:]) == [0, 1, 2, 3]


def test_a_cursor_is_plain_json(mixture: Mixture) -> None:
    order = MixtureOrder(mixture, 0, 8)
    for _ in range(10):
        order.next()
    assert json.loads(json.dumps(order.cursor)) == order.cursor
    assert order.cursor["draws"] == sum(order.cursor["datasets"].values()) == 10


def test_another_seed_gives_another_order(mixture: Mixture) -> None:
    orders = [MixtureOrder(mixture, seed, 8) for seed in (0, 1)]
    assert [orders[0].next() for _ in range(20)] != [orders[1].next() for _ in range(20)]


@pytest.mark.parametrize("cursor", [{}, {"draws": 1}, {"draws": "x", "datasets": {}}, {"draws": 0, "datasets": 3}])
def test_what_is_no_cursor_is_an_error(mixture: Mixture, cursor: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="expected draws and datasets"):
        MixtureOrder(mixture, 0, 8, start=cursor)


def test_changed_data_sets_are_reported_and_new_ones_begin(mixture: Mixture, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        order = MixtureOrder(mixture, 0, 8, start={"draws": 7, "datasets": {"a": 4, "gone": 3}})
    assert "data sets changed" in caplog.text
    assert order.cursor == {"draws": 7, "datasets": {"a": 4, "b": 0}}


def test_a_mixture_of_nothing_is_an_error(modalities: ModalitySet) -> None:
    with pytest.raises(DataError, match="no data sets"):
        build_mixture(MixtureConfig(), modalities)
