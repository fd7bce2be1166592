"""Real photographs, with captions and masks of their own, all the way to a model: the commands of docs/photos.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fourm.data.source import open_source
from tests.end_to_end.conftest import run
from tests.end_to_end.pages import blocks, small, words

pytestmark = pytest.mark.slow
STAMPS = Path("/usr/share/tuxpaint/stamps")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "photos.md").read_text()
COMMANDS = words(blocks(PAGE)[0]["stamps"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands of the page have been run, one after the other, with settings that make them small."""
    if not STAMPS.is_dir():
        pytest.skip(f"there are no photographs in {STAMPS} (Debian: tuxpaint-stamps-default)")
    root = tmp_path_factory.mktemp("photographs")
    with Image.open(next(STAMPS.rglob("fox*.png"), next(STAMPS.rglob("*.png")))) as image:
        image.convert("RGB").save(root / "photo.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command in COMMANDS:
            assert run(*small(command)) == 0, command
    return root


def test_every_photograph_is_there_with_all_that_belongs_to_it(folder: Path) -> None:
    sources = ["rgb", "origin", "canny", "color_palette", "metadata", "crop_settings", "caption", "mask"]
    tokens = ["tok_rgb", "tok_mask", "tok_canny"]
    data = open_source(str(folder / "data" / "stamps"), [*sources, *tokens])
    assert len(data) >= 300
    for n in range(0, len(data), 50):
        files = data.read(n)
        text = STAMPS / Path(json.loads(files["origin"])["file"]).with_suffix(".txt")
        assert json.loads(files["caption"]) == text.read_text(encoding="utf-8").splitlines()[0].strip()


def test_every_other_file_is_named_with_a_reason(folder: Path) -> None:
    data = open_source(str(folder / "data" / "stamps"), ["origin"])
    taken = {json.loads(data.read(n)["origin"])["file"] for n in range(len(data))}
    lines = (folder / "data" / "stamps" / "rejected.jsonl").read_text().splitlines()
    rejected = {entry["file"]: entry["reason"] for entry in map(json.loads, lines)}
    files = {path.relative_to(STAMPS).as_posix() for path in STAMPS.rglob("*") if path.is_file()}
    stems = {file.rpartition(".")[0] for file in taken | rejected.keys() if file.endswith(".png")}
    captions = {f"{stem}.txt" for stem in stems} & files
    orphans = {file for file in files - captions if file.endswith(".txt")}
    assert taken | rejected.keys() | captions == files
    assert not (taken | captions) & rejected.keys()
    assert {rejected[file] for file in orphans} <= {"there is no photograph that it belongs to"}
    assert all(rejected.values())


def test_the_model_answers(folder: Path) -> None:
    seen = folder / "outputs" / "stamps" / "seen"
    for name in ("mask.png", "canny.png", "caption.txt"):
        assert (seen / name).is_file(), sorted(path.name for path in seen.iterdir())


def test_the_page_shows_photographs(folder: Path) -> None:
    [page] = (folder / "data" / "stamps").glob("*.html")
    text = page.read_text()
    assert text.count("<img") >= 12
    assert "caption" in text


def test_a_damaged_tar_is_named(folder: Path, tmp_path: Path, fourm: Any) -> None:
    copy = tmp_path / "stamps"
    shutil.copytree(folder / "data" / "stamps", copy)
    tar = copy / "mask" / "shard-00003.tar"
    content = bytearray(tar.read_bytes())
    content[600] ^= 0xFF  # in the first file, behind its header
    tar.write_bytes(bytes(content))
    done = fourm("prepare", "verify", copy)
    assert done.status == 1
    assert "mask/shard-00003.tar" in done.out + done.err
