"""Views of rooms: crops and flips hold for all of them, filters change what they should."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm import catalog
from fourm.data.configs import CropConfig
from fourm.data.geometry import six_boxes
from fourm.data.sentence_configs import RandomAugmentConfig, SixCropsConfig
from fourm.errors import DataError
from fourm.prepare.sentences.pictures import Pictures, blacked_out, boxed, write_frames
from fourm.report.colors import class_color, palette
from fourm.rng import generator

VIEWS = {name: catalog.get(m) for name, m in {"image": "rgb@64", "semseg": "semseg@64", "boxes": "det"}.items()}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


class OneRoom:
    """A source of one sample, whose image shows the colours of its labels, and whose box is its lower right quarter."""

    def __init__(self) -> None:
        self.labels = np.random.default_rng(0).integers(0, 16, (64, 64)).astype(np.uint8)
        box = {"boxes": [0.5, 0.5, 1.0, 1.0], "class_name": "sofa"}
        self.files = {
            "rgb": png(np.asarray(palette(16))[self.labels]),
            "semseg": png(self.labels),
            "det": json.dumps({"instances": [box]}).encode(),
        }

    def read(self, n: int) -> dict[str, bytes]:
        return self.files

    def where(self, n: int, source: str | None = None) -> str:
        return f"room {n}"


def pictures(augment: Any = None, size: tuple[int, int] = (64, 64)) -> Pictures:
    return Pictures(OneRoom(), VIEWS, size, augment, seed=3)  # type: ignore[arg-type]


def drawn(source: Pictures, view: str, repetition: int = 0) -> np.ndarray:
    shot = source.shot(0, view, repetition)
    return source.draw(0, [shot])[shot]


def test_annotations_are_drawn_as_pictures() -> None:
    source = pictures()
    assert drawn(source, "image").shape == (64, 64, 3)
    assert np.array_equal(drawn(source, "semseg"), drawn(source, "image"))
    boxes, image = drawn(source, "boxes"), drawn(source, "image")
    changed = np.argwhere((boxes != image).any(-1))
    assert changed.min(0).tolist() == [32, 32]
    assert tuple(boxes[63, 40]) == class_color("sofa")


def test_annotations_may_be_drawn_on_black() -> None:
    plain, black = drawn(pictures(), "boxes"), drawn(pictures(), "boxes:black")
    lines = (black != 0).any(-1)
    assert np.argwhere(lines).min(0).tolist() == [32, 32]
    assert 0 < lines.sum() < 32 * 32 / 4
    assert np.array_equal(black[lines], plain[lines])


@pytest.mark.parametrize("repetition", [1, 2, 3, 4])
def test_crops_and_flips_are_the_same_for_all_views(repetition: int) -> None:
    """The box is cut out whole, so that labels and colours, which are resampled in other ways, stay comparable."""
    source = pictures(RandomAugmentConfig(CropConfig("center"), hflip=0.5))
    assert np.array_equal(drawn(source, "semseg", repetition), drawn(source, "image", repetition))


def test_copies_differ_and_come_again() -> None:
    source = pictures(RandomAugmentConfig())
    copies = [drawn(source, "image", n) for n in range(4)]
    assert np.array_equal(copies[0], drawn(pictures(), "image"))
    assert len({copy.tobytes() for copy in copies}) == 4
    assert np.array_equal(copies[2], drawn(pictures(RandomAugmentConfig()), "image", 2))
    assert pictures().shot(0, "image", 5) == pictures().shot(0, "image", 0)
    assert pictures().shot(0, "image:masked", 5) != pictures().shot(0, "image:masked", 0)


def test_six_crops_are_the_same_on_image_and_mask() -> None:
    source = pictures(SixCropsConfig(side=32), size=(32, 32))
    image = drawn(pictures(), "image")
    for n, (top, left, height, width) in enumerate(six_boxes((64, 64), 32)):
        expected = image[top : top + height, left : left + width]
        assert np.array_equal(drawn(source, "image", n), expected)
        assert np.array_equal(drawn(source, "semseg", n), expected)


def test_six_boxes_lie_along_the_longer_side() -> None:
    assert [left for _, left, _, _ in six_boxes((800, 1400), 800)] == [0, 600, 0, 600, 300, 300]
    assert all((top, height, width) == (0, 800, 800) for top, _, height, width in six_boxes((800, 1400), 800))
    assert six_boxes((1000, 600), 800)[4:] == [(200, 0, 600, 600), (200, 0, 600, 600)]


def test_grey_pictures_have_no_colours() -> None:
    grey = drawn(pictures(), "image:gray")
    assert (grey == grey[..., :1]).all()


def test_parts_are_blacked_out_as_for_inpainting() -> None:
    white = np.full((256, 256, 3), 255, np.uint8)
    squares, shares = 0, []
    for n in range(400):
        hidden = (blacked_out(white, generator(n)) == 0).all(-1)
        rows, columns = np.flatnonzero(hidden.any(1)), np.flatnonzero(hidden.any(0))
        patches = hidden[::32, ::32]
        if np.array_equal(hidden, np.kron(patches, np.ones((32, 32), bool))):
            shares.append(patches.mean())
            continue
        squares += 1
        side = len(rows)
        assert len(columns) == side
        assert hidden.sum() == side**2
        assert 25 <= side <= 128
    assert squares / 400 == pytest.approx(0.3, abs=0.07)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.06)
    assert np.ptp(shares) > 0.9


def test_small_boxes_lie_in_front() -> None:
    large = {"boxes": [0, 0, 1, 1], "class_name": "a"}
    small = {"boxes": [0, 0, 0.5, 0.5], "class_name": "b"}
    for order in ([large, small], [small, large]):
        sheet = np.asarray(boxed(order, Image.new("RGB", (64, 64)), ("a", "b")))
        assert tuple(sheet[0, 10]) == class_color("b", ("a", "b"))
        assert tuple(sheet[63, 40]) == class_color("a", ("a", "b"))


def test_an_array_becomes_a_folder_of_frames(tmp_path: Any) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3)).astype(np.uint8)
    write_frames(frames, tmp_path, "clip")
    paths = sorted((tmp_path / "rgb" / "clip").iterdir())
    assert np.array_equal(np.stack([np.asarray(Image.open(path)) for path in paths]), frames)
    with pytest.raises(DataError, match=r"expected \(T, H, W, 3\) of uint8"):
        write_frames(frames[0], tmp_path, "clip")
