"""What generation gives back: values by name, which also know how to be looked at and written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import Tensor

from fourm import config as configs
from fourm.errors import ConfigError
from fourm.files import publish
from fourm.generate.files import png, write, write_uncertainty
from fourm.generate.inputs import GivenValue
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.written import replace_written
from fourm.modality import Modality

if TYPE_CHECKING:
    from PIL import Image

_RESERVED = ("grid", "plan")


class Results(dict[str, Any]):
    """Answers by the names they were asked by, in natural units: `results["depth"]` is (B, 1, H, W) metres.

    In a notebook the labelled picture of them all is shown.

    Args:
        answers: name -> (B, ...) values, or a list of B.
        shown: name -> what its answers show (`fourm.generate.bundle.raw_modality`).
        given: what the model saw, with B samples or one.
        plan: how they were made.
        uncertainty: name -> (B, H, W) where answers are unsure, as `fourm.generate.ensemble` measures it.
    """

    def __init__(
        self,
        answers: Mapping[str, Any],
        *,
        shown: Mapping[str, Modality],
        given: Sequence[GivenValue],
        plan: GenerationPlan,
        uncertainty: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(answers)
        self.shown, self.given, self.plan = dict(shown), list(given), plan
        self.uncertainty = dict(uncertainty or {})

    @property
    def num_samples(self) -> int:
        """B."""
        return len(next(iter(self.values())))

    def grid(self) -> Image.Image:
        """One labelled picture: what was given, then all answers, a row per sample."""
        from fourm.generate.overview import overview

        return overview(self.given, self, self.shown, self.uncertainty)

    def save(self, out: str | Path) -> list[Path]:
        """Write a file per answer, those of several samples numbered, `grid.png`, and `plan.yaml` with all settings.

        What an earlier call has written there vanishes unless it was changed since; other files stay.

        Args:
            out: folder, made if missing.

        Returns:
            the files.

        Raises:
            ConfigError: if the folder cannot be made.
        """
        out = Path(out)
        make_folder(out)
        paths = self.write(out)
        replace_written(paths)
        return paths

    def write(self, out: Path) -> list[Path]:
        """The files of `save`, in a folder that is there and holds none."""
        paths = []
        for name in self:
            stem = f"{name}_" if name in _RESERVED else name
            for number in range(self.num_samples):
                end = "" if self.num_samples == 1 else f"_{number:02d}"
                paths += write(self.shown[name], self[name][number], out, stem + end)
                if name in self.uncertainty:
                    paths += write_uncertainty(self.uncertainty[name][number], out, f"{stem}_uncertainty{end}")
        publish(out / "grid.png", png(self.grid()))
        publish(out / "plan.yaml", as_yaml(self.plan))
        return [*paths, out / "grid.png", out / "plan.yaml"]

    def _repr_png_(self) -> bytes:
        return png(self.grid())


def make_folder(out: Path) -> None:
    """A folder for results.

    Raises:
        ConfigError: if it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"--out {out}: there is a file of that name; choose another folder") from None
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made: {error.strerror}; choose another folder") from None


def check_folder(out: Path) -> None:
    """See, before the work, that a folder for results can be made later.

    Raises:
        ConfigError: if not.
    """
    try:
        above = next(place for place in (out, *out.absolute().parents) if place.exists())
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made: {error.strerror}; choose another folder") from None
    if not above.is_dir():
        raise ConfigError(f"--out {out}: there is a file of the name {above}; choose another folder")
    if not os.access(above, os.W_OK):
        raise ConfigError(f"--out {out}: nothing may be written in {above}; choose another folder")


def as_yaml(plan: GenerationPlan) -> bytes:
    """A plan as a file that `--plan` takes; values at their defaults are left out."""
    values = configs.to_dict(plan)
    plain = configs.to_dict(Step("target"))
    kept = ("target", "scheme", "num_steps", "temperature")
    values = {key: value for key, value in values.items() if key != "models" or value}
    values["steps"] = [
        {key: value for key, value in step.items() if key in kept or value != plain[key]} for step in values["steps"]
    ]
    return yaml.safe_dump(values, sort_keys=False).encode()
