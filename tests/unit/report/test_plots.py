"""Charts as SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from fourm.report import plots

SERIES = {
    "depth": (list(range(40)), [1 / (x + 1) for x in range(40)]),
    "caption": ([0, 10, 20], [3.0, float("nan"), 1.0]),
}


def test_the_same_numbers_give_the_same_bytes() -> None:
    assert plots.curves(SERIES, smooth=5) == plots.curves(SERIES, smooth=5)
    assert plots.bars(["a"], {"x": [1.0]}) == plots.bars(["a"], {"x": [1.0]})


def test_curves_hold_title_labels_and_names_as_text() -> None:
    svg = plots.curves(SERIES, title="Pretraining", x_label="tokens", y_label="nats", reference={"chance": 0.5})
    texts = {element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")}
    assert {"Pretraining", "tokens", "nats", "depth", "caption", "chance"} <= texts


def test_charts_take_the_text_colour_of_the_page_and_hold_no_date() -> None:
    svg = plots.curves(SERIES)
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "metadata" not in svg


def test_a_logarithmic_axis_shows_plain_numbers() -> None:
    svg = plots.curves({"loss": ([0, 1], [1.0, 100.0])}, log_y=True)
    texts = {element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")}
    assert {"1", "10", "100"} <= texts


def test_bars_show_their_values_and_leave_gaps() -> None:
    svg = plots.bars(["depth", "normals"], {"model": [0.123, float("nan")], "baseline": [0.5, 24.0]})
    texts = {element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")}
    assert {"0.123", "0.5", "24", "depth", "normals", "model", "baseline"} <= texts
    assert "nan" not in texts


def test_bars_need_one_value_per_group() -> None:
    with pytest.raises(ValueError, match="'model' has 1 values for 2 groups"):
        plots.bars(["a", "b"], {"model": [1.0]})


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    import matplotlib

    before = matplotlib.rcParams["axes.grid"], matplotlib.rcParams["svg.hashsalt"]
    plots.curves(SERIES)
    assert (matplotlib.rcParams["axes.grid"], matplotlib.rcParams["svg.hashsalt"]) == before


def test_the_running_mean_skips_what_is_not_finite() -> None:
    values = np.array([1.0, 3.0, np.nan, 5.0, 7.0])
    np.testing.assert_allclose(plots.running_mean(values, 2), [1, 2, 3, 5, 6])
