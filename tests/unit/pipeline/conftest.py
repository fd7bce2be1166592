"""Small pipelines of plain Python commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from fourm.pipeline import Pipeline, load

Make = Callable[..., Pipeline]


@pytest.fixture
def pipeline(tmp_path: Path) -> Make:
    """A function that makes a pipeline of stages given as keyword arguments, name -> (commands, outputs).

    In commands `OUT` stands for the output folder.
    """

    def make(*overrides: str, **stages: tuple[list[str], list[str]]) -> Pipeline:
        out = tmp_path / "out"
        plain = {
            "name": "small",
            "output": str(out),
            "stages": [
                {"name": name, "run": [command.replace("OUT", str(out)) for command in run], "outputs": outputs}
                for name, (run, outputs) in stages.items()
            ],
        }
        path = tmp_path / "pipeline.yaml"
        path.write_text(yaml.safe_dump(plain, sort_keys=False))
        return load(str(path), overrides)

    return make


def python(code: str) -> str:
    """A command that runs code without double quotes in it."""
    assert '"' not in code
    return f'python -c "{code}"'


def append(name: str, text: str = "x") -> str:
    """A command that appends to a file, so that runs can be counted."""
    return python(f"open('OUT/{name}', 'a').write('{text}')")
