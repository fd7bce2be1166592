"""The README's commands and files, executed as they stand, with settings behind them that make them small."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from fourm.data.shards import shard_path
from fourm.data.source import open_source
from tests.end_to_end.conftest import TOKENIZER

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
TEST_BLOCKS = dict(re.findall(r"<!-- test: ([\w-]+) -->\n```\w+\n(.*?)```", README, re.DOTALL))
FILE_BLOCKS = dict(re.findall(r"<!-- file: ([\w.-]+) -->\n```\w+\n(.*?)```", README, re.DOTALL))
SMALL = {
    "train-tokenizer": TOKENIZER,
    "pretrain": [
        "train.max_steps=2", "train.batch_size=4", "train.device=cpu", "train.precision=fp32",
        "train.tensorboard=false",
        "model.dim=32", "model.encoder_depth=1", "model.decoder_depth=1",
    ],
}  # fmt: skip


def commands(block: str) -> list[list[str]]:
    """The words of a block's commands, without comments."""
    return [words for line in TEST_BLOCKS[block].splitlines() if (words := shlex.split(line, comments=True))]


def small(words: list[str]) -> list[str]:
    """The words behind `fourm`, with settings that make the command small."""
    assert words[0] == "fourm"
    return [*words[1:], *(SMALL.get(words[1], []) if "--print" not in words and "--check" not in words else [])]


def test_the_readme_is_short_and_every_block_of_commands_is_tested() -> None:
    assert len(README.splitlines()) <= 300
    fenced = re.findall(r"(.*)\n```(bash|python|yaml)\n", README)
    assert len(fenced) == len(TEST_BLOCKS) + len(FILE_BLOCKS)
    assert all(before.startswith("<!-- ") for before, _ in fenced)


def test_links_lead_somewhere(checkout: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (checkout / link).exists(), link


def test_commands_that_are_named_exist(fourm: Any) -> None:
    for command in set(re.findall(r"`fourm ([a-z-]+)", README)):
        assert fourm(command, "--help").status == 0, command


def test_pages_of_the_documentation_are_in_its_navigation_and_their_links_lead_somewhere(checkout: Path) -> None:
    navigation = (checkout / "mkdocs.yml").read_text().partition("\nnav:")[2]
    for page in (checkout / "docs").glob("*.md"):
        assert page.name in navigation
        for link in re.findall(r"\]\(([^)#]+\.md)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_modalities_of_the_documentation_are_declared_correctly(checkout: Path) -> None:
    from fourm import catalog

    blocks = re.findall(r"```yaml\n(modalities:\n.*?)```", (checkout / "docs" / "modalities.md").read_text(), re.DOTALL)

    assert len(blocks) >= 5
    for block in blocks:
        catalog.resolve(yaml.safe_load(block)["modalities"])


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
@pytest.mark.parametrize("scale", ["", "small"])
def test_make_targets(checkout: Path, words: list[str], scale: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")

    dry = subprocess.run([*words, "-n", f"SCALE={scale}"], cwd=checkout, capture_output=True, text=True)

    assert dry.returncode == 0, dry.stderr
    assert ("scale=small" in dry.stdout) == bool(scale and words[1] != "test")


@pytest.fixture
def folder(world: Path, monkeypatch: Any) -> Path:
    """Where the commands run: files of one's own, and a tiny model where `make quickstart` would put one."""
    monkeypatch.chdir(world)
    source = open_source(str(world / "rooms" / "train"), ["rgb", "depth", "caption"])
    for n in range(len(source)):
        files = source.read(n)
        for name in ("rgb", "thermal", "caption"):
            (world / "data" / "mine" / name / "kitchen").mkdir(parents=True, exist_ok=True)
        place = world / "data" / "mine"
        (place / "rgb" / "kitchen" / f"{n:04d}.png").write_bytes(files["rgb"])
        (place / "caption" / "kitchen" / f"{n:04d}.json").write_bytes(files["caption"])
        heat = np.random.default_rng(n).integers(0, 65536, (32, 32)).astype(np.uint16)
        Image.fromarray(heat).save(place / "thermal" / "kitchen" / f"{n:04d}.png")
    with tarfile.open(shard_path(world / "rooms" / "test", "rgb", 0)) as tar:
        tar.extract("000000.png", world, filter="data")
    Image.open("000000.png").save("photo.jpg")
    shutil.copy("000000.png", "room.png")
    for name, text in FILE_BLOCKS.items():
        (world / name).write_text(text)
    return world


def test_own_data_and_an_own_modality(folder: Path, fourm: Any) -> None:
    for words in [*commands("pack"), *commands("own")]:
        outcome = fourm(*small(words))
        assert outcome.status == 0, f"{words}: {outcome.err}"

    seen = folder / "outputs" / "mine" / "seen"
    assert Image.open(seen / "thermal.png").size == (64, 64)
    assert (seen / "caption.txt").is_file()


def test_the_library_is_used_as_shown(folder: Path, fourm: Any) -> None:
    assert fourm("pretrain", "tiny.yaml", "output=outputs/quickstart/model").status == 0

    names: dict[str, Any] = {}
    exec(TEST_BLOCKS["python"], names)

    assert tuple(names["depth"].shape) == (4, 1, 64, 64)
    assert tuple(names["logits"].shape) == (1, 64, 512)


def test_recipes_are_shown_and_checked(fourm: Any) -> None:
    shown = [words for words in commands("commands") if words[-1] in ("--print", "--check")]
    assert len(shown) == 2
    for words in shown:
        outcome = fourm(*small(words))
        assert outcome.status == 0
        assert outcome.out


@pytest.mark.parametrize("words", commands("cluster"), ids=" ".join)
def test_cluster_commands_name_a_recipe_that_loads(checkout: Path, words: list[str], fourm: Any) -> None:
    script = words.index("run_pretrain.py")

    assert words[0] == "torchrun"
    assert (checkout / words[script]).is_file()
    assert fourm("pretrain", *words[script + 1 :], "--print").status == 0


@pytest.mark.slow
def test_two_ranks_under_torchrun(checkout: Path, folder: Path) -> None:
    words = commands("cluster")[0]
    words = words[: words.index("run_pretrain.py")]
    words[words.index("--nproc-per-node") + 1] = "2"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:]]

    ended = subprocess.run(
        [*launcher, str(checkout / "run_pretrain.py"), str(folder / "tiny.yaml")],
        capture_output=True, text=True, env=environment(checkout),
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    assert (folder / "model" / "completed.json").is_file()


def environment(checkout: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(checkout)}
