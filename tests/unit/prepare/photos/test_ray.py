"""Shards made by a Ray cluster are those of this machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from fourm.errors import ConfigError, MissingExtraError
from fourm.modality import Modality
from fourm.prepare.labelers.configs import LabelerConfig, like
from fourm.prepare.photos.job import prepare_photos
from tests.photographs import broken, save_photographs
from tests.unit.prepare.photos.test_job import recipe, tars

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@dataclass(frozen=True)
class RefusesConfig(LabelerConfig):
    """A labeler that cannot work at all."""

    target: ClassVar[str] = f"{__name__}:Refuses"
    extension: ClassVar[str] = "txt"

    def modality(self, source: str) -> Modality:
        return like("caption", source)


class Refuses:
    def __init__(self, config: RefusesConfig, device: str) -> None:
        raise ConfigError("it refuses all photographs")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    save_photographs(tmp_path / "in", 12)
    broken(tmp_path / "in")
    return tmp_path / "in"


def on_ray(code: str) -> str:
    """What a program prints that may use Ray: in a process of its own, since Ray ends one in which it has failed."""
    start = (
        "import ray\n"
        "ray.init(num_cpus=2, include_dashboard=False, logging_level='warning')\n"
        "from pathlib import Path\n"
        "from dataclasses import replace\n"
        "from fourm.prepare.photos.job import prepare_photos\n"
        "from tests.unit.prepare.photos.test_job import recipe\n"
        "from tests.unit.prepare.photos.test_ray import RefusesConfig\n"
    )
    root = str(Path(__file__).resolve().parents[4])
    environment = {**os.environ, "PYTHONPATH": root, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    done = subprocess.run(
        [sys.executable, "-c", start + code], capture_output=True, text=True, timeout=300, cwd=root, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@needs_ray
def test_a_cluster_makes_the_bytes_of_this_machine(photos: Path, tmp_path: Path) -> None:
    here = prepare_photos(recipe(photos, tmp_path / "here"), workers=1, progress=False)
    assert len(tars(tmp_path / "here")) >= 6 * 3
    said = on_ray(
        f"given = recipe(Path({str(photos)!r}), Path({str(tmp_path / 'there')!r}))\n"
        "for rejected in prepare_photos(given, engine='ray', progress=False): print(ascii(rejected.file))\n"
        "next((given.output / 'canny').glob('*.tar')).unlink()\n"
        "prepare_photos(given, engine='ray', progress=False)\n"
    )
    assert said.splitlines() == [ascii(entry.file) for entry in here]
    assert tars(tmp_path / "there") == tars(tmp_path / "here")


@pytest.mark.slow
@needs_ray
def test_an_error_arrives_as_it_was_raised(photos: Path, tmp_path: Path) -> None:
    said = on_ray(
        f"given = recipe(Path({str(photos)!r}), Path({str(tmp_path / 'out')!r}))\n"
        "given = replace(given, labels={'words': RefusesConfig()})\n"
        "try: prepare_photos(given, engine='ray', progress=False)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    (error,) = [line for line in said.splitlines() if line.startswith("ConfigError")]  # Ray may say something too
    assert "it refuses all photographs" in error
    assert not list((tmp_path / "out" / "words").glob("*0.tar"))


def test_without_ray_the_extra_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--engine ray needs .*pip install 'fourm\[ray\]'"):
        prepare_photos(recipe(photos, tmp_path / "out"), engine="ray", progress=False)
