import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm.errors import ConfigError, DataError
from fourm.generate.inputs import give, network_input, sequence_ids
from fourm.generate.reading import parse_given, read_bytes, read_given
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality, ModalitySet
from fourm.tokenizers.text import train_wordpiece
from tests.unit.generate.toy import LEVELS, ToyBundle, build_model, image, tokens
from tests.unit.generate.toy import text as text_modality

END, S1 = 3, 5


def save(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_a_photograph_of_any_size_is_cropped_to_its_centre_and_resized(bundle: ToyBundle, tmp_path: Path) -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = 255
    given = read_given(bundle, "rgb", str(save(tmp_path / "photo.png", pixels)))
    assert given.key == "rgb@16"
    torch.testing.assert_close(given.facts["values"], torch.ones(1, 3, 16, 16))
    assert given.facts["positions"].tolist() == [list(range(16))]


def test_a_photograph_is_turned_as_the_camera_was_held(bundle: ToyBundle, tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    given = read_given(bundle, "rgb", str(save(tmp_path / "photo.jpg", pixels, exif=exif, quality=100)))
    rows = given.facts["values"][0].mean((0, 2))
    assert rows[0] < -0.9
    assert rows[-1] > 0.9


def test_what_the_model_reads_as_tokens_goes_through_its_tokenizer(bundle: ToyBundle, tmp_path: Path) -> None:
    metres = np.full((16, 16), 65535 // 2, np.uint16)
    given = read_given(bundle, "depth", str(save(tmp_path / "d.png", metres)))
    assert given.key == "tok_depth@16"
    assert given.facts["ids"].tolist() == [[7] * 16]
    assert given.shown.name == "depth@16"
    torch.testing.assert_close(given.pictures[0], torch.full((1, 16, 16), 8.0), atol=1e-3, rtol=0)


def test_ids_come_as_an_array_with_gaps(bundle: ToyBundle, tmp_path: Path) -> None:
    ids = np.arange(16, dtype=np.int32)
    ids[4:] = -1
    np.save(tmp_path / "ids.npy", ids)
    given = read_given(bundle, "tok_depth", str(tmp_path / "ids.npy"))
    assert given.facts["positions"].tolist() == [[0, 1, 2, 3] + [-1] * 12]


def test_label_maps_are_resized_to_their_nearest_label(bundle: ToyBundle) -> None:
    labels = torch.tensor([[0, 15], [15, 0]]).repeat_interleave(5, 0).repeat_interleave(5, 1)[None]
    values = network_input(labels, bundle.tokenizers["tok_semseg@16"].modality, "given semseg")
    assert values.dtype == torch.int64
    assert set(values.unique().tolist()) == {0, 15}
    assert give(bundle, "semseg", labels).facts["ids"].tolist() == [[0, 0, 15, 15] * 2 + [15, 15, 0, 0] * 2]


def test_natural_units_are_normalised_as_the_modality_says(bundle: ToyBundle) -> None:
    given = give(bundle, "rgb", torch.full((2, 3, 16, 16), 0.75))
    torch.testing.assert_close(given.facts["values"], torch.full((2, 3, 16, 16), 0.5))


def test_text_is_given_with_its_end_token(bundle: ToyBundle) -> None:
    assert bundle.text is not None
    ids = give(bundle, "caption", ["a red sofa", "a bed"]).facts["ids"]
    assert [row[row >= 0][-1].item() for row in ids] == [END, END]
    assert bundle.text.decode(i for i in ids[0].tolist() if i >= 0) == "a red sofa"


def test_text_with_an_open_end_has_no_end_token(bundle: ToyBundle) -> None:
    assert sequence_ids(bundle.text, "a red [S_1]", bundle.model.modalities["caption"])[-1] == S1


def test_text_that_is_too_long_is_refused_but_that_of_a_data_set_is_cut_as_in_training(bundle: ToyBundle) -> None:
    long = "a red sofa " * 20
    with pytest.raises(DataError, match=r"given caption: 'a red sofa .*' has 61 tokens.* at most 12: give a shorter"):
        give(bundle, "caption", long)
    assert give(bundle, "caption", long, as_data=True).facts["ids"].shape == (1, 12)
    assert give(bundle, "caption", "a red sofa a red sofa a red [S_1] sofa a").facts["ids"].shape == (1, 12)


@pytest.mark.parametrize("text", ["", "  ", ["a bed", ""]])
def test_empty_text_is_refused(text: object, bundle: ToyBundle) -> None:
    with pytest.raises(DataError, match=r"given caption: the text is empty; leave caption out .* or write \[S_1\]"):
        give(bundle, "caption", text)


def test_no_boxes_are_a_value(bundle: ToyBundle) -> None:
    assert give(bundle, "det", []).facts["ids"].tolist() == [[END]]


@pytest.mark.parametrize("box", [[0, 0, 64, 64], [0, 0, 1], [0, 0, 1, float("nan")]])
def test_boxes_out_of_the_image_are_refused(box: list[float], bundle: ToyBundle) -> None:
    with pytest.raises(DataError, match="given det: .*shares of the image, 0 to 1"):
        give(bundle, "det", [{"boxes": box, "class_name": "bed"}])


def test_text_may_come_from_a_file(bundle: ToyBundle, tmp_path: Path) -> None:
    (tmp_path / "caption.json").write_text('["a red sofa", "another"]')
    assert read_given(bundle, "caption", str(tmp_path / "caption.json")).pictures == ["a red sofa"]
    assert read_given(bundle, "caption", "a red sofa").pictures == ["a red sofa"]


def test_a_text_longer_than_a_file_name_is_text(bundle: ToyBundle) -> None:
    with pytest.raises(DataError, match="at most 12: give a shorter text"):
        read_given(bundle, "caption", "a red sofa " * 500 + ".txt")


def test_a_text_with_spaces_may_end_like_a_file(bundle: ToyBundle) -> None:
    for text in ("a bed.txt", "bed.txt "):
        assert read_given(bundle, "caption", text).pictures == [text]


@pytest.mark.parametrize("shape", [(16,), (3, 16), (4, 4)])
def test_a_token_file_is_read_as_data_sets_hold_it(shape: tuple[int, ...], bundle: ToyBundle, tmp_path: Path) -> None:
    ids = np.resize(np.arange(16), shape)
    ids[-1] = np.where(ids[-1] == 15, -1, ids[-1]) if shape != (3, 16) else 9
    np.save(tmp_path / "ids.npy", ids)
    given = read_given(bundle, "tok_depth", str(tmp_path / "ids.npy"))
    assert given.facts["ids"].tolist() == [[*range(15), 15 if shape == (3, 16) else -1]]
    page = read_bytes(bundle, "tok_depth", (tmp_path / "ids.npy").read_bytes(), "given tok_depth")
    assert torch.equal(page.facts["ids"], given.facts["ids"])


def test_an_array_in_natural_units_is_read_from_its_content_too(bundle: ToyBundle) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.full((3, 16, 16), 0.75))
    values = read_bytes(bundle, "rgb", buffer.getvalue(), "given rgb").facts["values"]
    torch.testing.assert_close(values, torch.full((1, 3, 16, 16), 0.5))


@pytest.mark.parametrize("text", ['[{"boxes": [0, 0, 0.5, 1], "class_name": "bed"}]', "[]", "[S_1] v0=0"])
def test_a_list_of_boxes_is_json_and_a_gap_is_none(text: str, bundle: ToyBundle) -> None:
    assert bundle.text is not None
    ids = read_given(bundle, "det", text).facts["ids"][0].tolist()
    assert bundle.text.decode(ids) == {"[]": "", "[S_1] v0=0": "v0=0"}.get(text, "v0=0 v1=0 v2=24 v3=49 bed")


@pytest.mark.parametrize("kind", ["det", "caption"])
@pytest.mark.parametrize("deep", ["[" * 4000 + "]" * 4000, '{"a":' * 4000 + "1" + "}" * 4000])
def test_json_that_is_nested_too_deeply_is_refused(kind: str, deep: str, bundle: ToyBundle, tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text(deep)
    with pytest.raises(DataError, match=f"given .*{kind}|given .*deep.json"):
        read_given(bundle, kind, str(tmp_path / "deep.json"))
    value: list[Any] = []
    for _ in range(4000):
        value = [value]
    with pytest.raises(DataError, match=f"given {kind}"):
        give(bundle, kind, value)


@pytest.mark.parametrize("as_file", [True, False])
def test_boxes_come_as_json(as_file: bool, bundle: ToyBundle, tmp_path: Path) -> None:
    text = json.dumps({"instances": [{"boxes": [0, 0, 0.5, 1], "class_name": "bed", "score": 1.0}]})
    path = tmp_path / "boxes.json"
    path.write_text(text)
    ids = read_given(bundle, "det", str(path) if as_file else text).facts["ids"][0].tolist()
    assert bundle.text is not None
    assert bundle.text.decode(ids) == "v0=0 v1=0 v2=24 v3=49 bed"


def test_boxes_of_one_sample_and_of_several(bundle: ToyBundle) -> None:
    box = {"boxes": [0, 0, 0.5, 1], "class_name": "bed"}
    assert give(bundle, "det", [box, box]).num_samples == 1
    assert give(bundle, "det", [[box], [], [box]]).num_samples == 3


STRUCTURED = {
    "metadata": ({"entropy": 5.2, "n_humans": 3}, "v1=5 v0=3 v1=13 v0=25"),
    "palette": ([[1, 2, 255]], "v1=1 v0=1 v0=2 v0=255"),
    "poses": ([{"bbox": [0, 0, 1, 1]}], "human v0=0 v1=0 v2=999 v3=999"),
    "sam": ([{"point": [0.5, 0], "instances": []}], "point v0=0 v1=112 none"),
}


@pytest.fixture(scope="module")
def speaker() -> ToyBundle:
    """A model of every other kind of structured value."""
    words = ["human pose global camera shape", "point polygon none"] * 4
    tokenizer = train_wordpiece(words, 4400, num_sentinels=20)
    modalities = ModalitySet(text_modality(kind, tokenizer.vocab_size, kind) for kind in STRUCTURED)
    return ToyBundle(build_model(modalities), {}, tokenizer)


@pytest.mark.parametrize("kind", STRUCTURED)
@pytest.mark.parametrize("form", ["value", "json", "file", "words", "words in a file"])
def test_structured_values_come_as_json_or_as_their_words(
    kind: str, form: str, speaker: ToyBundle, tmp_path: Path
) -> None:
    value, words = STRUCTURED[kind]
    path = tmp_path / "value.json"
    path.write_text(json.dumps(value) if form == "file" else words)
    if form == "value":
        given = give(speaker, kind, value)
    else:
        given = read_given(speaker, kind, {"json": json.dumps(value), "words": words}.get(form, str(path)))
    assert speaker.text is not None
    assert speaker.text.decode(given.facts["ids"][0].tolist()) == words


@pytest.mark.parametrize("deep", ["[" * 4000 + "]" * 4000, '{"a":' * 4000 + "1" + "}" * 4000])
@pytest.mark.parametrize("kind", STRUCTURED)
def test_structured_values_that_are_nested_too_deeply_are_refused(kind: str, deep: str, speaker: ToyBundle) -> None:
    with pytest.raises(DataError, match="given "):
        read_given(speaker, kind, deep)


def test_palettes_of_several_sizes_give_the_finest(speaker: ToyBundle, tmp_path: Path) -> None:
    text = '{"1": [[9, 9, 9]], "2": [[1, 2, 255], [4, 5, 6]]}'
    (tmp_path / "palette.json").write_text(text)
    expected = give(speaker, "palette", [[1, 2, 255], [4, 5, 6]]).facts["ids"]
    for given in (text, f"[{text}]", str(tmp_path / "palette.json")):
        assert torch.equal(read_given(speaker, "palette", given).facts["ids"], expected)


@pytest.mark.parametrize(("name", "value"), [("palette", {"1": [[1, 2, 3]]}), ("poses", {"a": 1}), ("sam", {})])
def test_a_mapping_that_is_no_value_is_refused(name: str, value: dict[str, Any], speaker: ToyBundle) -> None:
    with pytest.raises(DataError, match=f"given {name}: .* is not a value of '{name}'"):
        give(speaker, name, value)


def test_a_mapping_of_something_else_is_no_tensors_of_a_model(bundle: ToyBundle) -> None:
    with pytest.raises(DataError, match="given depth: .* is no tensor"):
        give(bundle, "depth", {"1": [1, 2, 3]})


@pytest.mark.parametrize("kind", STRUCTURED)
def test_structured_values_of_several_samples(kind: str, speaker: ToyBundle) -> None:
    value, words = STRUCTURED[kind]
    assert give(speaker, kind, [value, words, value]).facts["ids"].unique(dim=0).shape[0] == 1


@pytest.mark.parametrize(("kind", "text"), [("metadata", '{"entrpy": 1}'), ("poses", '[{"boxes": 1}]'), ("sam", "[{")])
def test_other_values_are_told_by_name(kind: str, text: str, speaker: ToyBundle) -> None:
    with pytest.raises(DataError, match=r"given .*(entrpy|expected)"):
        read_given(speaker, kind, text)


def test_tensors_of_the_model_pass_as_they_are(bundle: ToyBundle) -> None:
    facts = {"ids": torch.tensor([[1, 2]]), "positions": torch.tensor([[0, 5]])}
    assert give(bundle, "depth", facts).facts == facts


def test_a_label_names_a_further_value(bundle: ToyBundle) -> None:
    assert give(bundle, "caption#not", "a lamp").key == "caption#not"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rgb", "missing.png", "given rgb: there is no file 'missing.png'"),
        ("rgb", "broken.png", "broken.png: cannot read it as rgb .*not an image, or it is damaged"),
        ("depth", "photo.png", "photo.png: cannot read it as depth .*16-bit"),
        ("tok_depth", "photo.png", "stands for token ids"),
        ("tok_depth", "broken.npy", "'tok_depth' stands for token ids, a .npy file"),
        ("tok_depth", "short.npy", "3 tokens per crop, but the grid of 4 x 4 has 16"),
        ("rgb", "x" * 300 + ".png", "given rgb: there is no file 'xxx"),
        ("caption", "missing.txt", "given caption: there is no file 'missing.txt'. .*write a space behind it"),
        ("caption", "x" * 300 + ".txt", "given caption: there is no file 'xxx"),
        ("det", "missing.json", "given det: there is no file 'missing.json'"),
        ("det", "missing.json.gz", "given det: there is no file 'missing.json.gz'"),
        ("rgb", "short.npy", r"shape \(1, 3\) for 'rgb@16'; expected \(samples, 3, height, width\)"),
        ("rgb", "nan.npy", "nan.npy is not a .npy array of numbers: values that are not finite"),
        ("det", "broken.json", "broken.json: cannot read it as det"),
    ],
)
def test_bad_files_are_named(name: str, text: str, message: str, bundle: ToyBundle, tmp_path: Path) -> None:
    save(tmp_path / "photo.png", np.zeros((8, 8, 3), np.uint8))
    np.save(tmp_path / "short.npy", np.zeros(3, np.int64))
    np.save(tmp_path / "nan.npy", np.full((3, 8, 8), np.nan))
    for broken in ("broken.png", "broken.npy", "broken.json"):
        (tmp_path / broken).write_bytes(b"no such thing")
    path = tmp_path / text
    with pytest.raises(DataError, match=message):
        read_given(bundle, name, str(path) if path in tmp_path.iterdir() else text)


def test_pickled_arrays_are_refused(bundle: ToyBundle, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    (tmp_path / "evil.npy").write_bytes(buffer.getvalue())
    with pytest.raises(DataError, match="is not a .npy array"):
        read_given(bundle, "tok_depth", str(tmp_path / "evil.npy"))


def test_a_number_of_channels_that_does_not_fit_is_refused(bundle: ToyBundle) -> None:
    with pytest.raises(DataError, match=r"shape \(1, 1, 8, 8\) for 'rgb@16'"):
        give(bundle, "rgb", torch.zeros(1, 1, 8, 8))


def test_values_that_are_not_finite_are_refused(bundle: ToyBundle) -> None:
    with pytest.raises(DataError, match="given rgb: values that are not finite"):
        give(bundle, "rgb", torch.full((1, 3, 8, 8), torch.inf))


def test_something_the_model_cannot_read_is_refused(bundle: ToyBundle) -> None:
    with pytest.raises(ConfigError, match="cannot read 'sound'. It can read: rgb@16"):
        give(bundle, "sound", torch.zeros(1))


def test_text_without_a_text_tokenizer_is_refused(bundle: ToyBundle) -> None:
    with pytest.raises(ConfigError, match="came without a text tokenizer"):
        give(ToyBundle(bundle.model, bundle.tokenizers), "caption", "a bed")


def test_arguments_are_names_and_values() -> None:
    assert parse_given(["rgb=a=b.png", " caption = x"]) == {"rgb": "a=b.png", "caption": " x"}
    with pytest.raises(ConfigError, match="not of the form NAME=VALUE"):
        parse_given(["photo.png"])
    with pytest.raises(ConfigError, match="--given caption comes twice"):
        parse_given(["caption=a", "caption=b"])


def test_void_pixels_of_a_label_map_are_not_given() -> None:
    from fourm.layouts import Discrete, Grid
    from fourm.modality import Modality, ModalitySet
    from tests.unit.generate.toy import build_model, tokens

    labels = Modality("semseg@4", Grid(4, 4), Discrete(LEVELS), source="semseg", decode="labels", direction="input")
    model = build_model(ModalitySet([labels, tokens("tok_depth@16", "depth@16")]))
    value = torch.zeros(1, 4, 4, dtype=torch.int64)
    value[0, 0, 1] = -1
    facts = give(ToyBundle(model), "semseg", value).facts
    assert facts["positions"][0, :3].tolist() == [0, -1, 2]


def test_depth_standardised_per_image_is_standardised_per_image() -> None:
    raw = image("depth@16", "depth16", normalization="standardize", value_range=None)
    values = network_input(torch.rand(2, 1, 16, 16) * torch.tensor([1.0, 9.0]).view(2, 1, 1, 1), raw, "given depth")
    middle = values.flatten(1).sort(1).values[:, 26:-26]
    torch.testing.assert_close(middle.mean(1), torch.zeros(2), atol=0.05, rtol=0)


VECTOR = Modality("gyro", Grid(1, 1), Continuous(3), "gyro", "features", channels=3, direction="input")


@pytest.fixture
def with_vector() -> ToyBundle:
    return ToyBundle(build_model(ModalitySet([VECTOR, tokens("tok_depth@16", "depth@16")])))


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3), (4, 3)])
def test_a_feature_vector_comes_from_the_kind_of_file_it_was_trained_on(
    shape: tuple[int, ...], with_vector: ToyBundle, tmp_path: Path
) -> None:
    values = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    np.save(tmp_path / "v.npy", values)
    given = read_given(with_vector, "gyro", str(tmp_path / "v.npy"))
    assert given.facts["values"].flatten().tolist() == [0, 1, 2]  # of several crops, the centre
    assert given.facts["values"].shape == (1, 3, 1, 1)


def test_feature_vectors_are_given_with_or_without_their_place(with_vector: ToyBundle) -> None:
    vectors = torch.rand(2, 3)
    assert torch.equal(give(with_vector, "gyro", vectors).facts["values"][..., 0, 0], vectors)
    assert torch.equal(give(with_vector, "gyro", vectors[..., None, None]).facts["values"][..., 0, 0], vectors)
    with pytest.raises(
        DataError, match=r"given gyro: a value of shape \(2, 4\) for 'gyro'; expected \(samples, 3, 1, 1\)"
    ):
        give(with_vector, "gyro", torch.rand(2, 4))


def test_a_damaged_feature_file_is_named(with_vector: ToyBundle, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([0, np.nan, 0]))
    with pytest.raises(DataError, match=r"given gyro: .*v\.npy: cannot read it as gyro \('features'\): .*not finite"):
        read_given(with_vector, "gyro", str(tmp_path / "v.npy"))
