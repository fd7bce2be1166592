"""Errors: one family, and hints that help."""

from __future__ import annotations

import pytest

from fourm import errors


@pytest.mark.parametrize(
    "kind",
    [errors.ConfigError, errors.DataError, errors.CheckpointError, errors.TrainingError, errors.MissingExtraError],
)
def test_every_error_of_a_user_belongs_to_one_family(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.FourmError)


def test_wrong_values_are_also_value_errors() -> None:
    assert issubclass(errors.ConfigError, ValueError)
    assert issubclass(errors.DataError, ValueError)


def test_a_missing_extra_says_what_to_install() -> None:
    error = errors.MissingExtraError("gradio", "serve", "the web page")
    assert isinstance(error, ImportError)
    assert str(error) == (
        "the web page needs the package 'gradio', which is not installed. Install it with: pip install 'fourm[serve]'"
    )


def test_the_closest_name_is_suggested() -> None:
    assert errors.did_you_mean("maskd", ["masked", "reconstruct"]) == (
        " Known: masked, reconstruct. Did you mean 'masked'?"
    )


def test_nothing_is_suggested_for_a_name_unlike_all_others() -> None:
    assert errors.did_you_mean("zzz", ["masked"]) == " Known: masked."


def test_no_hint_where_nothing_is_known() -> None:
    assert errors.did_you_mean("x", []) == ""


def test_long_lists_are_shortened_but_still_searched() -> None:
    hint = errors.did_you_mean("name_99x", [f"name_{i:02d}" for i in range(100)])
    assert hint.count("name_") == 31
    assert "..." in hint
    assert "Did you mean 'name_99'?" in hint
