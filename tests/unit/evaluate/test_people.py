"""People are compared with those they overlap, and joints by SMPL's tree of bones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm.errors import ConfigError, DataError
from fourm.evaluate.people import _PARENTS, PoseScore, Skeleton, angles, load_skeleton, pairs, procrustes, rotations

RNG = np.random.default_rng(0)
REST = RNG.normal(size=(24, 3))
SKELETON = Skeleton(REST, RNG.normal(size=(24, 3, 10)) / 10)
LEFT, RIGHT = (0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0)


def turn(axis: int, degrees: float) -> np.ndarray:
    a, b = [n for n in range(3) if n != axis]
    matrix, angle = np.eye(3), np.radians(degrees)
    matrix[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return matrix


def person(box: tuple[float, ...] = LEFT, body: Any = None, joints: dict[int, Any] | None = None, **more: Any) -> Any:
    pose = np.stack([np.eye(3)] * 23)
    for joint, matrix in (joints or {}).items():
        pose[joint - 1] = matrix
    orient = np.eye(3) if body is None else body
    return {"bbox": box, "global_orient": orient.ravel().tolist(), "body_pose": pose.ravel().tolist(), **more}


def test_a_body_at_rest_has_the_joints_of_its_shape() -> None:
    betas = RNG.normal(size=10)
    expected = REST + np.einsum("jck,k->jc", SKELETON.shapes, betas)

    np.testing.assert_allclose(SKELETON.posed(person(betas=betas.tolist())), expected - expected[0])


def test_joints_are_those_of_chained_matrices() -> None:
    joints = {n: turn(n % 3, 10.0 * n) for n in range(1, 24)}
    posed = SKELETON.posed(person(body=turn(0, 40), joints=joints))

    world = []
    for n, parent in enumerate(_PARENTS):
        step = np.eye(4)
        step[:3, :3] = turn(0, 40) if n == 0 else joints[n]
        step[:3, 3] = 0 if n == 0 else REST[n] - REST[parent]
        world.append(step if n == 0 else world[parent] @ step)
    np.testing.assert_allclose(posed, np.stack(world)[:, :3, 3], atol=1e-12)


def test_an_elbow_moves_the_hand_alone() -> None:
    moved = SKELETON.posed(person(joints={18: turn(2, 90)})) - SKELETON.posed(person())
    assert np.flatnonzero(np.abs(moved).max(1) > 1e-9).tolist() == [20, 22]


def test_errors_of_known_turns() -> None:
    score = PoseScore(SKELETON)
    score.add([[person(body=turn(1, 10), joints={3: turn(0, 46)})]], [[person()]])
    assert score.result()["body_angle"] == pytest.approx(10)
    assert score.result()["joint_angle"] == pytest.approx(46 / 23)

    whole = PoseScore(SKELETON)
    whole.add([[person(body=turn(1, 30))]], [[person()]])
    turned = SKELETON.posed(person()) @ turn(1, 30).T
    expected = 1000 * np.linalg.norm(turned - SKELETON.posed(person()), axis=1).mean()
    assert whole.result()["mpjpe"] == pytest.approx(expected)
    assert whole.result()["pa_mpjpe"] == pytest.approx(0, abs=1e-6)


def test_who_is_not_found_lowers_the_share_and_nothing_else() -> None:
    score = PoseScore()
    score.add([[person(RIGHT)], []], [[person(LEFT), person(RIGHT)], [person(LEFT), {"bbox": RIGHT}]])
    assert score.result() == pytest.approx({"found": 1 / 3, "joint_angle": 0, "body_angle": 0}, abs=1e-5)

    nobody = PoseScore()
    nobody.add([[{"bbox": LEFT}]], [[person(LEFT)]])  # a box without a pose
    assert nobody.result() == {"found": 0}


def test_each_person_is_compared_once_and_with_the_nearest() -> None:
    shifted = (0.05, 0.0, 0.45, 1.0)
    assert pairs([person(shifted), person(LEFT), person(RIGHT)], [person(LEFT)]) == [(1, 0)]
    assert pairs([person(LEFT)], [person(RIGHT)]) == pairs([], [person(LEFT)]) == []


def test_without_people_there_is_nothing_to_measure() -> None:
    score = PoseScore()
    score.add([[person()]], [[]])
    with pytest.raises(DataError, match="nothing to measure"):
        score.result()


def test_written_rotations_are_made_proper() -> None:
    rough = person(body=turn(2, 30) + 0.01 * RNG.normal(size=(3, 3)))
    found = rotations(rough)

    np.testing.assert_allclose(found @ found.transpose(0, 2, 1), np.stack([np.eye(3)] * 24), atol=1e-12)
    assert (np.linalg.det(found) > 0).all()
    assert angles(found[:1], turn(2, 30)[None])[0] < 2


def test_procrustes_undoes_scale_turn_and_shift_but_no_mirror() -> None:
    points = RNG.normal(size=(24, 3))
    np.testing.assert_allclose(procrustes(2.5 * points @ turn(0, 70).T + 3, points), points, atol=1e-9)
    mirrored = points * [-1, 1, 1]
    assert np.abs(procrustes(mirrored, points) - points).max() > 0.1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [({"joints": REST}, r"expected joints \(24, 3\) and shapes"), (None, "cannot read")],
)
def test_another_skeleton_is_refused(tmp_path: Path, arrays: Any, message: str) -> None:
    path = tmp_path / "skeleton.npz"
    if arrays is not None:
        np.savez(path, **arrays)
    with pytest.raises(ConfigError, match=message):
        load_skeleton(path)


def test_a_skeleton_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", joints=SKELETON.joints, shapes=SKELETON.shapes)
    np.testing.assert_array_equal(load_skeleton(tmp_path / "s.npz").joints, REST)
