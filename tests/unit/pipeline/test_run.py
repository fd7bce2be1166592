"""Which stages run, which are skipped, which begin anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fourm.errors import ConfigError, FourmError
from fourm.pipeline import StageError, run_pipeline
from fourm.pipeline import run as running
from tests.unit.pipeline.conftest import append, python


def content(tmp_path: Path, name: str) -> str:
    return (tmp_path / "out" / name).read_text()


def test_stages_run_in_order_and_complete_ones_are_skipped(pipeline: Any, tmp_path: Path) -> None:
    both = pipeline(one=([append("log", "1")], ["log"]), two=([append("log", "2")], ["log"]))

    run_pipeline(both)
    run_pipeline(both)

    assert content(tmp_path, "log") == "12"


def test_a_failed_stage_is_named_and_the_next_run_goes_on_from_it(pipeline: Any, tmp_path: Path) -> None:
    needs = python("import sys, pathlib; sys.exit(0 if pathlib.Path('OUT/mended').exists() else 3)")
    broken = pipeline(one=([append("first")], ["first"]), two=([needs, append("second")], ["second"]))

    with pytest.raises(StageError, match=r"stage 'two' failed \(exit status 3\)"):
        run_pipeline(broken)
    (tmp_path / "out" / "mended").touch()
    run_pipeline(broken)

    assert content(tmp_path, "first") == "x"
    assert "x" in content(tmp_path, "second")


def test_a_changed_command_removes_what_its_stage_and_later_ones_wrote(pipeline: Any, tmp_path: Path) -> None:
    run_pipeline(pipeline(one=([append("a")], ["a"]), two=([append("b")], ["b"]), three=([append("c")], ["c"])))
    run_pipeline(pipeline(one=([append("a")], ["a"]), two=([append("b", "y")], ["b"]), three=([append("c")], ["c"])))

    assert [content(tmp_path, name) for name in "abc"] == ["x", "y", "x"]


def test_a_changed_recipe_runs_its_stage_again(pipeline: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps: 1")
    command = append("a").removesuffix('"') + f"; '{recipe}'\" {recipe}"
    run_pipeline(pipeline(one=([command], ["a"])))
    run_pipeline(pipeline(one=([command], ["a"])))
    assert content(tmp_path, "a") == "x"

    (tmp_path / "out" / "a").write_text("old")
    recipe.write_text("steps: 2")
    run_pipeline(pipeline(one=([command], ["a"])))

    assert content(tmp_path, "a") == "x"


def test_measuring_a_tokenizer_names_no_recipe(pipeline: Any, tmp_path: Path) -> None:
    """`tokenizer` is a command there, though a file of its defaults has that name."""
    measure = "fourm evaluate tokenizer OUT/none data"
    with pytest.raises(StageError, match="stage 'one' failed"):
        run_pipeline(pipeline(one=([measure], ["a"])))


def test_what_a_recipe_leaves_to_the_command_line_comes_from_the_command() -> None:
    command = "fourm evaluate documents model=a data=b.jsonl"
    (recipe,) = running._recipes(command)
    assert running._values(recipe, command)["model"] == "a"
    with pytest.raises(ConfigError, match="data is '\\?\\?\\?'"):
        running._values(recipe, "fourm evaluate documents model=a")


def test_an_interrupted_stage_keeps_what_it_has_written(pipeline: Any, tmp_path: Path) -> None:
    fails_once = python(
        "import sys; file = open('OUT/a', 'a'); file.write('x'); file.flush(); sys.exit(file.tell() < 2)"
    )
    stage = {"one": ([fails_once], ["a"])}

    with pytest.raises(StageError):
        run_pipeline(pipeline(**stage))
    run_pipeline(pipeline(**stage))

    assert content(tmp_path, "a") == "xx"


def test_missing_outputs_run_the_stage_again(pipeline: Any, tmp_path: Path) -> None:
    one = pipeline(one=([append("a")], ["a"]))
    run_pipeline(one)
    (tmp_path / "out" / "a").unlink()

    run_pipeline(one)

    assert content(tmp_path, "a") == "x"


def test_a_stage_that_does_not_write_its_output_fails(pipeline: Any) -> None:
    with pytest.raises(StageError, match="ended without writing result"):
        run_pipeline(pipeline(one=([append("other")], ["result"])))


def test_only_outputs_below_the_output_folder_are_removed(pipeline: Any, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run_pipeline(pipeline(one=([append("a")], ["a", "../precious"])))

    run_pipeline(pipeline(one=([append("a", "y")], ["a", "../precious"])))

    assert precious.read_text() == "mine"


def test_seconds_of_the_stages_are_kept(pipeline: Any, tmp_path: Path) -> None:
    run_pipeline(pipeline(one=([append("a")], ["a"]), two=([append("b")], ["b"])))

    seconds = json.loads(content(tmp_path, "stages.json"))

    assert list(seconds) == ["one", "two"]
    assert all(0 < value < 60 for value in seconds.values())


def test_two_runs_never_write_to_the_same_folder(pipeline: Any, tmp_path: Path, monkeypatch: Any) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(running, "_WAIT_SECONDS", 0.2)
    state = tmp_path / "out" / ".stages"
    state.mkdir(parents=True)
    with (state / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        with pytest.raises(FourmError, match="another run is writing"):
            run_pipeline(pipeline(one=([append("a")], ["a"])))

    run_pipeline(pipeline(one=([append("a")], ["a"])))
