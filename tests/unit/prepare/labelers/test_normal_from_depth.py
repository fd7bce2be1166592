"""Surface normals that follow from depth and the camera."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fourm.data.decode import decode
from fourm.data.encode import png
from fourm.errors import ConfigError
from fourm.modality import Modality
from fourm.prepare.labelers.base import Origin, Photo
from fourm.prepare.labelers.configs import like
from fourm.prepare.labelers.file_configs import FileConfig
from fourm.prepare.labelers.network_configs import DepthConfig, NormalFromDepthConfig
from fourm.prepare.labelers.normal_from_depth import NormalFromDepth, is_relative, normals

HEIGHT, WIDTH, FOV = 48, 64, 60.0
FOCAL = WIDTH / 2 / math.tan(math.radians(FOV) / 2)
FAR = 20.0


def rays(height: int = HEIGHT, width: int = WIDTH, focal: float = FOCAL) -> np.ndarray:
    """(H, W, 3) directions with z-depth 1: x right, y up, z towards the viewer."""
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = -(np.arange(height) + 0.5 - height / 2) / focal
    return np.stack([*np.meshgrid(x, y), -np.ones((height, width))], -1)


def plane(normal: tuple[float, float, float], distance: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """The depth of a plane in front of the camera, and its normal on the camera's side."""
    unit = np.array(normal) / np.linalg.norm(normal)
    return -distance / (rays() @ unit), unit


def photo(depth16: np.ndarray, modality: Modality, origin: tuple[int, int] = (WIDTH, HEIGHT)) -> Photo:
    image = np.zeros((*depth16.shape, 3), np.uint8)
    return Photo("a", image, Origin("a.jpg", *origin), {"depth": png(depth16)}, {"depth": modality})


def metric(depth: np.ndarray, **facts: object) -> Photo:
    modality = DepthConfig(scale="metric", value_range=(0.25, FAR)).modality("depth")
    return photo(np.rint(depth / FAR * 65535).astype(np.uint16), modality, **facts)  # type: ignore[arg-type]


def label(given: Photo, **facts: object) -> np.ndarray:
    config = NormalFromDepthConfig(**facts)  # type: ignore[arg-type]
    (data,) = NormalFromDepth(config, "cpu").label([given])
    return decode(data, config.modality("normal"), lambda: "normal") / 127.5 - 1


def degrees(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    found = found / np.linalg.norm(found, axis=-1, keepdims=True)
    return np.degrees(np.arccos(np.clip((found * expected).sum(-1), -1, 1)))


@pytest.mark.parametrize("normal", [(0, 0, 1), (0.3, 0, 1), (-0.4, 0.5, 1), (0.1, 1, 0.8)])
def test_the_normals_of_a_plane_are_exact(normal: tuple[float, float, float]) -> None:
    depth, expected = plane(normal)

    np.testing.assert_allclose(normals(1 / depth, FOCAL), np.broadcast_to(expected, (HEIGHT, WIDTH, 3)), atol=1e-9)


def test_the_normals_of_a_sphere_point_away_from_its_centre() -> None:
    directions, centre, radius = rays(), np.array([0.2, -0.1, -4.0]), 1.5
    a, b = (directions**2).sum(-1), directions @ centre
    root = b**2 - a * (centre @ centre - radius**2)
    on = root > 0.2  # away from the outline
    depth = (b - np.sqrt(np.maximum(root, 0))) / a
    expected = (directions * depth[..., None] - centre) / radius

    found = normals(1 / np.where(on, depth, 10), FOCAL)

    inside = on & np.roll(on, 1, 0) & np.roll(on, -1, 0) & np.roll(on, 1, 1) & np.roll(on, -1, 1)
    assert inside.sum() > 200
    assert degrees(found, expected)[inside].max() < 1.5


def test_a_floor_points_up_and_a_wall_on_the_right_points_left() -> None:
    floor, wall = normals(1 / plane((0, 1, 0.6))[0], FOCAL), normals(1 / plane((-1, 0, 0.8))[0], FOCAL)

    assert (floor[..., 1] > 0.8).all()
    assert (wall[..., 0] < -0.75).all()


def test_files_of_metres_give_the_normals_to_within_the_steps_of_eight_bits() -> None:
    depth, expected = plane((0.3, 0.4, 1))

    assert degrees(label(metric(depth), field_of_view=FOV), expected).max() < 1.5


def test_relative_depth_gives_the_normals_where_its_range_is_known() -> None:
    depth, expected = plane((0.3, 0.4, 1))
    inverse = 1 / depth
    turned = (inverse.max() - inverse) / (inverse.max() - inverse.min())
    given = photo(np.rint(turned * 65535).astype(np.uint16), DepthConfig().modality("depth"))

    found = label(given, field_of_view=FOV, farthest=float(inverse.max() / inverse.min()))

    assert degrees(found, expected).max() < 1.0


def test_metres_that_training_standardises_are_metres_still() -> None:
    """A user's depth inherits the catalog's normalization, which says nothing of its unit."""
    depth, expected = plane((0, 0.78, 0.62))
    modality = FileConfig("{stem}.png", {"base": "depth@224", "value_range": [0, 16]}).modality("depth")

    found = label(photo(np.rint(depth / 16 * 65535).astype(np.uint16), modality), field_of_view=FOV)

    assert modality.normalization == "standardize"
    assert degrees(found, expected).max() < 1.5


@pytest.mark.parametrize(
    ("facts", "relative"),
    [({}, True), ({"value_range": [0, 1]}, True), ({"value_range": [0, 16]}, False), ({"normalization": "log"}, False)],
)
def test_depth_is_relative_where_it_has_no_unit(facts: dict[str, object], relative: bool) -> None:
    assert is_relative(like("depth@224", "depth", **facts)) == relative


def test_the_focal_length_is_that_of_the_original_photograph() -> None:
    depth, expected = plane((0.3, 0.4, 1))

    found = label(metric(depth, origin=(10 * WIDTH, 10 * HEIGHT)), focal_length=10 * FOCAL)

    assert degrees(found, expected).max() < 1.5


def test_surfaces_that_hide_each_other_keep_their_normals_up_to_the_edge() -> None:
    near, first = plane((0.3, 0, 1), 2.0)
    far, second = plane((-0.3, 0, 1), 8.0)
    left = np.arange(WIDTH) < WIDTH // 2
    found = normals(1 / np.where(left, near, far), FOCAL)

    assert degrees(found, np.where(left[:, None], first, second)).max() < 0.1


def test_unknown_depth_points_to_the_viewer() -> None:
    depth, _ = plane((0.3, 0, 1))
    depth[10, 10] = 0

    np.testing.assert_allclose(label(metric(depth), field_of_view=FOV)[10, 10], (0, 0, 1), atol=0.005)


def test_the_exact_depth_of_a_room_gives_its_exact_normals_but_at_the_corners(rng: np.random.Generator) -> None:
    pytest.importorskip("trimesh")
    from fourm.prepare.rooms.camera import look_at
    from fourm.prepare.rooms.rays import tracer
    from fourm.prepare.rooms.room import Room, build_shell
    from fourm.prepare.rooms.shapes import build
    from fourm.prepare.rooms.view import trace_labels

    room = Room(4.0, 2.6, 6.0, (0.5, 0.7, 0.9), 0)
    build_shell(rng, room)
    mesh, size = build(room.placed), 64
    camera = look_at(np.array([1.0, 1.6, 5.5]), np.array([3.0, 1.0, 0.5]), 0.1, math.radians(70))
    depth, expected, _ = trace_labels(mesh, tracer(mesh), camera, size)

    wrong = degrees(normals(1 / depth, size / 2 / camera.slope), expected)

    assert (expected.reshape(-1, 3).std(0) > 0.2).all()  # floor, ceiling and walls are in view
    assert np.quantile(wrong, 0.85) < 1e-4


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"field_of_view": 180}, "field_of_view"), ({"focal_length": 0}, "focal_length"), ({"farthest": 1}, "farthest")],
)
def test_cameras_that_cannot_be_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NormalFromDepthConfig(**wrong)  # type: ignore[arg-type]
