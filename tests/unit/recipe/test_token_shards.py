from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fourm.data.aligned import AlignedShards
from fourm.data.decode import tokens
from fourm.data.index import keys_digest
from fourm.data.shards import read_source_facts, shard_is_complete, shard_path
from fourm.errors import DataError
from fourm.layouts import Continuous, Discrete, Grid
from fourm.machine import Part
from fourm.modality import Modality
from fourm.recipe.crop_shards import RawCrops
from fourm.recipe.tokenize import tokenize_shards

GREY = Modality("grey", Grid(2, 2, 4), Continuous(16), "grey", "gray", channels=1)


class Brightness:
    """A tokenizer whose ids are the rounded mean of each patch, modulo its vocabulary."""

    modality, grid, codebook = GREY, Grid(2, 2, 4), None

    def __init__(self, vocab_size: int = 100, hash: str = "abc") -> None:
        self.vocab_size, self.hash, self.batches = vocab_size, hash, []

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(image))
        means = torch.nn.functional.avg_pool2d(image, 4)[:, 0]
        return means.round().long() % self.vocab_size


class Reader:
    """Samples whose patches have the mean `10 * number + crop`."""

    def __init__(self, sizes=(3, 2), crops: int = 2) -> None:
        self.shard_sizes, self.crops = sizes, crops
        self.read_shards: list[int] = []

    def keys(self, shard: int) -> list[str]:
        first = sum(self.shard_sizes[:shard])
        return [f"{number:04d}" for number in range(first, first + self.shard_sizes[shard])]

    def keys_digest(self, shard: int) -> str:
        return keys_digest(self.keys(shard))

    content = ""

    def content_digest(self, shard: int) -> str:
        return self.content and f"{self.content}-{shard}"

    def read(self, shard: int):
        self.read_shards.append(shard)
        for key in self.keys(shard):
            values = np.stack([np.full((1, 8, 8), 10 * int(key) + crop, np.float32) for crop in range(self.crops)])
            yield RawCrops(key, values)


def run(tokenizer, reader, out: Path, **options) -> int:
    return tokenize_shards(tokenizer, reader, out, "tok_grey", **{"batch_size": 4, **options})


def read_all(out: Path, source: str = "tok_grey") -> dict[str, np.ndarray]:
    modality = Modality("tok_grey", Grid(2, 2, 4), Discrete(10**6), "tok_grey", "tokens")
    data = AlignedShards(out, [source])
    return {data.key(n): tokens(data.read(n)[source], modality) for n in range(len(data))}


def test_writes_one_row_of_ids_per_crop_under_the_same_keys(tmp_path):
    assert run(Brightness(), Reader(), tmp_path) == 5
    found = read_all(tmp_path)
    assert list(found) == ["0000", "0001", "0002", "0003", "0004"]
    assert found["0003"].tolist() == [[30] * 4, [31] * 4]


def test_notes_the_tokenizer_in_the_facts_of_the_source(tmp_path):
    run(Brightness(hash="0123"), Reader(), tmp_path, facts={"crop_settings": "c"})
    facts = read_source_facts(tmp_path, "tok_grey")
    assert facts == {
        "tokenizer_hash": "0123",
        "modality": "tok_grey",
        "raw_modality": "grey",
        "vocab_size": 100,
        "grid": [2, 2],
        "num_shards": 2,
        "crop_settings": "c",
    }


def test_batches_span_samples_and_never_exceed_their_size(tmp_path):
    tokenizer = Brightness()
    run(tokenizer, Reader(sizes=(5,), crops=3), tmp_path, batch_size=4)
    assert sum(tokenizer.batches) == 15
    assert max(tokenizer.batches) == 4


@pytest.mark.parametrize(("vocab_size", "dtype"), [(2**15, np.int16), (2**15 + 1, np.int32)])
def test_ids_take_two_bytes_where_they_fit(tmp_path, vocab_size, dtype):
    import io

    run(Brightness(vocab_size), Reader(), tmp_path)
    data = AlignedShards(tmp_path, ["tok_grey"])
    assert np.load(io.BytesIO(data.read(0)["tok_grey"])).dtype == dtype


def test_complete_shards_are_skipped_and_missing_ones_made(tmp_path):
    run(Brightness(), Reader(), tmp_path)
    before = shard_path(tmp_path, "tok_grey", 0).read_bytes()
    shard_path(tmp_path, "tok_grey", 1).unlink()
    reader = Reader()
    assert run(Brightness(), reader, tmp_path) == 2
    assert reader.read_shards == [1]
    assert shard_path(tmp_path, "tok_grey", 0).read_bytes() == before
    assert len(read_all(tmp_path)) == 5


def test_tokens_of_as_many_other_samples_are_made_again(tmp_path):
    class Others(Reader):
        def keys(self, shard: int) -> list[str]:
            return ["0003", "0007"] if shard == 1 else super().keys(shard)

    run(Brightness(), Others(), tmp_path)
    reader = Reader()
    assert run(Brightness(), reader, tmp_path) == 2
    assert reader.read_shards == [1]
    assert list(read_all(tmp_path)) == ["0000", "0001", "0002", "0003", "0004"]


def test_tokens_of_files_that_were_made_again_are_made_again(tmp_path):
    reader = Reader()
    reader.content = "old"
    run(Brightness(), reader, tmp_path)
    assert run(Brightness(), reader, tmp_path) == 0
    reader.content = "new"
    assert run(Brightness(), reader, tmp_path) == 5
    reader.content = ""  # shards of other tools, whose content is not known
    assert run(Brightness(), reader, tmp_path) == 0


def test_parts_share_the_shards(tmp_path):
    assert run(Brightness(), Reader((1, 2, 3)), tmp_path, part=Part(1, 2)) == 2
    assert not shard_is_complete(tmp_path, ["tok_grey"], 0)
    assert run(Brightness(), Reader((1, 2, 3)), tmp_path, part=Part(0, 2)) == 4
    assert len(read_all(tmp_path)) == 6


def test_tokens_of_another_tokenizer_are_not_mixed_in(tmp_path):
    run(Brightness(hash="one"), Reader(), tmp_path)
    with pytest.raises(DataError, match=r"tok_grey holds tokens of another tokenizer \(one, now two\)"):
        run(Brightness(hash="two"), Reader(), tmp_path)


def test_a_failing_sample_leaves_no_shard_behind(tmp_path):
    class Broken(Reader):
        def read(self, shard: int):
            for raw in super().read(shard):
                yield raw._replace(crops=raw.crops * np.nan) if raw.key == "0004" else raw

    with pytest.raises(DataError, match="'0004' of 'grey' holds values that are not finite"):
        run(Brightness(), Broken(), tmp_path)
    assert shard_is_complete(tmp_path, ["tok_grey"], 0)
    assert not shard_path(tmp_path, "tok_grey", 1).exists()


def test_samples_of_another_size_are_refused(tmp_path):
    class Small(Reader):
        def read(self, shard: int):
            for raw in super().read(shard):
                yield raw._replace(crops=raw.crops[..., :4])

    with pytest.raises(DataError, match=r"'0000' has crops of shape \(1, 8, 4\).*reads \(1, 8, 8\)"):
        run(Brightness(), Small(), tmp_path)


def test_ids_outside_the_vocabulary_are_refused(tmp_path):
    class Wild(Brightness):
        def encode(self, image: torch.Tensor) -> torch.Tensor:
            return super().encode(image) + 1000

    with pytest.raises(DataError, match="gave id 1011, outside its vocabulary of 100"):
        run(Wild(), Reader(sizes=(2,)), tmp_path)
