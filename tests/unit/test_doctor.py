"""`fourm doctor`: it finds what is missing and says how to mend it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fourm import doctor


@pytest.fixture(autouse=True)
def quick_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real torch takes seconds to import, and these tests are not about it."""
    stub = SimpleNamespace(
        cuda=SimpleNamespace(is_available=lambda: False),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: False)),
        distributed=SimpleNamespace(
            is_available=lambda: True, is_gloo_available=lambda: True, is_nccl_available=lambda: False
        ),
    )
    monkeypatch.setattr(importlib, "import_module", lambda name: stub)


def without(monkeypatch: pytest.MonkeyPatch, *missing: str, **versions: str) -> None:
    """Pretend that everything is installed in a recent version, except `missing` and what `versions` says."""
    monkeypatch.setattr(
        doctor, "installed_version", lambda name: None if name in missing else versions.get(name, "9999.0")
    )


def find(checks: list[doctor.Check], name: str) -> doctor.Check:
    return next(check for check in checks if check.name == name)


def test_a_complete_installation_exits_with_0(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch)
    checks = doctor.report(tmp_path)
    assert doctor.exit_status(checks) == 0
    assert "Everything that fourm needs is there." in doctor.render(checks)


def test_a_missing_core_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without(monkeypatch, "tokenizers")
    checks = doctor.report(tmp_path)
    assert find(checks, "tokenizers").status == "missing"
    assert "pip install 'tokenizers>=" in find(checks, "tokenizers").remedy
    assert doctor.exit_status(checks) == 1
    assert "Missing: tokenizers." in doctor.render(checks)


def test_a_missing_package_that_nothing_imports_is_not_fatal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "declared_requirements", lambda: {"": ["torch>=2.6", "some-later-idea>=1"]})
    without(monkeypatch, "some-later-idea")
    checks = doctor.report(tmp_path)
    assert find(checks, "some-later-idea").status == "optional"
    assert "nothing imports it yet" in find(checks, "some-later-idea").detail
    assert doctor.exit_status(checks) == 0


def test_what_fourm_imports_is_read_from_its_files() -> None:
    used = doctor.imported_modules()
    assert {"torch", "torchvision", "PIL", "cv2", "tokenizers", "packaging"} <= used
    assert "some_later_idea" not in used


@pytest.mark.parametrize(("package", "status", "line"), [("numpy", 1, "numpy"), ("cv2", 0, "rooms")])
def test_an_installed_package_that_does_not_load_is_reported_with_its_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, status: int, line: str
) -> None:
    def broken(name: str) -> Any:
        if name == package:
            raise ImportError("libGL.so.1: cannot open shared object file")
        return working(name)

    without(monkeypatch)
    working = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", broken)
    checks = doctor.report(tmp_path)
    assert "ImportError: libGL.so.1" in find(checks, line).detail
    assert find(checks, line).remedy
    assert doctor.exit_status(checks) == status


def test_packages_that_are_not_there_or_not_used_are_not_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[str] = []
    without(monkeypatch, "torch", "matplotlib")
    monkeypatch.setattr(importlib, "import_module", asked.append)
    doctor.report(tmp_path)
    assert "numpy" in asked
    assert not {"torch", "matplotlib", "pytest", "mypy"} & set(asked)


def test_a_core_package_that_is_too_old_counts_as_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, numpy="1.26.4")
    check = find(doctor.report(tmp_path), "numpy")
    assert check.status == "missing"
    assert "1.26.4" in check.detail
    assert ">=2.0" in check.detail


def test_a_missing_extra_names_the_extra_and_does_not_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without(monkeypatch, "gradio")
    checks = doctor.report(tmp_path)
    assert find(checks, "serve").status == "optional"
    assert "gradio" in find(checks, "serve").detail
    assert "[serve]" in find(checks, "serve").remedy
    assert doctor.exit_status(checks) == 0


def test_another_build_of_opencv_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "opencv-python":
            return "4.11"
        raise doctor.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    assert doctor.installed_version("opencv-python-headless") == "4.11"


def test_a_torch_that_does_not_load_is_reported_with_its_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(name: str) -> Any:
        raise OSError("libcudart.so.13: cannot open shared object file")

    without(monkeypatch)
    monkeypatch.setattr(importlib, "import_module", broken)
    checks = doctor.report(tmp_path)
    assert "libcudart.so.13" in find(checks, "torch").detail
    assert doctor.exit_status(checks) == 1


def test_a_folder_that_cannot_be_written_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    without(monkeypatch)
    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    check = find(doctor.report(tmp_path), "output folder")
    assert check.status == "missing"
    assert str(tmp_path) in check.detail


def test_the_photographs_are_found_where_the_debian_package_puts_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without(monkeypatch)
    monkeypatch.setattr(doctor, "FASHION_FOLDERS", (tmp_path / "photographs",))
    assert find(doctor.report(tmp_path), "Fashion-MNIST").status == "optional"
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "train-images-idx3-ubyte.gz").touch()
    assert find(doctor.report(tmp_path), "Fashion-MNIST").status == "ok"


def test_an_installed_wheel_knows_its_requirements_from_its_metadata(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lines = ["torch>=2.6", "trimesh>=4.5; extra == 'rooms'", "embreex; (os_name == 'none') and extra == 'rooms'"]
    monkeypatch.setattr(doctor, "_PROJECT_FILE", tmp_path / "none.toml")
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: lines)
    without(monkeypatch, "embreex")
    assert set(doctor.declared_requirements()) == {"", "rooms"}
    # embreex is missing, but its marker says that this machine does not need it.
    assert find(doctor.report(tmp_path), "rooms").status == "ok"
