from __future__ import annotations

import gzip
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm.data.decode import DECODERS, decode, decoder_of
from fourm.errors import ConfigError, DataError
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality


def modality(kind: str, **facts: Any) -> Modality:
    facts = {"layout": Grid(2, 2, 8), "content": Continuous(192), "source": "s", "direction": "input", **facts}
    return Modality("m", decode=kind, **facts)


TOKENS = modality("tokens", content=Discrete(10))
LABELS = modality("labels", content=Discrete(4))
TEXT = modality("text", layout=Sequence(8), content=Discrete(100))


def read(data: bytes, m: Modality) -> Any:
    return decode(data, m, lambda: "x/shard-00000.tar, key '7'")


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def saved(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (6, 5, 3), np.uint8)


def test_rgb_comes_back_exactly(data: type, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(read(data.png(pixels), modality("image")), pixels)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_images_of_other_modes_become_rgb(mode: str, pixels: np.ndarray) -> None:
    assert read(encode(Image.fromarray(pixels).convert(mode)), modality("image")).shape == (6, 5, 3)


def test_jpeg_is_read(pixels: np.ndarray) -> None:
    assert read(encode(Image.fromarray(pixels), "JPEG"), modality("image")).shape == (6, 5, 3)


def test_full_scale_of_16_bits_is_the_largest_depth(data: type) -> None:
    raw = np.array([[0, 65535], [4096, 1]], np.uint16)
    metres = read(data.png(raw), modality("depth16", channels=1, content=Continuous(64), value_range=(0.25, 16.0)))
    np.testing.assert_allclose(metres, raw / 65535 * 16, rtol=1e-6)
    assert metres.dtype == np.float32


def test_8_bit_depth_is_refused(data: type, pixels: np.ndarray) -> None:
    with pytest.raises(DataError, match="16-bit"):
        read(data.png(pixels[..., 0]), modality("depth16"))


def test_gray_has_no_channel_axis(data: type, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(read(data.png(pixels[..., 0]), modality("gray")), pixels[..., 0])


def test_a_normal_map_must_be_rgb(data: type, pixels: np.ndarray) -> None:
    np.testing.assert_array_equal(read(data.png(pixels), modality("normal")), pixels)
    with pytest.raises(DataError, match="RGB"):
        read(data.png(pixels[..., 0]), modality("normal"))


def test_void_labels_become_minus_one(data: type) -> None:
    ids = np.array([[0, 3], [255, 1]], np.uint8)
    np.testing.assert_array_equal(read(data.png(ids), LABELS), [[0, 3], [-1, 1]])


def test_the_published_label_form_makes_void_class_zero(data: type) -> None:
    ids = np.array([[0, 2], [255, 1]], np.uint8)
    void_first = modality("labels_void_first", content=Discrete(4))
    np.testing.assert_array_equal(read(data.png(ids), void_first), [[1, 3], [0, 2]])


def test_labels_that_begin_with_one_have_zero_as_void(data: type) -> None:
    ids = np.array([[0, 1], [4, 2]], np.uint8)
    np.testing.assert_array_equal(
        read(data.png(ids), modality("labels_from_one", content=Discrete(4))), [[-1, 0], [3, 1]]
    )
    with pytest.raises(DataError, match="class id 4 is not one of the 4 classes"):
        read(data.png(ids + 1), modality("labels_from_one", content=Discrete(4)))


@pytest.mark.parametrize(("content", "number"), [(b"2", 2), (b'"boot"', 1), (b"bag", 0), (b" 1\n", 1)])
def test_a_class_is_a_number_or_a_name(content: bytes, number: int) -> None:
    names = ("bag", "boot", "coat")
    assert read(content, modality("label", content=Discrete(3), classes=names)) == number


@pytest.mark.parametrize("content", [b"3", b"-1", b"true", b"1.5", b'"shoe"', b"[1]"])
def test_a_class_that_is_not_known_is_told(content: bytes) -> None:
    with pytest.raises(DataError, match=r"is not one of the 3 classes: bag, boot, coat"):
        read(content, modality("label", content=Discrete(3), classes=("bag", "boot", "coat")))


def test_a_class_is_the_folder_a_file_lies_in() -> None:
    m = modality("class_folder", content=Discrete(2), classes=("cat", "dog"))
    assert read(b"dog/0001", m) == 1
    with pytest.raises(DataError, match="'0001'|lies in no folder"):
        read(b"0001", m)


def test_palette_labels_are_ids_not_colours() -> None:
    image = Image.fromarray(np.array([[0, 3]], np.uint8))
    image.putpalette([9, 9, 9] * 256)
    np.testing.assert_array_equal(read(encode(image), LABELS), [[0, 3]])


def test_a_class_outside_the_list_is_an_error(data: type) -> None:
    with pytest.raises(DataError, match="class id 4 is not one of the 4 classes"):
        read(data.png(np.array([[4]], np.uint8)), LABELS)


@pytest.mark.parametrize(("array", "shape"), [(np.arange(8).reshape(2, 4), (2, 4)), (np.arange(4), (1, 4))])
def test_tokens_have_one_row_per_crop(data: type, array: np.ndarray, shape: tuple[int, int]) -> None:
    ids = read(data.npy(array.astype(np.int16)), TOKENS)
    assert ids.shape == shape
    assert ids.dtype == np.int64


@pytest.mark.parametrize("wrong", [10, -1])
def test_a_token_outside_the_vocabulary_names_key_and_remedy(data: type, wrong: int) -> None:
    with pytest.raises(DataError, match=f"key '7': .*modality 'm': token id {wrong} is outside .*10.*fourm tokenize"):
        read(data.npy(np.array([[0, 1, wrong, 2]])), TOKENS)


@pytest.mark.parametrize("array", [np.zeros((1, 5), np.int16), np.zeros((1, 4), np.float32), np.array(3)])
def test_tokens_that_do_not_fit_the_grid_are_refused(data: type, array: np.ndarray) -> None:
    with pytest.raises(DataError, match="tokens"):
        read(data.npy(array), TOKENS)


LAYOUTS = {
    "fortran": np.asfortranarray(np.arange(8).reshape(2, 4)),
    "big endian": np.arange(8, dtype=">i2").reshape(2, 4),
    "8-bit grid": np.arange(8, dtype=np.uint8).reshape(2, 2, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_arrays_of_any_layout_are_read_as_numpy_reads_them(layout: str, version: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, LAYOUTS[layout], version)
    np.testing.assert_array_equal(read(buffer.getvalue(), TOKENS), np.arange(8).reshape(2, 4))


def test_pickled_arrays_are_never_loaded() -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(DataError, match="allow_pickle"):
        read(buffer.getvalue(), TOKENS)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a red bed\n", "a red bed"),
        (b'"a red bed"', "a red bed"),
        (b'["one", "two"]', ["one", "two"]),
        (b"42", "42"),
        (b'"quoted" words', '"quoted" words'),
        ("caf\u00e9".encode(), "caf\u00e9"),
        (gzip.compress(b'["one"]', mtime=0), ["one"]),
    ],
)
def test_text_is_plain_or_json_or_gzipped(content: bytes, expected: Any) -> None:
    assert read(content, TEXT) == expected


@pytest.mark.parametrize("content", [b"[]", b"[1]", b'{"a": 1}', b"\xff\xff"])
def test_other_values_are_not_text(content: bytes) -> None:
    with pytest.raises(DataError, match="'text'"):
        read(content, TEXT)


def test_boxes_are_the_instances() -> None:
    instances = [{"boxes": [0, 0, 1, 1], "class_name": "bed", "score": 1.0}]
    assert read(json.dumps({"instances": instances}).encode(), modality("boxes")) == instances


@pytest.mark.parametrize(
    "value",
    [
        *([], {"boxes": []}, {"instances": [{"boxes": [1, 2]}]}, {"instances": [{}]}),
        {"instances": [{"boxes": [0, 0, 1, 1]}]},
        {"instances": [{"boxes": [0, 0, 1, 1], "class_name": 3}]},
        {"instances": [{"boxes": [0, 0, 1, float("nan")], "class_name": "bed"}]},
        {"instances": [{"boxes": [0, 0, 1, None], "class_name": "bed"}]},
        {"instances": [{"boxes": [0, 0, 1, 1], "class_name": "bed", "score": float("nan")}]},
    ],
)
def test_malformed_boxes_are_refused(value: Any) -> None:
    with pytest.raises(DataError, match="'boxes'"):
        read(json.dumps(value).encode(), modality("boxes"))


def test_only_valid_vectors_are_kept() -> None:
    vectors = modality("vectors", layout=Sequence(8), content=Continuous(3))
    emb = np.arange(12, dtype=np.float16).reshape(4, 3)
    np.testing.assert_array_equal(read(saved(emb=emb, mask_valid=np.array([1, 1, 0, 0])), vectors), emb[:2])
    np.testing.assert_array_equal(read(saved(emb=emb), vectors), emb)
    with pytest.raises(DataError, match="expected .length, 3."):
        read(saved(emb=emb[:, :2]), vectors)


VECTOR = modality("features", layout=Grid(1, 1), content=Continuous(3), channels=3)
MAP = modality("features", layout=Grid(2, 4), content=Continuous(3), channels=3)
ONE_ROW = {
    "a vector": (VECTOR, (3,)),
    "a vector with its place": (VECTOR, (3, 1, 1)),
    "a map": (MAP, (3, 2, 4)),
}


@pytest.mark.parametrize("form", ONE_ROW)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16])
def test_features_are_float32_with_a_row_for_every_crop(data: type, form: str, dtype: type) -> None:
    m, shape = ONE_ROW[form]
    array = np.arange(2 * np.prod(shape)).reshape(2, *shape).astype(dtype)
    expected = array.reshape(2, 3, *m.grid.image_size)
    one, both = read(data.npy(array[0]), m), read(data.npy(array), m)
    np.testing.assert_array_equal(one, expected[:1])
    np.testing.assert_array_equal(both, expected)
    assert one.dtype == both.dtype == np.float32


def test_features_may_come_as_the_only_array_of_an_npz() -> None:
    np.testing.assert_array_equal(read(saved(anything=np.ones(3)), VECTOR), np.ones((1, 3, 1, 1)))
    with pytest.raises(DataError, match="arrays a, b in one file; expected a single one"):
        read(saved(a=np.ones(3), b=np.ones(3)), VECTOR)


@pytest.mark.parametrize(
    ("m", "array", "message"),
    [
        (VECTOR, np.ones(4), r"shape \(4,\); expected \(3, 1, 1\) or \(3,\)"),
        (VECTOR, np.array(1.0), r"shape \(\)"),
        (VECTOR, np.ones((0, 3)), "without rows"),
        (MAP, np.ones(3), r"shape \(3,\); expected \(3, 2, 4\), or a row"),
        (MAP, np.ones((2, 4, 3)), r"shape \(2, 4, 3\); expected \(3, 2, 4\)"),
        (VECTOR, np.array([0, np.nan, 0]), "not finite"),
        (VECTOR, np.array([0, 1e60, 0]), "not finite.*too large for 32 bits"),
        (VECTOR, np.array(["a", "b", "c"]), "expected numbers"),
        (VECTOR, np.array([1j, 0, 0]), "expected numbers"),
    ],
)
def test_features_that_do_not_fit_are_refused(data: type, m: Modality, array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=rf"key '7': cannot read it as 'features' for modality 'm': .*{message}"):
        read(data.npy(array), m)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_name_the_sample(value: float) -> None:
    m = modality("vectors", layout=Sequence(3), content=Continuous(2))
    emb = np.ones((3, 2))
    emb[2, 0] = value
    with pytest.raises(DataError, match="key '7': .*modality 'm': values that are not finite"):
        read(saved(emb=emb), m)
    assert read(saved(emb=emb, mask_valid=np.array([1, 1, 0])), m).shape == (2, 2)


@pytest.mark.parametrize(("kind", "channels", "given"), [("image", 1, 3), ("gray", 3, 1), ("depth16", 2, 1)])
def test_a_format_of_another_number_of_channels_is_refused_before_anything_is_read(kind, channels, given) -> None:
    m = modality(kind, channels=channels, content=Continuous(64 * channels))
    with pytest.raises(ConfigError, match=f"has channels {channels}, but decode '{kind}' gives {given}"):
        decoder_of(m)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_crop_settings_are_finite(data: type, value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        DECODERS["crop_settings"](data.npy(np.array([0, 0, 4, value, 1])), TEXT)


def test_crop_settings_have_five_columns(data: type) -> None:
    np.testing.assert_array_equal(
        DECODERS["crop_settings"](data.npy(np.array([0, 0, 4, 4, 1])), TEXT), [[0, 0, 4, 4, 1]]
    )
    for wrong in (np.zeros((1, 4)), np.zeros((0, 5)), np.array([[0, 0, 0, 4, 0]])):
        with pytest.raises(ValueError, match="top, left"):
            DECODERS["crop_settings"](data.npy(wrong), TEXT)


@pytest.mark.parametrize("kind", sorted(set(DECODERS) - {"text"}))
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_damaged_files_name_file_key_modality_and_remedy(data: type, kind: str, damage: str) -> None:
    whole = data.make_sample(0)
    names = {"image": "rgb", "gray": "rgb", "normal": "normal", "depth16": "depth", "labels": "semseg",
             "labels_void_first": "semseg", "tokens": "tok_rgb", "boxes": "det", "structured": "det"}  # fmt: skip
    content = whole[names.get(kind, "crop_settings")]
    content = {"cut": content[: len(content) // 2], "garbage": b"\x00garbage" * 20, "empty": b""}[damage]
    with pytest.raises(
        DataError, match=rf"shard-00000\.tar, key '7': cannot read it as '{kind}' for modality 'm': .+\. \w+"
    ):
        read(content, modality(kind, content=Discrete(512)))


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="decode is 'imag'.*Did you mean 'image'"):
        read(b"", modality("imag"))
