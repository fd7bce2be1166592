"""Sentences of a small folder of images: their tokens are the tokenizer's, and what is there is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fourm import catalog
from fourm import config as configs
from fourm.cli.prepare import prepare
from fourm.data.documents import DocumentFile
from fourm.data.shards import read_source_facts
from fourm.data.transforms import to_input
from fourm.errors import ConfigError, DataError
from fourm.prepare.sentences.job import prepare_sentences, write_pictures
from fourm.prepare.sentences.recipe import SentencesRecipe
from fourm.registry import implementation
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.configs import VQVAEConfig
from fourm.tokenizers.network_configs import ConvConfig

NUM = 10


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images in two clips, with a silhouette and a label each."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for n in range(NUM):
        clip = f"clip{n % 2}"
        for source in ("image", "silhouette"):
            path = root / source / clip / f"{n:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (28, 28)).astype(np.uint8)).save(path)
        label = root / "label" / clip / f"{n:03d}.json"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(json.dumps(n % 3))
    return root


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    small = ConvConfig(widths=(8,), stem=4, num_blocks=(1,))
    config = VQVAEConfig(encoder=small, decoder=small)
    folder = tmp_path_factory.mktemp("tokenizer")
    implementation(config.target)(catalog.get("image@28"), config).save(folder)
    return folder


def recipe(data: Path, tokenizer: Path, out: Path, **options: Any) -> SentencesRecipe:
    values = {
        "data": str(data),
        "tokenizer": str(tokenizer),
        "output": str(out),
        "views": {"image": "image@28", "silhouette": "silhouette@28"},
        "sentences": {"silhouette": {"kind": "pairs", "views": ["image", "silhouette"], "num_images": 4}},
        "device": "cpu",
        "batch_size": 3,
        **options,
    }
    return configs.build(SentencesRecipe, values)


def documents(path: Path) -> list[list[int]]:
    return [DocumentFile(f).read(n).tolist() for f in sorted(path.glob("*.bin")) for n in range(len(DocumentFile(f)))]


def ids_of(data: Path, tokenizer: Path, source: str) -> list[list[int]]:
    """Ids of every image of a source, in the order of their keys."""
    modality = catalog.get(f"{source}@28")
    images = [to_input(np.asarray(Image.open(path)), modality) for path in sorted((data / source).rglob("*.png"))]
    return load_tokenizer(tokenizer).encode(torch.from_numpy(np.stack(images))).flatten(1).tolist()


def test_documents_are_the_tokens_of_their_pictures(data: Path, tokenizer: Path, tmp_path: Path) -> None:
    assert prepare_sentences(recipe(data, tokenizer, tmp_path)) == {"silhouette": 1}
    found = documents(tmp_path / "silhouette")
    assert [len(ids) for ids in found] == [4 * 49, 4 * 49, 4 * 49, 4 * 49, 4 * 49]
    pairs = {tuple(ids[at : at + 98]) for ids in found for at in (0, 98)}
    images, masks = ids_of(data, tokenizer, "image"), ids_of(data, tokenizer, "silhouette")
    assert pairs == {(*x, *y) for x, y in zip(images, masks)}
    facts = read_source_facts(tmp_path, "silhouette")
    assert facts["tokenizer_hash"] == load_tokenizer(tokenizer).hash
    assert facts["tokens_per_image"] == 49


def test_pictures_to_prompt_with_are_those_of_the_sentences(data: Path, tokenizer: Path, tmp_path: Path) -> None:
    asked = recipe(data, tokenizer, tmp_path / "out")
    written = write_pictures(asked, tmp_path / "pictures", num=4)
    assert len(written) == 4 * 2
    assert not asked.output.exists()
    prepare_sentences(asked)
    network = load_tokenizer(tokenizer)
    shown = set()
    for row in range(4):
        pair = [np.asarray(Image.open(tmp_path / "pictures" / f"{row}_{v}.png").convert("L")) for v in asked.views]
        ids = network.encode(torch.from_numpy(np.stack([to_input(image, network.modality) for image in pair])))
        shown.add(tuple(ids.flatten().tolist()))
    found = [np.reshape(document, (-1, 2 * 49)) for document in documents(asked.output / "silhouette")]
    assert shown <= {tuple(pair) for pair in np.concatenate(found).tolist()}


def test_what_is_missing_is_made_again_and_the_rest_is_kept(data: Path, tokenizer: Path, tmp_path: Path) -> None:
    made = recipe(data, tokenizer, tmp_path, rows_per_file=4, epochs=2)
    prepare_sentences(made)
    folder = tmp_path / "silhouette"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == sorted(
        [f"part-0000{n}.bin{end}" for n in range(3) for end in ("", ".meta")] + ["source.json"]
    )
    for name in ("part-00001.bin", "part-00001.bin.meta", "part-00002.bin.meta"):
        (folder / name).unlink()
    kept = (folder / "part-00000.bin").stat().st_mtime_ns
    prepare_sentences(made)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (folder / "part-00000.bin").stat().st_mtime_ns == kept
    with pytest.raises(DataError, match="holds sentences of another recipe"):
        prepare_sentences(recipe(data, tokenizer, tmp_path, rows_per_file=4, epochs=2, seed=1))


def test_clips_and_classes_are_groups(data: Path, tokenizer: Path, tmp_path: Path) -> None:
    ids = [tuple(one) for one in ids_of(data, tokenizer, "image")]
    prepare_sentences(recipe(data, tokenizer, tmp_path, sentences={"video": {"strides": [1]}, "rotation": {}}))
    for task in ("video", "rotation"):
        found = [{tuple(one[at : at + 49]) for at in range(0, len(one), 49)} for one in documents(tmp_path / task)]
        assert found == [set(ids[:5]), set(ids[5:])]
    prepare_sentences(recipe(data, tokenizer, tmp_path, sentences={"category": {}}, group_by="label"))
    classes = sorted(len(one) // 49 for one in documents(tmp_path / "category"))
    assert classes == [3, 3, 4]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three objects of 12, 3 and 5 views, whose names have no leading zeros."""
    root, rng = tmp_path_factory.mktemp("objects"), np.random.default_rng(1)
    for name, count in (("a", 12), ("b", 3), ("c", 5)):
        (root / "image" / name).mkdir(parents=True)
        for n in range(count):
            pixels = rng.integers(0, 255, (28, 28)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "image" / name / f"{n}.png")
    return root


def sequences(objects: Path, tokenizer: Path, path: Path) -> dict[str, list[list[str]]]:
    """File -> documents, each as keys of its pictures."""
    keys = [p.relative_to(objects / "image").with_suffix("").as_posix() for p in sorted(objects.rglob("*.png"))]
    names = {tuple(ids): key for ids, key in zip(ids_of(objects, tokenizer, "image"), keys)}
    assert len(names) == len(keys)
    return {
        file.name: [
            [names[tuple(picture)] for picture in DocumentFile(file).read(n).reshape(-1, 49).tolist()]
            for n in range(len(DocumentFile(file)))
        ]
        for file in sorted(path.glob("*.bin"))
    }


def test_frames_come_in_natural_order(objects: Path, tokenizer: Path, tmp_path: Path) -> None:
    prepare_sentences(
        recipe(objects, tokenizer, tmp_path, views={"image": "image@28"}, sentences={"video": {"strides": [1]}})
    )
    (found,) = sequences(objects, tokenizer, tmp_path / "video").values()
    assert found == [[f"{name}/{n}" for n in range(count)] for name, count in (("a", 12), ("b", 3), ("c", 5))]


def test_files_split_no_groups(objects: Path, tokenizer: Path, tmp_path: Path) -> None:
    tasks = {"rotation": {}, "category": {}, "single": {}}
    made = recipe(objects, tokenizer, tmp_path, views={"image": "image@28"}, sentences=tasks, rows_per_file=7, epochs=2)
    prepare_sentences(made)
    for task in ("rotation", "category"):
        files = sequences(objects, tokenizer, tmp_path / task)
        assert [sorted({key[0] for one in found for key in one}) for found in files.values()] == [["a"], ["b"], ["c"]]
        assert [[len(one) for one in found] for found in files.values()] == [[12, 12], [3, 3], [5, 5]]
    for found in sequences(objects, tokenizer, tmp_path / "rotation").values():
        for views in found:
            steps = np.diff([int(key[2:]) for key in views]) % len(views)
            assert set(steps.tolist()) in ({1}, {len(views) - 1})
    single = sequences(objects, tokenizer, tmp_path / "single")
    assert [len(found) for found in single.values()] == [14, 14, 12]  # samples that stand alone are cut as before

    folder = tmp_path / "rotation"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    kept = (folder / "part-00000.bin").stat().st_mtime_ns
    (folder / "part-00002.bin").unlink()
    prepare_sentences(made)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert (folder / "part-00000.bin").stat().st_mtime_ns == kept


def test_groups_share_a_file_as_far_as_it_has_room(objects: Path, tokenizer: Path, tmp_path: Path) -> None:
    for size, expected in ((8, ["a", "bc"]), (15, ["ab", "c"]), (19, ["ab", "c"]), (20, ["abc"])):
        out = tmp_path / str(size)
        options = {"views": {"image": "image@28"}, "sentences": {"rotation": {}}, "rows_per_file": size}
        prepare_sentences(recipe(objects, tokenizer, out, **options))
        files = sequences(objects, tokenizer, out / "rotation").values()
        assert ["".join(one[0][0] for one in found) for found in files] == expected


def test_the_last_group_is_whole_or_left_out(objects: Path, tokenizer: Path, tmp_path: Path) -> None:
    for num_rows, expected in ((12, [12]), (14, [12]), (15, [12, 3]), (99, [12, 3, 5])):
        out = tmp_path / str(num_rows)
        options = {"views": {"image": "image@28"}, "sentences": {"rotation": {"num_rows": num_rows}}}
        prepare_sentences(recipe(objects, tokenizer, out, **options))
        assert [len(one) // 49 for one in documents(out / "rotation")] == expected
    options = {"views": {"image": "image@28"}, "sentences": {"rotation": {"num_rows": 11}}}
    with pytest.raises(ConfigError, match=r"rotation\.num_rows is 11, but 'a'.* has 12 samples.* set num_rows to 12"):
        prepare_sentences(recipe(objects, tokenizer, tmp_path / "none", **options))


def test_what_lies_in_no_folder_is_no_clip(data: Path, tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "flat" / "image").mkdir(parents=True)
    for path in (data / "image").rglob("*.png"):
        (tmp_path / "flat" / "image" / path.name).write_bytes(path.read_bytes())
    made = recipe(tmp_path / "flat", tokenizer, tmp_path / "out", views={"image": "image@28"}, sentences={"video": {}})
    with pytest.raises(DataError, match=r"000\.png.* lies in no folder.*put the files of a clip.* or set group_by"):
        prepare_sentences(made)


def test_pictures_are_for_tokenizers_of_pictures(data: Path, tmp_path: Path) -> None:
    """One of depth would take brightness for metres."""
    small = ConvConfig(widths=(8,), stem=8, num_blocks=(1,))
    config = VQVAEConfig(encoder=small, decoder=small)
    implementation(config.target)(catalog.get("depth@64"), config).save(tmp_path / "depth")
    with pytest.raises(ConfigError, match="encodes 'depth@64'; expected one of colour or gray images"):
        prepare_sentences(recipe(data, tmp_path / "depth", tmp_path / "out"))


def test_images_are_not_drawn_on_anything(data: Path, tokenizer: Path, tmp_path: Path) -> None:
    tasks = {"silhouette": {"kind": "pairs", "views": ["image", "silhouette:black"]}}
    with pytest.raises(ConfigError, match="view 'silhouette:black' is an image"):
        prepare_sentences(recipe(data, tokenizer, tmp_path, sentences=tasks))


def test_small_tasks_are_balanced(data: Path, tokenizer: Path, tmp_path: Path) -> None:
    tasks = {"silhouette": {"kind": "pairs", "views": ["image", "silhouette"]}, "inpainting": {"num_rows": 2}}
    options = {"sentences": tasks, "balance": {"share": 0}, "epochs": 2}
    assert prepare_sentences(recipe(data, tokenizer, tmp_path / "a", **options)) == {"silhouette": 2, "inpainting": 10}
    repeated = documents(tmp_path / "a" / "inpainting")
    assert len({tuple(ids) for ids in repeated}) == 10  # other parts are blacked out each time

    tasks = {
        "silhouette": {"kind": "pairs", "views": ["image", "silhouette"]},
        "tail": {"kind": "single", "num_rows": 1},
    }
    options = {"sentences": tasks, "balance": {"share": 0, "most": 5}}
    prepare_sentences(recipe(data, tokenizer, tmp_path / "b", **options))
    assert len({tuple(ids) for ids in documents(tmp_path / "b" / "tail")}) == 1  # the same picture again
    augment = {"kind": "random", "crop": {"kind": "random_resized", "scale": [0.3, 0.8]}}
    prepare_sentences(recipe(data, tokenizer, tmp_path / "c", **options, augment=augment))
    assert len({tuple(ids) for ids in documents(tmp_path / "c" / "tail")}) == 5


def test_the_command_line_makes_and_joins_them(data: Path, tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        f"data: {data}\ntokenizer: {tokenizer}\noutput: {tmp_path}/out\nviews: {{image: image@28}}\n"
        "sentences: {single: {}}\ndevice: cpu\n"
    )
    result = CliRunner().invoke(prepare, ["sentences", str(tmp_path / "own.yaml")])
    assert result.exit_code == 0, result.output
    source = tmp_path / "out" / "single" / "part-00000.bin"
    result = CliRunner().invoke(prepare, ["concat", str(source), str(tmp_path / "joined.bin"), "--num", "4"])
    assert result.exit_code == 0, result.output
    joined, single = DocumentFile(tmp_path / "joined.bin"), DocumentFile(source)
    assert joined.lengths.tolist() == [4 * 49, 4 * 49, 2 * 49]
    assert joined.read(0).tolist() == [i for n in range(4) for i in single.read(n).tolist()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sentences": {}}, "sentences is empty"),
        ({"sentences": {"depth": {"kind": "pairs"}}}, "sentences.depth.views: 'depth' is not one of views"),
        ({"views": {"image": "image@29", "silhouette": "silhouette@28"}}, "modality 'image@29' is not in the catalog"),
        ({"augment": {"kind": "random", "crop": {"kind": "fit"}}}, "expected center or random_resized"),
    ],
)
def test_recipes_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(tmp_path, tmp_path, tmp_path, **options)
