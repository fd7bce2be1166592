from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fourm.catalog import FASHION_CLASSES
from fourm.data.source import open_source
from fourm.errors import DataError
from fourm.prepare import fashion
from fourm.prepare.fashion import captions, edges, find_files, prepare_fashion, read_idx, silhouette
from fourm.rng import generator
from fourm.words import class_in


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    folder = tmp_path / "idx"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("test", 3)):
        images, labels = fashion._FILES[split]
        pixels = rng.integers(0, 256, (count, 28, 28), np.uint8)
        (folder / f"{images}.gz").write_bytes(
            gzip.compress(np.array([2051, count, 28, 28], ">i4").tobytes() + pixels.tobytes())
        )
        header = np.array([2049, count], ">i4").tobytes()
        (folder / f"{labels}.gz").write_bytes(gzip.compress(header + bytes(n % 10 for n in range(count))))
    return folder


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_writes_aligned_shards_of_every_source(idx: Path, tmp_path: Path) -> None:
    prepare_fashion(tmp_path / "out", folder=idx, shard_size=3)
    data = open_source(str(tmp_path / "out" / "train"), fashion.SOURCES)
    assert len(data) == 7
    sample = data.read(4)
    image = np.asarray(Image.open(io.BytesIO(sample["image"])))
    assert (image == read_idx(idx, "train-images-idx3-ubyte", 3)[4]).all()
    assert json.loads(sample["label"]) == 4
    texts = json.loads(sample["caption"])
    assert len(set(texts)) == fashion.NUM_CAPTIONS
    assert {class_in(text) for text in texts} == {FASHION_CLASSES[4]}


def test_bytes_do_not_depend_on_the_number_of_workers(idx: Path, tmp_path: Path) -> None:
    prepare_fashion(tmp_path / "one", folder=idx, shard_size=3)
    prepare_fashion(tmp_path / "two", folder=idx, shard_size=3, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_complete_shards_are_kept_and_missing_ones_written_again(idx: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_fashion(out, folder=idx, shard_size=3)
    before = files(out)
    kept = (out / "train/image/shard-00000.tar").stat().st_mtime_ns
    (out / "train/edges/shard-00001.index.json").unlink()
    prepare_fashion(out, folder=idx, shard_size=3)
    assert files(out) == before
    assert (out / "train/image/shard-00000.tar").stat().st_mtime_ns == kept


def test_what_an_interruption_leaves_is_not_taken_for_the_whole(
    idx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fashion._write_shard

    def interrupted(job: fashion._Shard, on_photo: Callable[[], None]) -> None:
        if job.shard == 1:
            raise KeyboardInterrupt
        real(job, on_photo)

    monkeypatch.setattr(fashion, "_write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_fashion(tmp_path / "out", folder=idx, shard_size=3)
    with pytest.raises(DataError, match="2 of 3 shards.*run the same command again"):
        open_source(str(tmp_path / "out" / "train"), ["image"])


def test_only_the_first_photographs_on_request(idx: Path, tmp_path: Path) -> None:
    prepare_fashion(tmp_path / "out", folder=idx, num_train=2, num_test=1)
    assert len(open_source(str(tmp_path / "out/train"), fashion.SOURCES)) == 2
    assert len(open_source(str(tmp_path / "out/test"), fashion.SOURCES)) == 1


def test_shards_of_other_options_are_refused(idx: Path, tmp_path: Path) -> None:
    prepare_fashion(tmp_path / "out", folder=idx, shard_size=3)
    with pytest.raises(DataError, match="Remove it, or choose another folder"):
        prepare_fashion(tmp_path / "out", folder=idx, shard_size=3, num_train=3)


def test_shards_of_another_size_are_written_again(idx: Path, tmp_path: Path) -> None:
    """The second of 3 + 2 photographs has as many as that of 2 + 2 + 1, but others."""
    prepare_fashion(tmp_path / "out", num_train=5, num_test=1, folder=idx, shard_size=3)
    prepare_fashion(tmp_path / "out", num_train=5, num_test=1, folder=idx, shard_size=2)
    prepare_fashion(tmp_path / "new", num_train=5, num_test=1, folder=idx, shard_size=2)
    assert files(tmp_path / "out") == files(tmp_path / "new")


def test_a_truncated_file_is_named(idx: Path, tmp_path: Path) -> None:
    path = idx / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz is truncated"):
        prepare_fashion(tmp_path / "out", folder=idx)
    assert not list(tmp_path.glob("out/**/*.tar"))


def test_without_files_and_network_both_remedies_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    def offline(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no route to host")

    monkeypatch.setattr(fashion, "FASHION_FOLDERS", (tmp_path / "none",))
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"no route to host.*apt-get install dataset-fashion-mnist.*network"):
        find_files(tmp_path / "download")


def test_a_silhouette_fills_holes_but_not_bays() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[5:20, 5:20] = 200
    image[10:12, 10:12] = 0  # a dark print
    image[15:20, 12:14] = 0  # between the legs
    mask = silhouette(image)
    expected = np.zeros((28, 28), np.uint8)
    expected[5:20, 5:20] = 255
    expected[15:20, 12:14] = 0
    assert (mask == expected).all()


def test_edges_outline_a_piece_that_touches_the_border() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[0:28, 8:20] = 200
    found = edges(image)
    assert set(np.unique(found)) == {0, 255}
    assert (found[0] > 0).any()
    assert not found[10:18, 12:16].any()


def test_captions_differ_between_photographs() -> None:
    assert captions(0, generator(0)) != captions(0, generator(1))
