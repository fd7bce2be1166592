"""Shards made by a Ray cluster are those of this machine."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

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


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two cores."""
    import ray

    try:
        ray.init(num_cpus=2, include_dashboard=False, logging_level="warning")
    except Exception as error:
        pytest.skip(f"Ray cannot start here: {error}")
    yield ray
    ray.shutdown()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    save_photographs(tmp_path / "in", 12)
    broken(tmp_path / "in")
    return tmp_path / "in"


@pytest.mark.slow
@needs_ray
def test_a_cluster_makes_the_bytes_of_this_machine(cluster: Any, photos: Path, tmp_path: Path) -> None:
    here = prepare_photos(recipe(photos, tmp_path / "here"), workers=1, progress=False)
    there = prepare_photos(recipe(photos, tmp_path / "there"), engine="ray", progress=False)
    assert len(tars(tmp_path / "here")) >= 6 * 3
    assert tars(tmp_path / "there") == tars(tmp_path / "here")
    assert there == here
    lost = next((tmp_path / "there" / "canny").glob("*.tar"))
    lost.unlink()
    prepare_photos(recipe(photos, tmp_path / "there"), engine="ray", progress=False)
    assert tars(tmp_path / "there") == tars(tmp_path / "here")


@pytest.mark.slow
@needs_ray
def test_an_error_arrives_as_it_was_raised(cluster: Any, photos: Path, tmp_path: Path) -> None:
    given = replace(recipe(photos, tmp_path / "out"), labels={"words": RefusesConfig()})
    with pytest.raises(ConfigError, match="it refuses all photographs"):
        prepare_photos(given, engine="ray", progress=False)
    assert not list((tmp_path / "out" / "words").glob("*0.tar"))


def test_without_ray_the_extra_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"--engine ray needs .*pip install 'fourm\[ray\]'"):
        prepare_photos(recipe(photos, tmp_path / "out"), engine="ray", progress=False)
