from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm.errors import ConfigError, DataError
from fourm.generate.answer import any_to_any
from fourm.generate.natural import check_gaps, held, join, take, take_bytes, take_text
from fourm.generate.plan import Step
from tests.unit.generate.toy import ToyBundle

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
BOXES = [{"boxes": [0, 0, 0.5, 1], "class_name": "bed"}, {"boxes": [0.5, 0, 1, 1], "class_name": "sofa"}]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


FORMS: dict[str, Any] = {
    "path": lambda photo: photo,
    "string": lambda photo: str(photo),
    "picture": lambda photo: Image.open(photo),
    "bytes": lambda photo: PIXELS,
    "bytes with samples": lambda photo: PIXELS[None],
    "floats": lambda photo: torch.from_numpy(PIXELS / np.float32(255)).movedim(-1, 0),
    "numpy floats": lambda photo: (PIXELS / np.float32(255)).transpose(2, 0, 1)[None],
    "list": lambda photo: [photo],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_photograph_is_the_same_in_every_form(form: str, bundle: ToyBundle, photo: Path) -> None:
    expected = (PIXELS / np.float32(255) * 2 - 1).transpose(2, 0, 1)[None]
    values = take(bundle, "rgb", FORMS[form](photo)).facts["values"]
    np.testing.assert_allclose(values.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "YCbCr", "HSV", "LAB", "P", "RGBX"])
def test_pictures_of_every_mode_are_photographs(mode: str, bundle: ToyBundle) -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert(mode)
    values = take(bundle, "rgb", red).facts["values"]
    torch.testing.assert_close(values[0, :, 8, 8], torch.tensor([1.0, -1.0, -1.0]), atol=0.05, rtol=0)
    assert take(bundle, "rgb", red, left_half()).num_samples == 1


def test_pictures_without_colours_are_refused(bundle: ToyBundle) -> None:
    for known in (None, left_half()):
        with pytest.raises(DataError, match="given rgb: a picture of mode F; expected RGB or grey"):
            take(bundle, "rgb", Image.new("F", (16, 16)), known)
    with pytest.raises(DataError, match="known rgb: a mask of mode LAB; expected a grey image"):
        take(bundle, "rgb", PIXELS, Image.new("LAB", (16, 16)))


def test_a_printer_s_photograph_is_turned_as_the_camera_was_held(bundle: ToyBundle, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(PIXELS).convert("CMYK").save(tmp_path / "photo.jpg", exif=exif)
    assert take(bundle, "rgb", tmp_path / "photo.jpg").num_samples == 1


def test_a_list_of_pictures_is_one_per_sample(bundle: ToyBundle, photo: Path) -> None:
    given = take(bundle, "rgb", [photo, Image.fromarray(255 - PIXELS)])
    assert given.num_samples == len(given.pictures) == 2
    torch.testing.assert_close(given.facts["values"][1], -given.facts["values"][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(16,), (4, 4), (1, 16), (1, 4, 4)])
def test_ids_come_with_or_without_the_axis_of_samples(shape: tuple[int, ...], bundle: ToyBundle) -> None:
    ids = torch.arange(16).view(shape)
    assert take(bundle, "tok_depth", ids).facts["ids"].tolist() == [list(range(16))]


def test_maps_come_with_or_without_the_axis_of_samples(bundle: ToyBundle) -> None:
    labels = np.full((16, 16), 3)
    assert take(bundle, "semseg", labels).facts["ids"].tolist() == [[3] * 16]
    assert take(bundle, "depth", np.full((16, 16), 8.0)).num_samples == 1


def test_sixteen_bit_pictures_are_depth(bundle: ToyBundle) -> None:
    metres = Image.fromarray(np.full((16, 16), 65535, np.uint16))
    assert take(bundle, "depth", metres).facts["ids"].tolist() == [[15] * 16]


def test_strings_of_texts_never_open_files(bundle: ToyBundle, tmp_path: Path) -> None:
    (tmp_path / "caption.txt").write_text("a red sofa")
    with pytest.raises(DataError, match="takes at most 12"):
        take(bundle, "caption", str(tmp_path / "caption.txt") + " a red sofa" * 4)
    assert take(bundle, "caption", tmp_path / "caption.txt").pictures == ["a red sofa"]


def test_samples_of_several_lengths_join(bundle: ToyBundle) -> None:
    joined = join([take(bundle, "caption", "a bed"), take(bundle, "caption", "a red sofa")])
    assert joined.facts["ids"].shape[0] == 2
    assert joined.facts["ids"][0, -1] == -1
    assert joined.pictures == ["a bed", "a red sofa"]


def left_half(side: int = 16) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[:, : side // 2] = True
    return mask


def test_a_mask_gives_the_patches_that_are_wholly_known(bundle: ToyBundle, photo: Path) -> None:
    given = take(bundle, "rgb", photo, left_half())
    shown = given.facts["positions"].view(4, 4) >= 0
    assert shown.tolist() == [[True, True, False, False]] * 4
    mask = left_half()
    mask[5, 5] = False
    shown = take(bundle, "rgb", photo, mask).facts["positions"].view(4, 4) >= 0
    assert (
        shown.tolist() == [[True, True, False, False], [True, False, False, False]] + [[True, True, False, False]] * 2
    )


def test_several_photographs_have_one_mask_or_one_each(bundle: ToyBundle, photo: Path, tmp_path: Path) -> None:
    Image.fromarray(left_half()).save(tmp_path / "mask.png")
    left, right = left_half(), ~left_half()
    photos = [photo, Image.fromarray(255 - PIXELS)]
    singles = [take(bundle, "rgb", one, mask).facts for one, mask in zip(photos, (left, right), strict=True)]
    for masks in ([left, right], np.stack([left, right]), [tmp_path / "mask.png", Image.fromarray(right)]):
        facts = take(bundle, "rgb", photos, masks).facts
        for key in facts:
            assert torch.equal(facts[key], torch.cat([one[key] for one in singles]))
    for mask in (left, left[None], [left], str(tmp_path / "mask.png")):
        shown = take(bundle, "rgb", [str(photo), str(photo)], mask).facts["positions"] >= 0
        assert shown.view(2, 4, 4).tolist() == [[[True, True, False, False]] * 4] * 2
    painted = any_to_any(bundle, {"rgb": photos}, ["rgb"], known={"rgb": left})["rgb"]
    assert len(painted) == 2


def test_what_is_not_known_is_not_seen(bundle: ToyBundle) -> None:
    """Neither as pixels nor through the tokens of the known part."""
    other = PIXELS.copy()
    other[:, 8:] = 7
    for name in ("rgb", "tok_rgb@16"):
        a, b = (take(bundle, name, pixels, left_half()).facts for pixels in (PIXELS, other))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_mask_follows_its_photograph_through_crop_and_resize(bundle: ToyBundle) -> None:
    wide = np.zeros((32, 64, 3), np.uint8)
    mask = np.zeros((32, 64), np.uint8)
    mask[:, 32:] = 255
    given = take(bundle, "rgb", Image.fromarray(wide), Image.fromarray(mask))
    assert (given.facts["positions"].view(4, 4) >= 0).tolist() == [[False, False, True, True]] * 4


def test_known_tokens_of_a_photograph_stay_when_the_rest_is_painted(bundle: ToyBundle) -> None:
    tokenizer = bundle.tokenizers["tok_rgb@16"]
    flat = np.repeat(np.repeat(np.arange(16, dtype=np.uint8).reshape(4, 4) * 17, 4, 0), 4, 1)[..., None].repeat(3, 2)
    painted = any_to_any(bundle, {"rgb": flat}, ["rgb"], known={"rgb": left_half()})["rgb"]
    ids = tokenizer.encode(painted * 2 - 1)[0]
    assert ids[:, :2].tolist() == [[0, 1], [4, 5], [8, 9], [12, 13]]
    assert held(bundle, ["rgb"], ["tok_rgb@16", "tok_depth@16"]) == {"tok_rgb@16": "rgb"}


def test_an_intermediate_of_which_a_part_is_known_is_filled(bundle: ToyBundle) -> None:
    depth = torch.full((1, 1, 16, 16), 7.5)
    filled = any_to_any(bundle, {"depth": depth}, ["depth"], known={"depth": left_half()})["depth"]
    torch.testing.assert_close(filled[..., :8], torch.full((1, 1, 16, 8), 7 / 15 * 16))


def test_more_boxes_may_be_before_between_and_behind_those_given(bundle: ToyBundle) -> None:
    assert bundle.text is not None
    ids = take(bundle, "det", BOXES[:1], "some").facts["ids"][0].tolist()
    special = bundle.text.special
    assert [ids[0], ids[-1]] == [special.sentinel(1), special.sentinel(2)]
    given = take(bundle, "caption", "a bed", "some").facts["ids"][0].tolist()
    assert [given[0], given[-1]] == [special.sentinel(1), special.sentinel(2)]


def test_given_boxes_are_among_those_generated(bundle: ToyBundle) -> None:
    box = {"boxes": [0, 0, 0.5, 1], "class_name": "bed"}
    found = any_to_any(bundle, {"det": [box]}, ["det"], known={"det": "some"}, seed=3)["det"][0]
    assert any(one["class_name"] == "bed" and abs(one["boxes"][2] - 24 / 49) < 1e-6 for one in found)


@pytest.mark.parametrize(
    ("given", "to", "message"),
    [
        ({"caption": "a bed"}, "caption", r"'caption' is both given whole and to be generated.*\[S_1\]"),
        ({"det": BOXES[:1]}, "det", "'det' is both given whole .* or --known det=some"),
        ({"depth": torch.ones(1, 1, 16, 16)}, "depth", "'depth' is both given whole .*--known depth=mask.png"),
        ({"tok_depth": torch.zeros(16, dtype=torch.int64)}, "depth", "'tok_depth' is both given whole"),
    ],
)
def test_a_target_that_is_given_whole_is_refused(given: Any, to: str, message: str, bundle: ToyBundle) -> None:
    with pytest.raises(ConfigError, match=message):
        any_to_any(bundle, given, to)


@pytest.mark.parametrize("gaps", ["[S_2] a bed", "[S_1] a [S_1]", "[S_2] a [S_1]", "[S_0] a bed", "[S_1] a [S_3]"])
def test_gaps_of_a_text_are_numbered_in_their_order(gaps: str, bundle: ToyBundle) -> None:
    with pytest.raises(DataError, match=r"given caption: its gaps are \[S_\d\].*; expected \[S_1\].* in this order"):
        any_to_any(bundle, {"caption": gaps}, "caption")
    with pytest.raises(DataError, match="its gaps are"):
        any_to_any(bundle, {"caption": ["[S_1] a bed [S_2]", gaps]}, "caption")
    any_to_any(bundle, {"caption": gaps}, "depth")  # where it is no target, they are what they are


def test_ids_of_texts_are_looked_at_without_a_text_tokenizer(bundle: ToyBundle) -> None:
    mute = ToyBundle(bundle.model, bundle.tokenizers)
    with pytest.raises(ConfigError, match="'caption' is both given whole"):
        any_to_any(mute, {"caption": torch.tensor([[250, 3]])}, "caption")
    ids = any_to_any(mute, {"caption": torch.tensor([[250, 5]])}, "caption")["caption"][0]
    assert 250 in ids.tolist()


def test_a_target_with_gaps_in_every_sample_is_no_contradiction(bundle: ToyBundle) -> None:
    ids = torch.zeros(2, 16, dtype=torch.int64)
    ids[:, 3] = -1
    check_gaps([take(bundle, "tok_depth", ids)], [Step("tok_depth@16")], bundle)
    ids[1, 3] = 0
    with pytest.raises(ConfigError, match="given whole"):
        check_gaps([take(bundle, "tok_depth", ids)], [Step("tok_depth@16")], bundle)


@pytest.mark.parametrize(
    ("name", "value", "known", "error", "message"),
    [
        ("rgb", PIXELS, np.ones((8, 8), bool), DataError, "a mask of 8 x 8 pixels for a value of 16 x 16"),
        ("rgb", PIXELS, np.zeros((16, 16), bool), DataError, "shows no whole patch of 4 x 4 pixels"),
        ("rgb", PIXELS, np.ones((16, 16)), DataError, "expected .* of True and False"),
        ("rgb", PIXELS, np.ones((3, 16, 16), bool), DataError, "3 masks for 1 samples"),
        ("rgb", [Image.fromarray(PIXELS)] * 2, [np.ones((16, 16), bool)] * 3, DataError, "3 masks for 2 samples"),
        ("rgb", PIXELS, ["a.png"], DataError, "is no mask; expected a grey image"),
        ("rgb", PIXELS, "x" * 300, DataError, "as a mask: there is no such file"),
        ("rgb", "x" * 300, np.ones((16, 16), bool), DataError, "cannot read xxx"),
        ("rgb", PIXELS, "nowhere.png", DataError, "nowhere.png as a mask: there is no such file"),
        ("rgb", "nowhere.png", np.ones((16, 16), bool), DataError, "cannot read nowhere.png: No such file"),
        ("caption", "a bed", "mask.png", ConfigError, "expected the word 'some'"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    name: str, value: Any, known: Any, error: type[Exception], message: str, bundle: ToyBundle
) -> None:
    with pytest.raises(error, match=message):
        take(bundle, name, value, known)


def test_a_mask_and_its_image_may_be_the_contents_of_files(bundle: ToyBundle, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    Image.fromarray(left_half()).save(tmp_path / "mask.png")
    data = [(tmp_path / name).read_bytes() for name in ("photo.png", "mask.png")]
    for name in ("rgb", "tok_rgb@16"):
        one, other = take_bytes(bundle, name, *data), take(bundle, name, PIXELS, left_half())
        torch.testing.assert_close(one.facts, other.facts)
    with pytest.raises(DataError, match="known rgb: cannot read it as a mask"):
        take_bytes(bundle, "rgb", data[0], b"no picture")


def test_a_damaged_mask_is_named(bundle: ToyBundle, tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"mask.png as a mask"):
        take(bundle, "rgb", PIXELS, tmp_path / "mask.png")


def test_a_mask_of_what_is_not_given_is_refused(bundle: ToyBundle) -> None:
    with pytest.raises(ConfigError, match="known depth: .* none is given; given are: rgb"):
        any_to_any(bundle, {"rgb": PIXELS}, ["caption"], known={"depth": left_half()})


def test_on_the_command_line_boxes_come_from_files(bundle: ToyBundle, tmp_path: Path) -> None:
    path = tmp_path / "boxes.json"
    path.write_text('{"instances": [{"boxes": [0, 0, 0.5, 1], "class_name": "bed", "score": 1}]}')
    a, b = take_text(bundle, "det", str(path), "some"), take(bundle, "det", BOXES[:1], "some")
    assert torch.equal(a.facts["ids"], b.facts["ids"])
