"""AIM on photographs of Fashion-MNIST: what the prefix of its training is for, and attention in its probe.

What of the claims of El-Nouby et al. 2024 (sec. 3.3, 4 and 5.3) is beyond noise at this size. That probes gain by the
prefix is so only over several seeds, and where photographs come often: see docs/aim.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def measured(checkout: Path) -> dict[str, dict[str, float]]:
    """Prefixes in training -> what is measured; the same weights, photographs and order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "benchmarks"))
        import aim_prefix  # type: ignore[import-not-found]
    setting: Any = aim_prefix.FashionSetting(steps=1000)
    if not setting.source.is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    data = setting.photographs(setting.source, setting.source)
    return {
        prefix: aim_prefix.measure(setting, data, aim_prefix.pretrained(setting, data, prefix, 0))
        for prefix in ("uniform", "none")
    }


def test_behind_patches_that_see_one_another_a_model_trained_so_predicts_better(measured: Any) -> None:
    assert measured["uniform"]["loss"] < measured["none"]["loss"], measured


def test_patches_that_see_one_another_confuse_only_a_model_that_was_trained_causally(measured: Any) -> None:
    rise = {prefix: found["loss"] / found["loss, read causally"] - 1 for prefix, found in measured.items()}
    assert rise["none"] > 0.01, measured
    assert abs(rise["uniform"]) < 0.25 * rise["none"], measured


@pytest.mark.parametrize("prefix", ["uniform", "none"])
def test_the_attentive_probe_reads_more_than_the_linear_one(measured: Any, prefix: str) -> None:
    assert measured[prefix]["attentive"] >= measured[prefix]["linear"], measured


def test_where_photographs_come_often_a_model_trained_with_prefixes_is_probed_better(checkout: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(checkout / "benchmarks"))
        import aim_prefix
        from aim_probes import features, linear  # type: ignore[import-not-found]
    setting: Any = aim_prefix.STUDIES["repeated"].setting
    if not setting.source.is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    data = setting.photographs(setting.source, setting.source)
    reached: dict[str, list[float]] = {"uniform": [], "none": []}
    for seed in range(3):
        for prefix, shares in reached.items():
            model = aim_prefix.pretrained(setting, data, prefix, seed)
            shares.append(linear(features(model, data, setting.probed, causal=False), data))
    assert sum(reached["uniform"]) > sum(reached["none"]), reached
