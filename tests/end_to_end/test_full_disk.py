"""A full disk is named, and leaves nothing that a later run would take for complete."""

from __future__ import annotations

import builtins
import errno
import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.conftest import TOKENIZER, assert_one_clear_message


class FullFile(io.RawIOBase):
    """A file on a disk with no space left."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def fill_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """A function after which nothing can be written below a folder: files can be made, but hold no byte."""
    real = io.open

    def fill(folder: Path) -> None:
        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            writes = any(letter in mode for letter in "wax+")
            if not writes or not isinstance(file, str | Path) or folder not in Path(file).absolute().parents:
                return real(file, mode, *args, **kwargs)
            real(file, mode, *args, **kwargs).close()
            full = FullFile()
            return io.BufferedWriter(full, 1) if "b" in mode else io.TextIOWrapper(io.BufferedWriter(full, 1))

        monkeypatch.setattr(io, "open", opened)
        monkeypatch.setattr(builtins, "open", opened)

    return fill


FULL = [
    ("prepare rooms {root}/new --num 4 --size 16 --workers 1", "new"),
    ("prepare crops {root}/rooms/train", "rooms/train/crop_settings"),
    ("train-wordpiece rooms_text variables.root={root} output={root}/new/text.json", "new/text.json"),
    ("tokenize {root}/tokenizers/depth {root}/rooms/train --source new", "rooms/train/new"),
    ("train-tokenizer rooms_depth variables.root={root} output={root}/new " + " ".join(TOKENIZER), "new"),
    ("pretrain {root}/tiny.yaml", "model"),
]


@pytest.mark.parametrize(("command", "output"), FULL, ids=[case[0] for case in FULL])
def test_a_full_disk_is_named_and_the_same_command_succeeds_once_there_is_space(
    world: Path, fourm: Any, fill_disk: Callable[[Path], None], command: str, output: str, monkeypatch: Any
) -> None:
    fill_disk(world)

    outcome = fourm(*command.format(root=world).split())
    monkeypatch.undo()

    assert_one_clear_message(outcome, ["No space left on device", str(world)])
    assert "free" in outcome.err.lower(), "the remedy"
    left = [path.relative_to(world / output) for path in (world / output).rglob("*") if path.is_file()]
    for path in left:
        assert path.suffix not in (".tar", ".safetensors", ".npy")
        assert path.name not in ("completed.json", "state.json", "rooms.json", "config.json")
        assert not path.name.endswith(".index.json")
    assert fourm(*command.format(root=world).split()).status == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A function that gives a real disk of so many bytes; called again, it resizes it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = False

    def mount(size: int) -> Path:
        nonlocal mounted
        options = f"size={size}" + (",remount" if mounted else "")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a small disk here: {done.stderr.decode().strip()}")
        mounted = True
        return disk

    yield mount
    if mounted:
        subprocess.run(["umount", disk], check=True)


def on_disk(folder: Path) -> int:
    """Bytes that files take in pages of 4 KiB."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def test_a_disk_that_is_full_when_the_model_is_exported_is_named(
    world: Path, fourm: Any, small_disk: Callable[[int], Path]
) -> None:
    """The weights are written by a library that does not go through Python's files."""
    command = ["pretrain", world / "tiny.yaml"]
    assert fourm(*command).status == 0
    run, model = world / "model", world / "model" / "model"
    needed, weights = on_disk(model), (model / "model.safetensors").stat().st_size
    shutil.rmtree(model)
    (run / "completed.json").unlink()
    disk = small_disk(on_disk(run) + needed - weights // 2)
    output = Path(shutil.copytree(run, disk / "model"))

    outcome = fourm(*command, f"output={output}")

    assert_one_clear_message(outcome, ["No space left on device", str(output)])
    assert not list(output.glob(".tmp-*"))
    assert not (output / "completed.json").exists()
    small_disk(2 * on_disk(run) + 2 * needed)
    assert fourm(*command, f"output={output}").status == 0
    assert (output / "model" / "model.safetensors").is_file()
