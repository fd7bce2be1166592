"""Where light comes from, and how much of it arrives."""

from __future__ import annotations

import numpy as np
import pytest

from fourm.prepare.rooms.decor import window
from fourm.prepare.rooms.light import Light, direct, dot, openness, place_light
from fourm.prepare.rooms.room import Room


class Sky:
    """A tracer for which either nothing or everything is in the way."""

    def __init__(self, blocked: bool) -> None:
        self.everything = blocked

    def blocked(self, origins: np.ndarray, directions: np.ndarray, reach: np.ndarray) -> np.ndarray:
        assert origins.shape == directions.shape == (len(reach), 3)
        return np.full(len(reach), self.everything)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def lamp(normal: np.ndarray | None = None) -> Light:
    """A square of one decimetre, two metres above the origin."""
    return Light(f32(-0.05, 2, -0.05), f32(0.1, 0, 0), f32(0, 0, 0.1), normal, f32(1, 1, 1), f32(0, 0, 0))


def points(count: int = 8) -> np.ndarray:
    return np.zeros((3, count), np.float32)


def towards(*normal: float, count: int = 8) -> np.ndarray:
    return np.repeat(f32(*normal)[:, None], count, axis=1)


def test_products_are_those_of_columns(rng: np.random.Generator) -> None:
    a, b = rng.random((2, 3, 5)).astype(np.float32)
    np.testing.assert_allclose(dot(a, b), (a * b).sum(0), rtol=1e-6)
    np.testing.assert_allclose(dot(a, b[:, 0]), b[:, 0] @ a, rtol=1e-6)


def test_strength_falls_with_the_square_of_the_distance_softened_near_the_lamp(rng: np.random.Generator) -> None:
    strength = direct(rng, Sky(False), lamp(), points(), towards(0, 1, 0))
    np.testing.assert_allclose(strength, 1 / (4 + 0.7), rtol=0.01)


@pytest.mark.parametrize(
    ("normal", "light", "blocked"),
    [((0, -1, 0), lamp(), False), ((0, 1, 0), lamp(f32(0, 1, 0)), False), ((0, 1, 0), lamp(), True)],
    ids=["surface turned away", "light turned away", "something in the way"],
)
def test_no_light_arrives(normal: tuple[int, ...], light: Light, blocked: bool, rng: np.random.Generator) -> None:
    assert not direct(rng, Sky(blocked), light, points(), towards(*normal)).any()


@pytest.mark.parametrize("normal", [(0, 1, 0), (0, 0, -1), (0.6, 0, -0.8)])
def test_openness_is_all_or_nothing_under_a_free_or_closed_sky(
    normal: tuple[float, ...], rng: np.random.Generator
) -> None:
    assert (openness(rng, Sky(False), points(), towards(*normal)) == 1).all()
    assert (openness(rng, Sky(True), points(), towards(*normal)) == 0).all()


def test_without_windows_a_lamp_hangs_below_the_ceiling_and_shines_everywhere() -> None:
    room = Room(4.0, 2.5, 3.0, (0.5, 0.7, 0.9), 0)
    for seed in range(20):
        light = place_light(np.random.default_rng(seed), room)
        assert light.normal is None
        assert 2.2 <= light.corner[1] < 2.5
        assert light.edge_a[1] == light.edge_b[1] == 0


def test_daylight_comes_in_through_the_window() -> None:
    room = Room(4.0, 2.5, 3.0, (0.5, 0.7, 0.9), 0)
    assert room.put(room.at_wall(window(np.random.default_rng(0), room.sky), 0, 2.0, 0.0, 0.8))
    lights = [place_light(np.random.default_rng(seed), room) for seed in range(20)]
    daylight = [light for light in lights if light.normal is not None]
    assert 0 < len(daylight) < len(lights)
    for light in daylight:
        np.testing.assert_allclose(light.normal, (0, 0, 1), atol=1e-6)  # wall 0 is at z = 0
        assert light.corner[2] < 0.2
