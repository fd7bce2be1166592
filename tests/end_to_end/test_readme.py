"""The README's commands and files, executed as they stand, with settings behind them that make them small."""

from __future__ import annotations

import json
import re
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
from tests.end_to_end.pages import blocks, small, words

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
TEST_BLOCKS, FILE_BLOCKS = blocks(README)


def commands(block: str) -> list[list[str]]:
    """The words of a block's commands."""
    return words(TEST_BLOCKS[block])


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
        for link in re.findall(r"\]\(([^)#]+\.(?:md|png))", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_modalities_of_the_documentation_are_declared_correctly(checkout: Path) -> None:
    from fourm import catalog

    blocks = re.findall(r"```yaml\n(modalities:\n.*?)```", (checkout / "docs" / "modalities.md").read_text(), re.DOTALL)

    assert len(blocks) >= 5
    for block in blocks:
        catalog.resolve(yaml.safe_load(block)["modalities"])


@pytest.mark.parametrize("command", commands("make"), ids=" ".join)
@pytest.mark.parametrize("scale", ["", "small"])
def test_make_targets(checkout: Path, command: list[str], scale: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")

    dry = subprocess.run([*command, "-n", f"SCALE={scale}"], cwd=checkout, capture_output=True, text=True)

    assert dry.returncode == 0, dry.stderr
    assert ("scale=small" in dry.stdout) == bool(scale and command[1] != "test")


@pytest.fixture
def folder(world: Path, monkeypatch: Any) -> Path:
    """Where the commands run: files of one's own, and a tiny model where `make quickstart` would put one."""
    monkeypatch.chdir(world)
    source = open_source(str(world / "rooms" / "train"), ["rgb", "caption"])
    photos, thermal = world / "data" / "mine" / "photos" / "kitchen", world / "data" / "mine" / "thermal" / "kitchen"
    photos.mkdir(parents=True)
    thermal.mkdir(parents=True)
    for n in range(len(source)):
        files = source.read(n)
        (photos / f"{n:04d}.png").write_bytes(files["rgb"])
        (photos / f"{n:04d}.txt").write_text(json.loads(files["caption"])[0])
        heat = np.random.default_rng(n).integers(0, 65536, (32, 32)).astype(np.uint16)
        Image.fromarray(heat).save(thermal / f"{n:04d}.png")
    with tarfile.open(shard_path(world / "rooms" / "test", "rgb", 0)) as tar:
        tar.extract("000000.png", world, filter="data")
    Image.open("000000.png").save("photo.jpg")
    shutil.copy("000000.png", "room.png")
    for name, text in FILE_BLOCKS.items():
        (world / name).write_text(text)
    return world


def test_own_data_and_an_own_modality(folder: Path, fourm: Any) -> None:
    for command in [*commands("pack"), *commands("own")]:
        outcome = fourm(*small(command))
        assert outcome.status == 0, f"{command}: {outcome.err}"

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
    shown = [command for command in commands("commands") if command[-1] in ("--print", "--check")]
    assert len(shown) == 2
    for command in shown:
        outcome = fourm(*small(command))
        assert outcome.status == 0
        assert outcome.out


@pytest.mark.parametrize("command", commands("cluster"), ids=" ".join)
def test_cluster_commands_name_a_recipe_that_loads(checkout: Path, command: list[str], fourm: Any) -> None:
    script = command.index("run_pretrain.py")

    assert command[0] == "torchrun"
    assert (checkout / command[script]).is_file()
    assert fourm("pretrain", *command[script + 1 :], "--print").status == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_under_torchrun(checkout: Path, folder: Path, kind: str) -> None:
    command = commands("cluster")[0]
    command = command[: command.index("run_pretrain.py")]
    command[command.index("--nproc-per-node") + 1] = "2"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *command[1:]]

    ended = subprocess.run(
        [
            *launcher, str(checkout / "run_pretrain.py"), str(folder / "tiny.yaml"), f"train.parallel.kind={kind}",
            f"output={folder / kind}",
        ],
        capture_output=True, text=True, env=environment(checkout),
    )  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    assert (folder / kind / "completed.json").is_file()
    assert (folder / kind / "model" / "model.safetensors").is_file()


def environment(checkout: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(checkout)}
