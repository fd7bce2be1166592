import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourm.data import decode as decoding
from fourm.generate.outputs import decode, safe_name, write
from fourm.generate.sampler import Generated
from fourm.modality import Continuous, Discrete, Grid, Modality, ModalitySet
from fourm.tokenizers.text import train_wordpiece
from tests.unit.generate.toy import LEVELS, SEEDS, Mosaic, ToyBundle, build_model, image, text

IDS = torch.arange(16).expand(3, 16)


def test_ids_become_images_in_natural_units(bundle: ToyBundle) -> None:
    depth = decode(bundle, "tok_depth@16", Generated({"tok_depth@16": IDS}), SEEDS)
    assert depth.shape == (3, 1, 16, 16)
    assert depth[0, 0, 0, 0] == 0
    assert depth[0, 0, -1, -1] == 16


def test_expected_codes_are_decoded_where_probabilities_were_kept(bundle: ToyBundle) -> None:
    probabilities = torch.zeros(3, 16, LEVELS)
    probabilities[..., 0] = probabilities[..., 15] = 0.5
    generated = Generated({"tok_depth@16": IDS}, {"tok_depth@16": probabilities})
    torch.testing.assert_close(
        decode(bundle, "tok_depth@16", generated, SEEDS, expected=True), torch.full((3, 1, 16, 16), 8.0)
    )


def test_texts_and_boxes(bundle: ToyBundle) -> None:
    assert bundle.text is not None
    caption = [*bundle.text.encode("a red sofa").tolist(), -1]
    assert decode(bundle, "caption", Generated({"caption": torch.tensor([caption])}), SEEDS[:1]) == ["a red sofa"]
    boxes = bundle.text.encode("v0=0 v1=0 v2=49 v3=49 bed").tolist()
    nothing = [-1] * len(boxes)
    found = decode(bundle, "det", Generated({"det": torch.tensor([boxes, nothing])}), SEEDS[:2])
    assert found == [[{"boxes": [0.0, 0.0, 1.0, 1.0], "class_name": "bed", "score": 1.0}], []]


def test_without_a_tokenizer_the_ids_are_the_answer(bundle: ToyBundle, tmp_path: Path) -> None:
    poor = ToyBundle(bundle.model, {}, bundle.text)
    ids = decode(poor, "tok_depth@16", Generated({"tok_depth@16": IDS}), SEEDS)
    assert torch.equal(ids, IDS)
    (path,) = write(poor, bundle.model.modalities["tok_depth@16"], ids[0], tmp_path, "depth")
    assert np.load(path).tolist() == list(range(16))


def test_structured_values_are_read_from_ids_and_written_as_they_are(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(["human pose", "point polygon none"] * 4, 4400, num_sentinels=20)
    modality = text("metadata", tokenizer.vocab_size, "metadata")
    toy = ToyBundle(build_model(ModalitySet([modality])), {}, tokenizer)
    ids = tokenizer.encode("v1=5 v0=3 none v1=13 v0=25").tolist()
    found = decode(toy, "metadata", Generated({"metadata": torch.tensor([ids, [-1] * len(ids)])}))
    assert found == [{"n_humans": 3, "entropy": 5.0}, {}]
    (path,) = write(toy, modality, found[0], tmp_path, "facts")
    assert json.loads(path.read_text()) == found[0]


FORMATS = {
    "rgb": (image("rgb@16", "image", 3), torch.rand(3, 16, 16), 1 / 255),
    "gray": (image("gray@16", "gray"), torch.rand(1, 16, 16), 1 / 255),
    "depth": (image("depth@16", "depth16", value_range=(0.0, 16.0)), 16 * torch.rand(1, 16, 16), 16 / 65535),
    "normal": (image("normal@16", "normal", 3, value_range=(-1.0, 1.0)), 2 * torch.rand(3, 16, 16) - 1, 2 / 255),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_images_are_written_as_the_data_is_read(kind: str, bundle: ToyBundle, tmp_path: Path) -> None:
    raw, value, precision = FORMATS[kind]
    toy = ToyBundle(bundle.model, {"tok_rgb@16": Mosaic(raw)})
    (path,) = write(toy, bundle.model.modalities["tok_rgb@16"], value, tmp_path, kind)
    pixels = decoding.decode(path.read_bytes(), raw, lambda: str(path))
    natural = torch.from_numpy(np.array(pixels, np.float32)).reshape(16, 16, -1).permute(2, 0, 1)
    if kind != "depth":
        low, high = raw.value_range or (0.0, 1.0)
        natural = low + natural / 255 * (high - low)
    torch.testing.assert_close(natural, value, atol=precision, rtol=0)


@pytest.mark.parametrize("decoder", ["labels", "labels_void_first"])
def test_labels_are_written_as_the_data_is_read(decoder: str, bundle: ToyBundle, tmp_path: Path) -> None:
    raw = Modality("semseg@4", Grid(4, 4), Discrete(LEVELS), source="semseg", decode=decoder, direction="input")
    labels = torch.arange(16).reshape(4, 4)
    if decoder == "labels":
        labels[0, 0] = -1
    (path,) = write(ToyBundle(bundle.model, {"tok_rgb@16": Mosaic(raw)}), bundle.model.modalities["tok_rgb@16"],
                    labels, tmp_path, "semseg")  # fmt: skip
    assert decoding.decode(path.read_bytes(), raw, lambda: str(path)).tolist() == labels.tolist()


def test_depth_without_units_is_also_written_as_it_is(bundle: ToyBundle, tmp_path: Path) -> None:
    raw = image("depth@16", "depth16", normalization="standardize")
    value = torch.randn(1, 16, 16)
    toy = ToyBundle(bundle.model, {"tok_depth@16": Mosaic(raw)})
    paths = write(toy, bundle.model.modalities["tok_depth@16"], value, tmp_path, "depth")
    assert [path.suffix for path in paths] == [".png", ".npy"]
    np.testing.assert_array_equal(np.load(paths[1]), value[0])
    with Image.open(io.BytesIO(paths[0].read_bytes())) as file:
        assert np.asarray(file).max() == 65535


def test_a_vector_of_three_numbers_is_written_as_numbers(bundle: ToyBundle, tmp_path: Path) -> None:
    raw = Modality("gyro", Grid(1, 1), Continuous(3), "gyro", "features", channels=3, direction="input")
    value = torch.tensor([0.5, -7.0, 2.0]).view(3, 1, 1)
    (path,) = write(bundle, raw, value, tmp_path, "gyro")
    assert decoding.decode(path.read_bytes(), raw, str)[0, :, 0, 0].tolist() == [0.5, -7.0, 2.0]


def test_features_that_a_teacher_makes_are_written_as_numbers(bundle: ToyBundle, tmp_path: Path) -> None:
    raw = Modality("clip", Grid(2, 2, 8), Continuous(5), "rgb", "image", channels=3, teacher="clip_b16")
    with_clip = ToyBundle(bundle.model, {**bundle.tokenizers, "tok_rgb@16": Mosaic(raw)}, bundle.text)
    value = torch.randn(5, 2, 2)
    (path,) = write(with_clip, bundle.model.modalities["tok_rgb@16"], value, tmp_path, "clip")
    np.testing.assert_array_equal(np.load(path), value)


def test_texts_and_boxes_are_written(bundle: ToyBundle, tmp_path: Path) -> None:
    modalities = bundle.model.modalities
    (text,) = write(bundle, modalities["caption"], "a red sofa", tmp_path, "caption")
    assert text.read_text() == "a red sofa\n"
    box = {"boxes": [0.0, 0.0, 1.0, 1.0], "class_name": "bed", "score": 1.0}
    (boxes,) = write(bundle, modalities["det"], [box], tmp_path, "det")
    assert json.loads(boxes.read_text()) == {"instances": [box]}


@pytest.mark.parametrize("name", ["../../etc/passwd", "/root/x", "..", "a\\b", "", ".hidden", "a\0b", "x" * 300])
def test_file_names_never_leave_their_folder(name: str, tmp_path: Path) -> None:
    safe = safe_name(name)
    assert (tmp_path / f"{safe}.png").resolve().parent == tmp_path.resolve()
    assert not safe.startswith(".")
    assert 1 <= len(safe) <= 100


def test_usual_names_stay_as_they_are() -> None:
    assert safe_name("tok_depth@64") == "tok_depth@64"
