"""LVM as it is used: tokenizer and language model are converted, and prompted with images, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from tests.end_to_end.conftest import run
from tests.parity.test_llama import llama


def test_a_converted_model_answers_prompts_of_images(hub: Any, tmp_path: Path, capsys: Any) -> None:
    """512 codes and 8 special ids, 16 tokens an image, four images a row."""
    llama(vocab_size=520, num_key_value_heads=2).save_pretrained(tmp_path / "llama")
    assert run("convert", "vqgan", hub("lvm_vqgan_small"), tmp_path / "vqgan") == 0
    assert run("convert", "llama", tmp_path / "llama", tmp_path / "lvm", "--tokenizer", tmp_path / "vqgan") == 0
    images = [tmp_path / f"{n}.png" for n in range(5)]
    for n, path in enumerate(images):
        Image.new("RGB", (80 + n, 64), (50 * n, 255 - 50 * n, 90)).save(path)
    command = ["prompt", tmp_path / "lvm", "--device", "cpu", "--out", tmp_path / "out", "--pair", *images[:2]]
    capsys.readouterr()

    assert run(*command, "--pair", *images[2:4], "--image", images[4]) == 1
    assert "a window of 5; expected at least one image, and a window from 1 to 3" in capsys.readouterr().err
    assert run(*command, "--image", images[2], "--num-samples", 2, "--begin", 512, "--top-k", 1000, "--seed", 4) == 0
    written = [Path(line) for line in capsys.readouterr().out.split()]
    assert [path.name for path in written] == ["4_0.png", "5_0.png"]
    first, second = (Image.open(path).tobytes() for path in written)
    assert len(first) == 64 * 64 * 3
    assert first != second
    frames = [option for path in images for option in ("--image", path)]
    assert run("prompt", tmp_path / "lvm", "--out", tmp_path / "film", *frames, "--count", 2) == 0
    assert len(list((tmp_path / "film").iterdir())) == 2
    assert run("prompt", tmp_path / "lvm", "--out", tmp_path / "film") == 1
    assert "needs at least one image" in capsys.readouterr().err
