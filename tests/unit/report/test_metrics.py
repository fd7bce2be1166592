"""Reading a metrics.json."""

from __future__ import annotations

import pytest

from fourm.report import metrics

RESULTS = {
    "rgb_to_depth": {"abs_rel": 0.1, "baseline_abs_rel": 0.2, "linear_abs_rel": 0.05},
    "rgb_to_semseg": {"miou": 0.4, "baseline_miou": 0.1},
    "caption_to_image": {"accuracy": 0.82, "upper_bound": 0.86, "classifier_accuracy": 0.89},
}


def test_each_result_is_one_row_with_its_references_and_bounds() -> None:
    rows = metrics.rows(RESULTS)
    assert [row.task for row in rows] == ["RGB to depth", "RGB to segmentation", "Caption to image"]
    assert rows[0].references == {"baseline": 0.2, "linear": 0.05}
    assert rows[2].bounds == {"upper bound": 0.86, "classifier on real images": 0.89}


def test_an_error_is_better_when_it_is_lower_and_a_score_when_it_is_higher() -> None:
    depth, semseg, image = metrics.rows(RESULTS)
    assert depth.beats(0.2)
    assert not depth.beats(0.05)
    assert depth.beats_all is False
    assert semseg.beats_all is True
    assert image.beats_all is None


def test_a_share_of_the_original_is_better_the_nearer_it_is_to_1() -> None:
    psnr, detail = metrics.rows(
        {
            "rgb_reconstruction": {
                "psnr": 25.0,
                "bicubic_psnr": 20.0,
                "high_frequency_ratio": 1.2,
                "bicubic_high_frequency_ratio": 0.1,
            }
        }
    )
    assert psnr.task == "RGB reconstruction"
    assert psnr.references == {"bicubic": 20.0}
    assert detail.beats_all is True
    assert not detail.beats(0.9)


def test_every_known_metric_says_what_it_means() -> None:
    assert all(meaning.sentence.endswith(".") for meaning in metrics.MEANINGS.values())


def test_an_unknown_metric_is_listed_by_its_name() -> None:
    (row,) = metrics.rows({"rgb_to_pose": {"joint_error": 3.0}})
    assert (row.task, row.meaning.title, row.meaning.better) == ("RGB to pose", "joint error", "lower")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.1234, "", "0.123"),
        (0.876, "%", "87.6 %"),
        (11.27, "degrees", "11.3 °"),
        (2.345, "", "2.35"),
        (float("nan"), "", "–"),
    ],
)
def test_numbers_are_rounded_to_what_can_be_read(value: float, unit: str, text: str) -> None:
    assert metrics.format_value(value, unit) == text
