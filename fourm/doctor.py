"""What of the installation works, what is missing, and the command that mends it: `fourm doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from fourm.machine import choose_device, has_bf16, num_cores
from fourm.paths import FASHION_FOLDERS

Status = Literal["ok", "optional", "missing"]

MIN_PYTHON = (3, 11)
_FASHION_FILE = "train-images-idx3-ubyte"
# Other packages that bring the same module.
_ALTERNATIVES = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")}
# Packages whose module has another name.
_MODULES = {"pillow": "PIL", "opencv-python-headless": "cv2"}
_IMPORT = re.compile(r"^\s*(?:from|import)\s+(\w+)", re.MULTILINE)
_GIB = 2**30
_NOT_NEEDED = "not needed on this machine"
_PROJECT_FILE = Path(__file__).resolve().parent.parent / "pyproject.toml"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Args:
        group: heading under which it stands.
        name: what was looked at.
        status: `ok`; `optional`: not there, and only some features need it; `missing`: fourm does not work without it.
        detail: version or finding.
        remedy: what to do about it, empty if nothing is needed.
    """

    group: str
    name: str
    status: Status
    detail: str
    remedy: str = ""


def report(folder: Path | None = None) -> list[Check]:
    """Look at the installation and the machine. Imports every package that fourm would import, if it is there.

    Args:
        folder: where results would be written; by default the current folder.

    Returns:
        One entry per finding, in the order of the printed report.
    """
    requirements = declared_requirements()
    core = [_package(requirement) for requirement in requirements.pop("", [])]
    return [
        _python(),
        *core,
        *(_torch() if any(check.name == "torch" and check.status == "ok" for check in core) else ()),
        *(_extra(name, wanted) for name, wanted in sorted(requirements.items())),
        *_machine(folder or Path.cwd()),
    ]


def exit_status(checks: Iterable[Check]) -> int:
    """0 unless something is missing that fourm does not work without."""
    return int(any(check.status == "missing" for check in checks))


def render(checks: Sequence[Check]) -> str:
    """The report as text, with a summary and the remedies at its end."""
    marks = {"ok": "ok ", "optional": " - ", "missing": "!! "}
    width = max((len(check.name) for check in checks), default=0)
    lines: list[str] = []
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            lines += ["", group] if lines else [group]
        lines.append(f"  {marks[check.status]} {check.name:<{width}}  {check.detail}")
        if check.remedy:
            lines.append(f"      {'':<{width}}  -> {check.remedy}")
    missing = [check.name for check in checks if check.status == "missing"]
    summary = f"Missing: {', '.join(missing)}." if missing else "Everything that fourm needs is there."
    return "\n".join([*lines, "", summary])


def declared_requirements() -> dict[str, list[str]]:
    """What fourm says it needs, as requirement strings by extra; the core stands under the empty name.

    Taken from `pyproject.toml` in a checkout, else from the metadata of the installed package.
    """
    if _PROJECT_FILE.is_file():
        import tomllib

        project = tomllib.loads(_PROJECT_FILE.read_text(encoding="utf-8"))["project"]
        return {"": list(project["dependencies"]), **project["optional-dependencies"]}
    found: dict[str, list[str]] = {"": []}
    for requirement in importlib.metadata.requires("fourm") or ():
        extra = re.search(r"extra == ['\"]([^'\"]+)['\"]", requirement)
        found.setdefault(extra[1] if extra else "", []).append(requirement)
    return found


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, or None; nothing is imported."""
    for name in (distribution, *_ALTERNATIVES.get(distribution, ())):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _python() -> Check:
    version = platform.python_version()
    detail = f"{version} ({sys.executable})"
    if sys.version_info >= MIN_PYTHON:
        return Check("python", "python", "ok", detail)
    wanted = ".".join(map(str, MIN_PYTHON))
    return Check("python", "python", "missing", detail, f"install Python {wanted} or newer")


def _unmet(requirement: str, extra: str = "") -> tuple[str, str, str]:
    """(name, installed version or "", what is wrong or "") of a requirement string that belongs to `extra`."""
    try:
        from packaging.requirements import Requirement
    except ImportError:  # a broken installation is just what this command has to survive
        name = requirement.split(";")[0].split(">")[0].split("=")[0].strip()
        version = installed_version(name) or ""
        return name, version, "" if version else "not installed"
    parsed = Requirement(requirement)
    if parsed.marker is not None and not parsed.marker.evaluate({"extra": extra}):
        return parsed.name, _NOT_NEEDED, ""
    version = installed_version(parsed.name) or ""
    if not version:
        return parsed.name, "", "not installed"
    if not parsed.specifier.contains(version, prereleases=True):
        return parsed.name, version, f"{version}, but {parsed.specifier} is needed"
    return parsed.name, version, ""


@cache
def imported_modules() -> set[str]:
    """Top-level modules that some file of fourm imports."""
    files = Path(__file__).parent.rglob("*.py")
    return {name for file in files for name in _IMPORT.findall(file.read_text(encoding="utf-8"))}


def _import_problem(package: str) -> str:
    """What goes wrong when a package that fourm uses is imported; empty if nothing."""
    try:
        if _is_used(package):
            importlib.import_module(_module(package))
    except Exception as error:  # broken shared libraries raise OSError, ImportError and others
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _is_used(package: str) -> bool:
    return _module(package) in imported_modules()


def _module(package: str) -> str:
    return _MODULES.get(package, package.replace("-", "_"))


def _package(requirement: str) -> Check:
    """One line for a package of the core."""
    group = "core packages"
    name, version, problem = _unmet(requirement)
    wanted = requirement.split(";")[0].strip()
    if problem and not _is_used(name):
        return Check(group, name, "optional", f"{problem}; nothing imports it yet", f"pip install '{wanted}'")
    if problem:
        return Check(group, name, "missing", problem, f"pip install '{wanted}'")
    problem = _import_problem(name)
    if problem:
        return Check(group, name, "missing", problem, f"reinstall it: pip install --force-reinstall '{wanted}'")
    return Check(group, name, "ok", version)


def _extra(extra: str, requirements: Sequence[str]) -> Check:
    """One line for all packages of an extra."""
    found = [_unmet(requirement, extra) for requirement in requirements]
    needed = [(n, problem or _import_problem(n)) for n, version, problem in found if version != _NOT_NEEDED]
    problems = [f"{name} ({problem})" for name, problem in needed if problem]
    if not problems:
        return Check("extras", extra, "ok", ", ".join(name for name, *_ in found))
    detail = "without " + ", ".join(problems)
    target = f"-e '.[{extra}]'" if _PROJECT_FILE.is_file() else f"'fourm[{extra}]'"
    return Check("extras", extra, "optional", detail, f"pip install {target}")


def _torch() -> list[Check]:
    """What torch can use here."""
    group, torch = "torch", importlib.import_module("torch")
    checks = [Check(group, "device", "ok", _device(torch))]
    bf16 = has_bf16(choose_device())
    detail = "computed by the device itself" if bf16 else "imitated, so precision: auto is fp32 here"
    checks.append(Check(group, "bf16", "ok" if bf16 else "optional", detail))
    backends = [
        name
        for name, there in (
            ("gloo", torch.distributed.is_available() and torch.distributed.is_gloo_available()),
            ("nccl", torch.distributed.is_available() and torch.distributed.is_nccl_available()),
        )
        if there
    ]
    status: Status = "ok" if backends else "optional"
    checks.append(Check(group, "distributed", status, ", ".join(backends) or "no backend in this build of torch"))
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++") or shutil.which("cl")
    if compiler:
        checks.append(Check(group, "torch.compile", "ok", f"compiler {compiler}"))
    else:
        checks.append(
            Check(group, "torch.compile", "optional", "no C++ compiler", "apt-get install g++, or your system's way")
        )
    return checks


def _device(torch: object) -> str:
    """The device that `device: auto` chooses, and how many of them."""
    cuda = torch.cuda  # type: ignore[attr-defined]
    if cuda.is_available():
        names = [str(cuda.get_device_name(i)) for i in range(cuda.device_count())]
        memory = cuda.get_device_properties(0).total_memory / _GIB
        return f"cuda: {len(names)} x {names[0]}, {memory:.0f} GiB each"
    if torch.backends.mps.is_available():  # type: ignore[attr-defined]
        return "mps: Apple GPU"
    return "cpu: no GPU found"


def _machine(folder: Path) -> list[Check]:
    group = "machine"
    memory = _memory_bytes()
    free = shutil.disk_usage(_existing(folder)).free
    git = shutil.which("git")
    fashion = next((path for path in FASHION_FOLDERS if list(path.glob(f"{_FASHION_FILE}*"))), None)
    return [
        Check(group, "processor", "ok", f"{num_cores()} cores, {platform.machine()}"),
        Check(
            group,
            "memory",
            "ok" if memory is None or memory >= 6 * _GIB else "optional",
            "unknown" if memory is None else f"{memory / _GIB:.1f} GiB",
            "" if memory is None or memory >= 6 * _GIB else "the quick start needs 6 GiB",
        ),
        Check(
            group,
            "free disk",
            "ok" if free >= 2 * _GIB else "optional",
            f"{free / _GIB:.1f} GiB",
            "" if free >= 2 * _GIB else "the quick start needs 2 GiB",
        ),
        _writable(folder),
        Check(
            group,
            "git",
            "ok" if git else "optional",
            git or "not found",
            "" if git else "install git: checkpoints then record the version of the code",
        ),
        Check(
            group,
            "Fashion-MNIST",
            "ok" if fashion else "optional",
            str(fashion or "not found"),
            ""
            if fashion
            else "for `make fashion`: apt-get install dataset-fashion-mnist (or torchvision downloads it)",
        ),
    ]


def _memory_bytes() -> int | None:
    """Memory of the machine or of the container, whichever is less; None where the system does not say."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return memory
    return min(memory, int(limit)) if limit.isdigit() else memory


def _existing(folder: Path) -> Path:
    """`folder` or the nearest folder above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.is_dir())


def _writable(folder: Path) -> Check:
    target = _existing(folder / "outputs")
    try:
        with tempfile.TemporaryFile(dir=target):
            return Check("machine", "output folder", "ok", str(folder / "outputs"))
    except OSError as error:
        remedy = "change its rights, or run fourm in a folder of your own"
        return Check("machine", "output folder", "missing", f"cannot write to {target}: {error.strerror}", remedy)
