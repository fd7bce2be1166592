"""Data sets of documents of text and images: a row is a function of its number, and nothing leaves its folder."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from fourm import config as configs
from fourm.data.configs import DatasetConfig
from fourm.data.dataset import build_dataset
from fourm.data.interleaved_files import Lines, read_image
from fourm.data.loader import Loader
from fourm.data.mixture import Mixture
from fourm.errors import ConfigError, DataError
from fourm.layouts import Continuous, Discrete, Grid, Sequence, Slots
from fourm.modality import Modality, ModalitySet
from tests.interleaved import SPECIAL, Letters

TEXT = Modality("text", Sequence(64), Discrete(64), source="caption", decode="text", tokenizer="text")
IMAGE = Modality(
    "image", Grid(2, 2, 4), Continuous(48), source="rgb", decode="image", channels=3, value_range=(0, 1),
    normalization="half",
)  # fmt: skip
MODALITIES = ModalitySet([TEXT, IMAGE])


class Encoder:
    """What recipes make of a text tokenizer."""

    def __init__(self) -> None:
        self.tokenizer = Letters()


def png(colour: int) -> bytes:
    file = io.BytesIO()
    Picture.new("RGB", (8, 8), (colour, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_lines(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two files of pairs, whose images are as red as their number says."""
    for file in range(2):
        lines = []
        for n in range(file * 5, file * 5 + 5):
            (tmp_path / f"{n}.png").write_bytes(png(n))
            lines.append({"image": f"{n}.png", "caption": "w " * (n % 5 + 1)})
        write_lines(tmp_path / f"part-{file}.jsonl", *lines)
    return tmp_path


def dataset(path: Path, modalities: ModalitySet = MODALITIES, max_samples: int | None = None, **rules: Any) -> Any:
    data = {"path": str(path), "max_samples": max_samples, "packing": {"kind": "interleaved", **rules}}
    return build_dataset("docs", configs.build(DatasetConfig, data), modalities, {"text": Encoder()})  # type: ignore[dict-item]


def shown(row: Any) -> list[list[object]]:
    """Documents of a row: the red of an image, or words."""
    words = Letters()
    words.encode("w")
    return [
        [
            round((s.value[0, 0, 0] + 1) / 2 * 255)
            if s.modality == "image"
            else " ".join(words.words[i] for i in s.value)
            for s in document
        ]
        for document in row
    ]


def test_a_row_is_a_document_with_its_image_normalised(pairs: Path) -> None:
    rows = dataset(pairs, reader="pairs")
    assert (len(rows), rows.shard_sizes) == (10, [5, 5])
    (document,) = rows.sample(7, np.random.default_rng(0))
    assert [segment.modality for segment in document] == ["image", "text"]
    assert document[0].value.shape == (3, 8, 8)
    assert document[0].value.dtype == np.float32
    assert document[0].value[:, 0, 0] == pytest.approx([7 / 255 * 2 - 1, -1, -1])


def test_slots_are_filled_with_the_whole_image(pairs: Path) -> None:
    slots = replace(IMAGE, layout=Slots(3, 4, 6), content=Continuous(16))
    rows = dataset(pairs, ModalitySet([TEXT, slots]), reader="pairs", pack=True, num_tokens=8)
    assert rows.sample(0, np.random.default_rng(0))[0][0].value.shape == (3, 4, 6)
    assert len(rows) == 10  # 3 tokens and the words: two do not fit


def test_pairs_of_a_group_are_one_document(pairs: Path) -> None:
    rows = dataset(pairs, reader="pairs", group=4, bos="<s>", eos="</s>")
    assert rows.shard_sizes == [2, 2]
    assert shown(rows.sample(0, np.random.default_rng(0))) == [
        ["<s>", 0, "w </s>", 1, "w w </s>", 2, "w w w </s>", 3, "w w w w </s>"]
    ]
    assert shown(rows.sample(1, np.random.default_rng(0))) == [["<s>", 4, "w w w w w </s>"]]


def test_pairs_of_a_group_may_stand_apart(pairs: Path) -> None:
    """As in VILA's code, which makes a row of each of the four."""
    rules = {"reader": "pairs", "group": 4, "group_apart": True, "bos": "<s>", "eos": "</s>"}
    rows = dataset(pairs, **rules)
    assert rows.shard_sizes == [2, 2]
    assert shown(rows.sample(0, np.random.default_rng(0))) == [["<s>", n, f"{'w ' * (n + 1)}</s>"] for n in range(4)]
    short = dataset(pairs, num_tokens=3 * (2 + IMAGE.num_tokens) + 6, **rules)
    assert shown(short.sample(0, np.random.default_rng(0))) == [["<s>", n, f"{'w ' * (n + 1)}</s>"] for n in range(3)]


def test_packed_rows_hold_every_document_once(pairs: Path) -> None:
    rows = dataset(pairs, reader="pairs", pack=True, num_tokens=15, eos="</s>")
    documents = [d for n in range(len(rows)) for d in shown(rows.sample(n, np.random.default_rng(n)))]
    assert sorted(documents) == [[n, "w " * (n % 5 + 1) + "</s>"] for n in range(10)]
    assert len(rows) < 10


def test_what_is_kept_of_lengths_is_made_anew_for_other_rules(pairs: Path) -> None:
    assert len(dataset(pairs, reader="pairs", pack=True, num_tokens=10)) > len(
        dataset(pairs, reader="pairs", pack=True, num_tokens=30)
    )
    assert len(dataset(pairs, reader="pairs", pack=True, num_tokens=10)) == len(
        dataset(pairs, reader="pairs", pack=True, num_tokens=10)
    )


def test_what_is_kept_of_lengths_is_made_anew_for_a_file_that_was_edited(tmp_path: Path) -> None:
    write_lines(tmp_path / "d.jsonl", *({"text": "w"} for _ in range(6)))
    options: dict[str, Any] = {"reader": "text", "pack": True, "num_tokens": 6}
    assert len(dataset(tmp_path, ModalitySet([TEXT]), **options)) == 1
    write_lines(tmp_path / "d.jsonl", *({"text": "w w w w"} for _ in range(6)))
    assert len(dataset(tmp_path, ModalitySet([TEXT]), **options)) == 6


def test_a_document_that_a_rule_leaves_out_is_replaced_by_another(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(9))
    write_lines(tmp_path / "d.jsonl", {"parts": ["w"]}, {"parts": [{"image": "a.png"}, "w w"]})
    rows = dataset(tmp_path, min_images=1)
    assert shown(rows.sample(0, np.random.default_rng(0))) == [[9, "w w"]]
    with pytest.raises(DataError, match="the rules of packing left out 100 rows in a row"):
        dataset(tmp_path, min_images=2).sample(0, np.random.default_rng(0))


def test_documents_without_images_need_no_image_modality(tmp_path: Path) -> None:
    write_lines(tmp_path / "d.jsonl", {"text": "w w"})
    rows = dataset(tmp_path, ModalitySet([TEXT]), reader="text")
    assert shown(rows.sample(0, np.random.default_rng(0))) == [["w w"]]


def test_first_rows_alone(pairs: Path) -> None:
    assert dataset(pairs, reader="pairs", max_samples=7).shard_sizes == [5, 2]


def loader(rows: Any, workers: int = 0, start: Any = None) -> Loader:
    return Loader(
        Mixture({"docs": rows}), _as_shown, list, batch_size=2, num_workers=workers, seed=3, start=start,
        pin_memory=False,
    )  # fmt: skip


def _as_shown(sample: Any, rng: np.random.Generator) -> Any:
    return shown(sample)


def test_batches_go_on_where_they_stopped(pairs: Path) -> None:
    rows = dataset(pairs, reader="pairs", image_first=0.5, pack=True, num_tokens=12)
    batches = list(islice(loader(rows), 12))
    resumed = [batch for batch, _ in islice(loader(rows, start=batches[4][1]), 7)]
    assert resumed == [batch for batch, _ in batches[5:]]


@pytest.mark.slow
def test_batches_are_the_same_for_any_number_of_workers(pairs: Path) -> None:
    rows = dataset(pairs, reader="pairs", image_first=0.5, group=2)
    alone, helped = ([b for b, _ in islice(loader(rows, workers), 8)] for workers in (0, 2))
    assert alone == helped


def test_an_open_data_set_can_be_sent_to_another_process(pairs: Path) -> None:
    rows = dataset(pairs, reader="pairs")
    copy = pickle.loads(pickle.dumps(rows))
    assert shown(copy.sample(2, np.random.default_rng(0))) == shown(rows.sample(2, np.random.default_rng(0)))


def test_images_lie_in_tars_too(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    with tarfile.open(tmp_path / "rgb" / "shard-0.tar", "w") as tar:
        for name in ("sub/a.png", "b.png"):
            info = tarfile.TarInfo(name)
            info.size = len(png(5))
            tar.addfile(info, io.BytesIO(png(5)))
    assert read_image(tmp_path, "rgb/shard-0.tar/sub/a.png") == png(5)
    assert read_image(tmp_path, "rgb/shard-0.tar/b.png") == png(5)
    with pytest.raises(DataError, match="there is no image 'c.png' in .*shard-0.tar"):
        read_image(tmp_path, "rgb/shard-0.tar/c.png")


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/hostname", "link/secret.png"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="lies outside of"):
        read_image(root, name)


def test_a_missing_image_is_named(pairs: Path) -> None:
    (pairs / "3.png").unlink()
    with pytest.raises(DataError, match="cannot read image '3.png' .*packing.images"):
        dataset(pairs, reader="pairs").sample(3, np.random.default_rng(0))


def test_a_damaged_image_is_named(pairs: Path) -> None:
    (pairs / "3.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="image '3.png': cannot read it as 'image'"):
        dataset(pairs, reader="pairs").sample(3, np.random.default_rng(0))


def test_a_damaged_line_is_named(pairs: Path) -> None:
    (pairs / "part-0.jsonl").write_text('{"image": "0.png", "caption": "w"}\n{"image"\n')
    with pytest.raises(DataError, match="part-0.jsonl, line 2: cannot read it as 'pairs'"):
        dataset(pairs, reader="pairs").sample(1, np.random.default_rng(0))


def test_damaged_rows_are_skipped_where_a_recipe_says_so(pairs: Path) -> None:
    (pairs / "3.png").write_bytes(b"nothing")
    batches = Loader(
        Mixture({"docs": dataset(pairs, reader="pairs")}), _as_shown, list, batch_size=10, skip_damaged=True,
        pin_memory=False,
    )  # fmt: skip
    reds = {row[0][0] for row in next(iter(batches))[0]}
    assert 3 not in reds


def test_lines_are_found_by_their_index(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"one\ntwo\nthree")
    lines = Lines(path)
    assert [lines.read(n) for n in range(len(lines))] == [b"one\n", b"two\n", b"three"]
    assert lines.index_path.is_file()
    assert [Lines(path).read(n) for n in range(3)] == [b"one\n", b"two\n", b"three"]
    path.write_bytes(b"one\ntwo\nthree\nfour\n")
    assert Lines(path).read(3) == b"four\n"
    path.write_bytes(b"a\ntwoone\nthree\nfour")
    with pytest.raises(DataError, match="was changed, but not its index"):
        lines.read(0)


def test_there_must_be_documents(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no documents at"):
        dataset(tmp_path)
    (tmp_path / "a.jsonl").touch()
    with pytest.raises(DataError, match="is empty"):
        dataset(tmp_path)


def test_modalities_must_be_one_text_and_one_image(pairs: Path) -> None:
    other = Modality("other", Sequence(4), Discrete(4), source="other", decode="tokens")
    with pytest.raises(ConfigError, match="its modalities are text, other"):
        dataset(pairs, ModalitySet([TEXT, other]))
    config = configs.build(DatasetConfig, {"path": str(pairs), "packing": {"kind": "interleaved"}})
    with pytest.raises(ConfigError, match="set tokenizers.text"):
        build_dataset("docs", config, MODALITIES, {})


def test_resolutions_are_not_for_documents(pairs: Path) -> None:
    rows = dataset(pairs, reader="pairs")
    rows.check_resolutions(())
    with pytest.raises(ConfigError, match="is for aligned images"):
        rows.check_resolutions((8,))


def test_special_tokens_are_known() -> None:
    assert [Letters().id_of(token) for token in SPECIAL] == list(range(len(SPECIAL)))


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    """A folder of images and captions, of which there may be several."""
    for n in range(3):
        for folder, data in (("rgb", png(n)), ("caption", json.dumps(["w " * (n + 1), "w"]).encode())):
            (tmp_path / folder / "all").mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / "all" / f"{n}.{'png' if folder == 'rgb' else 'json'}").write_bytes(data)
    return tmp_path


def test_aligned_captions_are_pairs(aligned: Path) -> None:
    rows = dataset(aligned, reader="aligned")
    drawn = {json.dumps(shown(rows.sample(2, np.random.default_rng(seed)))) for seed in range(20)}
    assert drawn == {json.dumps([[2, "w w w"]]), json.dumps([[2, "w"]])}


def test_an_objective_takes_rows_of_documents(aligned: Path) -> None:
    from fourm.objectives.autoregressive import Autoregressive
    from fourm.objectives.configs import AutoregressiveConfig

    modalities = ModalitySet([TEXT, replace(IMAGE, direction="input")])
    objective = Autoregressive(AutoregressiveConfig(max_tokens=40), modalities)
    rows = dataset(aligned, reader="aligned", bos="<s>", eos="</s>", pack=True, num_tokens=40)
    row = objective.prepare(rows.sample(0, np.random.default_rng(0)), np.random.default_rng(0))
    words = sum(len(d[-1].split()) for d in shown(rows.sample(0, np.random.default_rng(0))))
    assert (row.target_ids >= 0).sum() == words
    assert len(row) == 3 * (1 + IMAGE.num_tokens) + words - 3
    assert sorted(set(row.group.tolist())) == [0, 1, 2]
