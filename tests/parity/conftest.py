"""Published networks as folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.parity.rebuild import golden, publish


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a golden -> its folder in the published layout."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = publish(golden(name), tmp_path_factory.mktemp("hub") / name)
        return made[name]

    return folder
