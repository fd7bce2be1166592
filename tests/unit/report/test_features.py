"""Feature maps and vectors as pictures."""

from __future__ import annotations

import numpy as np

from fourm.report.features import features
from tests.unit.report.pixels import pixel


def test_features_are_reduced_to_three_colours_reproducibly(rng: np.random.Generator) -> None:
    value = rng.normal(size=(12, 6, 5))
    picture = features(value)
    assert picture.size == (5, 6)
    assert np.asarray(picture).min() == 0
    assert np.asarray(picture).max() == 255
    np.testing.assert_array_equal(np.asarray(picture), np.asarray(features(value.copy())))


def test_a_single_vector_is_a_square_of_greys_from_its_smallest_to_its_largest() -> None:
    picture = features(np.array([0.0, 2.0, 1.0, -2.0, 0.0]).reshape(5, 1, 1))
    assert picture.size == (3, 3)
    assert [pixel(picture, x)[0] for x in range(3)] == [128, 255, 191]
    assert pixel(picture, 0, 1) == pixel(picture, 2, 2) == (0, 0, 0)


def test_features_in_the_colours_of_others_can_be_compared(rng: np.random.Generator) -> None:
    value = rng.normal(size=(12, 6, 5))
    other = value + 0.01 * rng.normal(size=value.shape)
    alone, like = (np.asarray(features(value, like=v), dtype=int) for v in (None, value))
    np.testing.assert_array_equal(alone, like)
    near = np.asarray(features(other, like=value), dtype=int)
    assert np.abs(near - alone).max() < 12
    # Its own components may point elsewhere; another scale alone already gives other colours.
    assert np.abs(np.asarray(features(0.5 * value, like=value), dtype=int) - alone).max() > 40


def test_a_vector_in_the_greys_of_another_can_be_compared() -> None:
    like = np.array([0.0, 2.0, 0, 0, 0])[:, None, None]
    assert pixel(features(np.ones((5, 1, 1)), like=like)) == (128, 128, 128)


def test_several_pictures_of_one_basis_agree_where_their_features_do(rng: np.random.Generator) -> None:
    maps = rng.normal(size=(3, 12, 6, 5)) * np.array([1, 2, 4])[:, None, None, None]
    maps[1, :, 0, 0] = maps[2, :, 3, 3] = maps[0, :, 1, 1]
    shown = [np.asarray(features(m, like=maps)) for m in maps]
    assert shown[0][1, 1].tolist() == shown[1][0, 0].tolist() == shown[2][3, 3].tolist()
    assert np.ptp([picture.max() for picture in shown]) > 20  # one range for all: the smallest is not stretched
    alone = [np.asarray(features(m)) for m in maps]
    assert alone[0][1, 1].tolist() != alone[1][0, 0].tolist()


def test_a_basis_may_come_from_features_of_other_sizes(rng: np.random.Generator) -> None:
    small, large = rng.normal(size=(8, 2, 2)), rng.normal(size=(8, 40, 40))
    assert features(small, like=[small, large]).size == (2, 2)


def test_mirrored_features_give_a_mirrored_picture(rng: np.random.Generator) -> None:
    value = rng.normal(size=(12, 6, 5))
    one, other = (np.asarray(features(v), dtype=int) for v in (value, value[:, :, ::-1]))
    assert np.abs(one - other[:, ::-1]).max() <= 1


def test_features_of_few_channels_places_or_no_finite_numbers_are_drawn() -> None:
    assert features(np.arange(8.0).reshape(2, 2, 2)).size == (2, 2)
    assert features(np.full((5, 3, 3), np.nan)).size == (3, 3)
    assert features(np.array([np.nan, 1.0, np.inf]).reshape(3, 1, 1)).size == (2, 2)
