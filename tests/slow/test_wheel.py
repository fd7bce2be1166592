"""The built wheel works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def run(*command: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that has to succeed, with `path` as the only addition to the installed packages."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = ["-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(checkout)]
    run(sys.executable, *command, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the unpacked wheel and nothing else; it shadows an editable install."""
    folder = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-index", "--disable-pip-version-check", "-q", "--target", str(folder)]
    run(sys.executable, "-m", "pip", "install", *options, str(wheel), cwd=folder)
    return folder


def test_the_wheel_holds_every_recipe_and_the_typing_marker(wheel: Path, checkout: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    recipes = {f"fourm/_cfgs/{path.relative_to(checkout / 'cfgs')}" for path in (checkout / "cfgs").rglob("*.yaml")}
    assert recipes
    assert recipes <= names
    assert {"fourm/py.typed", "fourm/report/style.css"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]


def test_the_command_answers_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    module = run(sys.executable, "-c", "import fourm; print(fourm.__file__)", cwd=tmp_path, path=installed)
    assert Path(module.stdout.strip()).is_relative_to(installed)
    done = run(sys.executable, "-m", "fourm", "--help", cwd=tmp_path, path=installed)
    assert all(command in done.stdout for command in ("prepare", "tokenize", "pretrain", "generate", "doctor"))


def test_a_packaged_recipe_is_found_by_its_name(installed: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "fourm", "pretrain", "4m_tiny", "--check", cwd=tmp_path, path=installed)
    assert "parameters" in done.stdout.lower()


def test_rooms_are_rendered_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    pytest.importorskip("trimesh")
    options = ["--num", "2", "--size", "32", "--seed", "1", "--workers", "1"]
    run(sys.executable, "-m", "fourm", "prepare", "rooms", "rooms", *options, cwd=tmp_path, path=installed)
    assert list((tmp_path / "rooms" / "rgb").glob("*.tar"))


def test_the_doctor_reads_the_requirements_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "fourm", "doctor", cwd=tmp_path, path=installed)
    assert "torchvision" in done.stdout
    assert "rooms" in done.stdout
