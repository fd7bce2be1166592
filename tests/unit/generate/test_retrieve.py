import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.generate.retrieve import Index, build, query, vectors
from fourm.layouts import Continuous, Grid
from fourm.machine import Part
from fourm.modality import Modality, ModalitySet
from fourm.tokenizers.text import TextTokenizer
from tests.unit.generate.toy import LEVELS, Mosaic, ToyBundle, build_model, image, text, tokens

WHOLE = Part()


class Directions:
    """Ids as unit vectors of eight numbers on a 4 x 4 grid."""

    modality = Modality("clip@16", Grid(4, 4), Continuous(8), "clip", "features", channels=8, direction="input")
    vocab_size = LEVELS
    codebook = torch.nn.functional.normalize(torch.randn(LEVELS, 8, generator=torch.Generator().manual_seed(0)))

    def decode(self, ids: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        return self.decode_embeddings(self.codebook[ids])

    def decode_embeddings(self, codes: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        return codes.movedim(-1, 1)


@pytest.fixture(scope="module")
def seer(wordpiece: TextTokenizer) -> ToyBundle:
    modalities = ModalitySet(
        [
            image("rgb@16", "image", 3),
            tokens("tok_clip@16", "clip@16"),
            tokens("tok_depth@16", "depth@16"),
            text("caption", wordpiece.vocab_size),
        ]
    )
    tokenizers = {"tok_clip@16": Directions(), "tok_depth@16": Mosaic(image("depth@16", "depth16"))}
    return ToyBundle(build_model(modalities), tokenizers, wordpiece)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for n in range(7):
        pixels = np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{n}.png")
    return tmp_path / "photos"


def make(seer: ToyBundle, photos: Path, out: Path, **options: Any) -> Any:
    options = {"feature": "clip", "model": "toy", "device": "cpu", "part": WHOLE, **options}
    return build(seer, prompts=f"rgb={photos}", out=out, **options)


def test_a_photograph_finds_itself_first(seer: ToyBundle, photos: Path, tmp_path: Path) -> None:
    make(seer, photos, tmp_path / "index")
    for n in (0, 3, 6):
        hits = query(
            seer, Index(tmp_path / "index"), given=[f"rgb={photos / f'{n}.png'}"], out=tmp_path / "hits", top=3,
            device="cpu",
        )  # fmt: skip
        assert hits[0].key == str(n)
        assert hits[0].score == pytest.approx(1, abs=1e-4)
        assert hits[0].score > hits[1].score + 1e-3
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    report = json.loads((tmp_path / "hits" / "hits.json").read_text())
    assert [one["key"] for one in report] == [hit.key for hit in hits]
    assert report[0]["where"].endswith("6.png")
    with Image.open(tmp_path / "hits" / "hits.png") as picture:
        assert picture.width > 4 * 190


def test_any_modality_asks(seer: ToyBundle, photos: Path, tmp_path: Path) -> None:
    make(seer, photos, tmp_path / "index")
    index = Index(tmp_path / "index")
    told = query(seer, index, given=["caption=a red sofa"], out=tmp_path / "a", device="cpu", top=99)
    assert {hit.key for hit in told} == {str(n) for n in range(7)}


def test_an_index_is_asked_by_the_model_that_made_it_alone(seer: ToyBundle, photos: Path, tmp_path: Path) -> None:
    make(seer, photos, tmp_path / "index")
    trained = ToyBundle(build_model(seer.model.modalities, seed=1), seer.tokenizers, seer.text)
    with pytest.raises(DataError, match="the index was made by another model than that in toy: make it again"):
        query(trained, Index(tmp_path / "index"), given=["caption=a bed"], out=tmp_path / "a", device="cpu")
    with pytest.raises(ConfigError, match="weights was '[0-9a-f]+' and is"):
        make(trained, photos, tmp_path / "index")


def test_an_index_is_the_same_for_any_batch_and_number_of_processes(
    seer: ToyBundle, photos: Path, tmp_path: Path
) -> None:
    make(seer, photos, tmp_path / "whole", batch_size=3)
    for index in (2, 0, 1):
        make(seer, photos, tmp_path / "parts", part=Part(index, 3), batch_size=1)
    whole, parts = Index(tmp_path / "whole"), Index(tmp_path / "parts")
    order = np.argsort(parts.numbers)
    assert whole.numbers.tolist() == parts.numbers[order].tolist() == list(range(7))
    torch.testing.assert_close(whole.vectors, parts.vectors[order], atol=1e-5, rtol=0)


def test_the_nearest_by_cosine_and_of_equals_the_first(tmp_path: Path, seer: ToyBundle, photos: Path) -> None:
    make(seer, photos, tmp_path / "index")
    index = Index(tmp_path / "index")
    index.numbers = np.array([4, 2, 9])
    index.keys = np.array(["four", "two", "nine"])
    index.vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    assert index.nearest(torch.tensor([0.0, 2.0]), 2) == [("nine", pytest.approx(0.8)), ("two", 0.0)]
    assert [hit.key for hit in index.nearest(torch.tensor([3.0, 0.0]), 2)] == ["two", "four"]
    with pytest.raises(DataError, match="a vector of 3 numbers, and those of the index have 2"):
        index.nearest(torch.zeros(3), 1)


def test_a_photograph_in_the_place_of_another_one_is_not_taken_for_it(
    seer: ToyBundle, photos: Path, tmp_path: Path
) -> None:
    make(seer, photos, tmp_path / "index")
    asked = tmp_path / "asked.png"
    asked.write_bytes((photos / "3.png").read_bytes())
    (photos / "3.png").rename(photos / "33.png")
    ask: dict[str, Any] = {"given": [f"rgb={asked}"], "out": tmp_path / "hits", "device": "cpu"}
    with pytest.raises(DataError, match=r"no longer holds the prompt '3' \(1 of 7 .* make the index again"):
        query(seer, Index(tmp_path / "index"), **ask)
    with pytest.raises(ConfigError, match="keys was '[0-9a-f]+' and is"):  # nor are its shares mixed
        make(seer, photos, tmp_path / "index")


def test_hits_are_found_by_their_keys_wherever_they_are_now(seer: ToyBundle, photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").write_bytes(b"no picture")
    make(seer, photos, tmp_path / "index")
    (photos / "2.png").rename(photos / "9.png")  # all that come after it move up
    given = [f"rgb={photos / '6.png'}"]
    hits = query(seer, Index(tmp_path / "index"), given=given, out=tmp_path / "hits", top=1, device="cpu")
    assert [hit.key for hit in hits] == ["6"]
    assert json.loads((tmp_path / "hits" / "hits.json").read_text())[0]["where"].endswith("6.png")


def test_the_place_of_prompts_may_hold_an_equals_sign(
    seer: ToyBundle, photos: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    photos.rename(tmp_path / "size=16")
    make(seer, Path("size=16"), tmp_path / "index")
    monkeypatch.chdir("/")
    index = Index(tmp_path / "index")
    assert index.prompts == f"rgb={tmp_path / 'size=16'}"
    given = [f"rgb={tmp_path / 'size=16' / '4.png'}"]
    assert query(seer, index, given=given, out=tmp_path / "hits", top=1, device="cpu")[0].key == "4"


def test_a_map_of_features_is_the_mean_over_its_places() -> None:
    features = torch.zeros(1, 2, 1, 2)
    features[0, 0, 0, 0], features[0, 1, 0, 1] = 3.0, 4.0
    torch.testing.assert_close(vectors(features), torch.tensor([[0.6, 0.8]]))


def test_a_damaged_photograph_is_left_out_and_named(seer: ToyBundle, photos: Path, tmp_path: Path) -> None:
    (photos / "2.png").write_bytes(b"no picture")
    done = make(seer, photos, tmp_path / "index")
    assert [one["key"] for one in done.rejected] == ["2"]
    assert Index(tmp_path / "index").numbers.tolist() == [0, 1, 3, 4, 5, 6]


def test_a_share_that_is_there_is_not_made_again(seer: ToyBundle, photos: Path, tmp_path: Path) -> None:
    make(seer, photos, tmp_path / "index")
    stamp = (tmp_path / "index" / "vectors_00000.npz").stat().st_mtime_ns
    done = make(seer, photos, tmp_path / "index")
    assert (done.written, done.skipped) == (0, 7)
    assert (tmp_path / "index" / "vectors_00000.npz").stat().st_mtime_ns == stamp


def test_what_decodes_to_no_features_is_refused(seer: ToyBundle, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'tok_depth@16' does not decode to features; .* these do: tok_clip@16"):
        make(seer, photos, tmp_path / "index", feature="depth")
    with pytest.raises(ConfigError, match="cannot generate 'dinov2'"):
        make(seer, photos, tmp_path / "index", feature="dinov2")


def test_indices_that_are_missing_incomplete_damaged_or_old_are_named(
    seer: ToyBundle, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="is no index: .*Make one with"):
        Index(tmp_path / "nowhere")
    make(seer, photos, tmp_path / "parts", part=Part(1, 2))
    with pytest.raises(DataError, match=r"lacks vectors_00000.npz \(1 of 2 parts\)"):
        Index(tmp_path / "parts")
    with pytest.raises(ConfigError, match="parts was 2 and is 1"):
        make(seer, photos, tmp_path / "parts")
    make(seer, photos, tmp_path / "index")
    Image.new("RGB", (16, 16)).save(photos / "new.png")
    with pytest.raises(DataError, match="holds 8 prompts, and the index was made of 7: make it again"):
        query(seer, Index(tmp_path / "index"), given=["caption=a bed"], out=tmp_path / "hits", device="cpu")
    (tmp_path / "index" / "vectors_00000.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="vectors_00000.npz is damaged"):
        Index(tmp_path / "index")
