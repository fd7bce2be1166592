from __future__ import annotations

import dataclasses
import timeit
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.data import transforms
from fourm.data.geometry import Geometry, whole
from fourm.data.transforms import Jitter, apply, crop_resize, natural, normalize, standardize, swap_left_right
from fourm.errors import ConfigError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality, ModalitySet

NEAREST = Image.Resampling.NEAREST
SIZE = (16, 16)
FLIP = whole(SIZE, hflip=True)


@pytest.fixture
def modalities(data: type) -> ModalitySet:
    return data.modalities


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (16, 16, 3), np.uint8)


def test_the_right_size_is_not_touched(pixels: np.ndarray) -> None:
    assert np.shares_memory(crop_resize(pixels, whole(SIZE), SIZE, NEAREST), pixels)


def test_crop_then_flip(pixels: np.ndarray) -> None:
    found = crop_resize(pixels, Geometry(2, 3, 4, 8, True, SIZE), (4, 8), NEAREST)
    np.testing.assert_array_equal(found, pixels[2:6, 3:11][:, ::-1])


def test_non_square_targets_keep_height_and_width_apart(pixels: np.ndarray) -> None:
    assert crop_resize(pixels, whole(SIZE), (8, 32), NEAREST).shape == (8, 32, 3)
    rows = np.repeat(np.arange(16, dtype=np.int32)[:, None], 16, 1)
    found = crop_resize(rows, whole(SIZE), (8, 32), NEAREST)
    assert (found == found[:, :1]).all()
    assert (np.diff(found[:, 0]) == 2).all()


def test_shrinking_is_antialiased() -> None:
    board = (np.indices(SIZE).sum(0) % 2 * 255).astype(np.uint8)
    assert abs(crop_resize(board, whole(SIZE), (4, 4), Image.Resampling.BICUBIC).astype(int) - 127).max() <= 2


@pytest.mark.parametrize("size", [(224, 224), (96, 160), (37, 300)])
def test_colours_are_resized_as_pillow_does_within_two_levels(rng: np.random.Generator, size: tuple[int, int]) -> None:
    smooth = Image.fromarray(rng.integers(0, 256, (12, 14, 3), np.uint8)).resize((210, 180), Image.Resampling.BICUBIC)
    for image in (smooth, Image.fromarray(rng.integers(0, 256, (180, 210, 3), np.uint8))):
        found = crop_resize(np.asarray(image), whole((180, 210)), size, Image.Resampling.BICUBIC)
        expected = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC))
        apart = np.abs(found.astype(int) - expected)
        assert (found.dtype, found.shape) == (np.uint8, (*size, 3))
        assert apart.max() <= 2
        assert apart.mean() < 0.05


def test_labels_keep_their_ids_when_resized(rng: np.random.Generator, modalities: ModalitySet) -> None:
    ids = rng.choice(np.array([-1, 0, 3], np.int32), (16, 16))
    found = apply(ids, modalities["semseg"], Geometry(0, 0, 7, 5, False, SIZE), rng)
    assert found.shape == SIZE
    assert found.dtype == np.int64
    assert set(np.unique(found)) <= {-1, 0, 3}


def test_depth_is_in_the_units_of_its_normalization(rng: np.random.Generator, modalities: ModalitySet) -> None:
    metres = np.full(SIZE, 0.25, np.float32)
    metres[0], metres[1], metres[2] = 16.0, 2.0, 0.0
    found = apply(metres, modalities["depth"], whole(SIZE), rng)
    assert found.shape == (1, 16, 16)
    np.testing.assert_allclose(found[0, :4, 0], [1, 0, -1, -1], atol=1e-6)


def test_natural_units_are_colours_metres_unit_normals_and_ids(modalities: ModalitySet) -> None:
    corner = np.array([[[0, 128, 255]]], np.uint8)
    assert np.allclose(natural(corner, modalities["rgb"])[:, 0, 0], [0, 128 / 255, 1])
    metres = np.array([[3.5]], np.float32)
    assert natural(metres, modalities["depth"]).tolist() == [[[3.5]]]
    direction = natural(corner, modalities["normal"])[:, 0, 0]
    assert np.allclose(direction, np.array([-1, 1 / 255, 1]) / np.sqrt(2), atol=1e-4)
    assert natural(np.array([[-1, 3]]), modalities["semseg"]).tolist() == [[-1, 3]]
    assert natural("a text", modalities["caption"]) == "a text"


def test_a_mirrored_normal_map_has_mirrored_normals(rng: np.random.Generator, modalities: ModalitySet) -> None:
    encoded = rng.integers(0, 256, (16, 16, 3), np.uint8)
    straight = apply(encoded, modalities["normal"], whole(SIZE), rng)
    mirrored = apply(encoded, modalities["normal"], FLIP, rng)
    np.testing.assert_allclose(mirrored[0], -straight[0, :, ::-1], atol=1e-6)
    np.testing.assert_allclose(mirrored[1:], straight[1:, :, ::-1], atol=1e-6)
    np.testing.assert_allclose(straight[0], encoded[..., 0] / 255 * 2 - 1, atol=1e-6)


def test_all_modalities_see_the_same_crop(rng: np.random.Generator, modalities: ModalitySet) -> None:
    column = np.tile(np.arange(16, dtype=np.uint8), (16, 1))
    geometry = Geometry(4, 2, 8, 8, True, SIZE)
    rgb = dataclasses.replace(modalities["rgb"], layout=Grid(1, 1, 8))
    depth = dataclasses.replace(modalities["depth"], layout=Grid(1, 1, 8), normalization="none")
    semseg = dataclasses.replace(modalities["semseg"], layout=Grid(8, 8, 1))
    expected = np.arange(9, 1, -1)
    image = apply(np.repeat(column[..., None], 3, 2), rgb, geometry, rng)
    np.testing.assert_allclose((image[0, 0] + 1) / 2 * 255, expected, atol=1e-4)
    np.testing.assert_array_equal(apply(column.astype(np.float32), depth, geometry, rng)[0, 0], expected)
    np.testing.assert_array_equal(apply(column.astype(np.int32), semseg, geometry, rng)[0], expected)


def test_tokens_follow_the_stored_crop(rng: np.random.Generator, modalities: ModalitySet) -> None:
    ids = np.arange(8).reshape(2, 4)
    np.testing.assert_array_equal(apply(ids, modalities["tok_rgb"], whole(SIZE, row=1), rng), [4, 5, 6, 7])
    with pytest.raises(ValueError, match="crop 2 was drawn, but the file holds 2 rows of tokens"):
        apply(ids, modalities["tok_rgb"], whole(SIZE, row=2), rng)


def test_one_of_several_captions_is_drawn(rng: np.random.Generator, modalities: ModalitySet) -> None:
    found = {apply(["one", "two"], modalities["caption"], whole(SIZE), rng) for _ in range(30)}
    assert found == {"one", "two"}
    assert apply("only", modalities["caption"], whole(SIZE), rng) == "only"


def test_aligned_captions_follow_the_stored_crop(rng: np.random.Generator, modalities: ModalitySet) -> None:
    caption = modalities["caption"]
    assert apply(["one", "two"], caption, whole(SIZE, row=1), rng, aligned_captions=True) == "two"
    with pytest.raises(ValueError, match="2 captions"):
        apply(["one", "two"], caption, whole(SIZE, row=2), rng, aligned_captions=True)


def test_words_are_mirrored_only_with_the_image(rng: np.random.Generator, modalities: ModalitySet) -> None:
    caption = modalities["caption"]
    assert apply("bed left", caption, FLIP, rng, mirror_words=True) == "bed right"
    assert apply("bed left", caption, whole(SIZE), rng, mirror_words=True) == "bed left"
    assert apply("bed left", caption, FLIP, rng) == "bed left"


def test_left_and_right_are_swapped_as_whole_words() -> None:
    assert swap_left_right("Left of it, bright leftovers RIGHT right.") == "Right of it, bright leftovers LEFT left."


def test_half_maps_the_value_range_to_one(data: type) -> None:
    values = np.array([-2.0, 0.0, 2.0], np.float32).reshape(1, 1, 3)
    modality = data.image_modality("x", "gray", "half", 1, value_range=(-2.0, 2.0))
    np.testing.assert_allclose(normalize(values, modality)[0, 0], [-1, 0, 1])


def test_imagenet_subtracts_mean_and_divides_by_deviation(
    pixels: np.ndarray, data: type, rng: np.random.Generator
) -> None:
    found = apply(pixels, data.image_modality("x", "image", "imagenet", value_range=(0.0, 1.0)), whole(SIZE), rng)
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def test_standardisation_ignores_the_outer_tenths() -> None:
    values = np.arange(100, dtype=np.float32)
    middle = np.arange(10, 90)
    expected = (values - middle.mean()) / np.sqrt(middle.var() + 1e-6)
    np.testing.assert_allclose(standardize(values), expected, rtol=1e-5)
    outlier = values.copy()
    outlier[99] = 1e6
    np.testing.assert_allclose(standardize(outlier)[:99], expected[:99], rtol=1e-5)


def test_standardisation_is_per_image_also_for_8_bit(pixels: np.ndarray, data: type, rng: np.random.Generator) -> None:
    found = apply(pixels[..., 0], data.image_modality("x", "gray", "standardize", 1), whole(SIZE), rng)
    np.testing.assert_allclose(found[0], standardize((pixels[..., 0] / 255).astype(np.float32)), atol=1e-4)


def test_masks_are_0_or_1_also_where_resizing_mixes_them(data: type, rng: np.random.Generator) -> None:
    mask = dataclasses.replace(data.modalities["rgb"], normalization="mask", decode="gray", channels=None)
    left = np.zeros((11, 11), np.uint8)
    left[:, :5] = 255
    found = apply(left, mask, whole((11, 11)), rng)
    assert set(np.unique(found)) == {0.0, 1.0}
    assert abs(found.mean() - 5 / 11) < 0.05


def test_an_unknown_normalization_is_an_error(data: type) -> None:
    with pytest.raises(ConfigError, match="'zscore' is not known"):
        normalize(np.zeros((3, 1, 1), np.float32), data.image_modality("x", "image", "zscore"))


def test_no_jitter_means_no_draw(rng: np.random.Generator) -> None:
    before = rng.bit_generator.state
    assert Jitter.draw(0.0, rng) is None
    assert rng.bit_generator.state == before


def test_jitter_factors_that_are_one_change_nothing(
    pixels: np.ndarray, modalities: ModalitySet, rng: np.random.Generator
) -> None:
    plain = apply(pixels, modalities["rgb"], whole(SIZE), rng)
    np.testing.assert_allclose(
        apply(pixels, modalities["rgb"], whole(SIZE), rng, jitter=Jitter(1, 1, 1)), plain, atol=1e-5
    )


def test_brightness_scales_and_saturation_zero_is_grey(pixels: np.ndarray) -> None:
    values = pixels.transpose(2, 0, 1).astype(np.float32) / 255 * 0.5
    np.testing.assert_allclose(transforms.jitter_colours(values, Jitter(1.5, 1, 1)), values * 1.5, atol=1e-5)
    grey = transforms.jitter_colours(values, Jitter(1, 1, 0))
    np.testing.assert_allclose(grey[0], grey[2], atol=1e-6)


def test_jitter_leaves_other_modalities_alone(
    pixels: np.ndarray, modalities: ModalitySet, rng: np.random.Generator
) -> None:
    plain = apply(pixels, modalities["normal"], whole(SIZE), rng)
    np.testing.assert_array_equal(apply(pixels, modalities["normal"], whole(SIZE), rng, jitter=Jitter(2, 2, 2)), plain)


def test_a_64_pixel_image_takes_well_under_a_millisecond(data: type, rng: np.random.Generator) -> None:
    modality = data.image_modality("rgb", "image", "half", grid=Grid(8, 8, 8), value_range=(0.0, 1.0))
    pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
    geometry = whole((64, 64), hflip=True)
    best = min(timeit.repeat(lambda: apply(pixels, modality, geometry, rng), number=20, repeat=5)) / 20
    assert best < 1e-3  # about 0.05 ms on an idle core; the slack is for busy machines


def features(size: int = 1, **facts: Any) -> Modality:
    facts = {"channels": 2, "direction": "input", **facts}
    return Modality("f", Grid(size, size), Continuous(2), source="f", decode="features", **facts)


def test_features_follow_the_stored_crop(rng: np.random.Generator) -> None:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2, 1, 1)
    np.testing.assert_array_equal(apply(rows, features(), whole((1, 1), row=2), rng), rows[2])
    with pytest.raises(ValueError, match="crop 4 was drawn, but the file holds 4 rows of features"):
        apply(rows, features(), whole((1, 1), row=4), rng)


def test_a_single_vector_holds_for_all_crops_and_a_single_map_does_not(rng: np.random.Generator) -> None:
    vector, map_ = np.ones((1, 2, 1, 1), np.float32), np.ones((1, 2, 3, 3), np.float32)
    np.testing.assert_array_equal(apply(vector, features(), whole((1, 1), row=3), rng), vector[0])
    np.testing.assert_array_equal(apply(map_, features(3), whole((1, 1)), rng), map_[0])
    with pytest.raises(ValueError, match="crop 3 was drawn"):
        apply(map_, features(3), whole((1, 1), row=3), rng)


def test_features_are_normalised_as_the_modality_says(rng: np.random.Generator) -> None:
    rows = np.array([0.0, 4.0], np.float32).reshape(1, 2, 1, 1)
    half = features(value_range=(0.0, 4.0), normalization="half")
    np.testing.assert_allclose(apply(rows, half, whole((1, 1)), rng).ravel(), [-1, 1])
