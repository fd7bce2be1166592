"""The project's own files: what is declared is what is used, and starting up stays cheap."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fourm import paths

# Modules whose name differs from the distribution that brings them.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless"}
# Only ever imported on the way to one of these, which depends on it.
BROUGHT_BY = {"yaml": "omegaconf", "starlette": "gradio", "gradio_client": "gradio"}


def project(checkout: Path) -> dict[str, object]:
    return dict(tomllib.loads((checkout / "pyproject.toml").read_text())["project"])


def declared(checkout: Path) -> set[str]:
    facts = project(checkout)
    lines = [*facts["dependencies"], *(line for lines in facts["optional-dependencies"].values() for line in lines)]  # type: ignore[attr-defined, misc]
    return {re.split(r"[<>=;\[ ]", line)[0].lower() for line in lines}


def imported(checkout: Path) -> set[str]:
    """Top-level names of all modules that the library imports, anywhere in its files."""
    found: set[str] = set()
    for path in [*(checkout / "fourm").rglob("*.py"), *(checkout / "tokenizers_train").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
    return found


def test_every_import_of_the_library_is_declared(checkout: Path) -> None:
    own = {"fourm", "tokenizers_train", "__future__"}
    foreign = imported(checkout) - set(sys.stdlib_module_names) - own
    names = {BROUGHT_BY.get(name, DISTRIBUTIONS.get(name, name)).lower() for name in foreign}
    assert names <= declared(checkout)


def test_the_version_is_the_same_everywhere(checkout: Path) -> None:
    import fourm

    assert project(checkout)["version"] == fourm.__version__


def test_the_licence_is_apache_2(checkout: Path) -> None:
    text = (checkout / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_recipes_of_a_checkout_are_those_beside_the_package(checkout: Path) -> None:
    assert paths.recipe_folder() == checkout / "cfgs"


def test_recipes_of_an_installed_wheel_are_inside_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A stranger's folder of the same name beside an installed package is not ours.
    (tmp_path / "cfgs").mkdir()
    monkeypatch.setattr(paths, "_PACKAGE", tmp_path / "fourm")
    assert paths.recipe_folder() == tmp_path / "fourm" / "_cfgs"


@pytest.mark.parametrize("statement", ["import fourm", "import fourm.config, fourm.catalog", "import fourm.doctor"])
def test_floor_0_starts_without_heavy_packages(checkout: Path, statement: str) -> None:
    assert heavy_modules_after(statement, checkout) == set()


def test_the_command_line_shows_its_help_without_heavy_packages(checkout: Path) -> None:
    statement = (
        "from fourm.cli import main\n"
        "sys.argv = ['fourm', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code"
    )
    assert heavy_modules_after(statement, checkout) == set()


def heavy_modules_after(statement: str, checkout: Path) -> set[str]:
    """Which slow packages a fresh interpreter has imported after `statement`."""
    heavy = {"torch", "torchvision", "timm", "diffusers", "transformers", "matplotlib", "cv2", "trimesh", "scipy"}
    script = f"import sys\n{statement}\nprint(*(set(sys.modules) & {heavy!r}))"
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_fine_tuning_starts_from_its_own_file_too(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(checkout / "run_finetune.py"), "rooms_semsg"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "Did you mean 'rooms_semseg'" in done.stderr
