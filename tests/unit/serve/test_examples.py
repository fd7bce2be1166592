from pathlib import Path

import pytest

from fourm.errors import ConfigError
from fourm.serve.examples import load_examples
from fourm.serve.fields import Field
from fourm.serve.limits import Limits


def test_folders_as_the_command_writes_them_are_examples(
    fields: dict[str, Field], photo: bytes, tmp_path: Path
) -> None:
    first = tmp_path / "all" / "bedroom"
    first.mkdir(parents=True)
    (first / "rgb.png").write_bytes(photo)
    (first / "caption.txt").write_text("a bed\n")
    (first / "plan.yaml").write_text("steps: []")
    (tmp_path / "all" / "empty").mkdir()
    found = load_examples(tmp_path / "all", tmp_path / "shown", list(fields.values()), Limits())
    assert list(found) == ["bedroom"]
    assert found["bedroom"]["caption"] == "a bed\n"
    assert Path(found["bedroom"]["rgb"]).read_bytes() == photo
    assert Path(found["bedroom"]["rgb"]).is_relative_to(tmp_path / "shown")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no folder in it holds a file"), (b"no image", "first: given rgb: .*not an image")]
)
def test_examples_that_cannot_be_used_are_named(
    fields: dict[str, Field], tmp_path: Path, content: bytes | None, message: str
) -> None:
    (tmp_path / "all" / "first").mkdir(parents=True)
    if content is not None:
        (tmp_path / "all" / "first" / "rgb.png").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_examples(tmp_path / "all", tmp_path / "shown", list(fields.values()), Limits())


def test_a_missing_folder_is_named(fields: dict[str, Field], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        load_examples(tmp_path / "nowhere", tmp_path / "shown", list(fields.values()), Limits())
