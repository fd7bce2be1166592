"""What a pipeline's file may hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from fourm.errors import ConfigError
from fourm.pipeline import Pipeline, Stage, describe, load
from fourm.pipeline.schema import command_words

FILE = """
name: demo
output: out/demo
variables: {rooms: 4000, steps: 10}
scales: {small: {rooms: 12}}
stages:
  - name: rooms
    run: ["fourm prepare rooms ${output}/rooms --num ${variables.rooms}"]
    outputs: [rooms]
  - name: train
    run: ["fourm pretrain rooms train.max_steps=${variables.steps}"]
    ranks: auto
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "demo.yaml"
    path.write_text(FILE)
    return str(path)


def test_variables_and_the_output_stand_in_the_commands(file: str) -> None:
    assert load(file).stages[0].run == ["fourm prepare rooms out/demo/rooms --num 4000"]


def test_a_scale_replaces_its_variables_and_no_others(file: str) -> None:
    small = load(file, ["scale=small"])

    assert small.stages[0].run == ["fourm prepare rooms out/demo/rooms --num 12"]
    assert small.stages[1].run == ["fourm pretrain rooms train.max_steps=10"]


def test_overrides_go_before_the_scale(file: str) -> None:
    chosen = load(file, ["scale=small", "variables.rooms=3", "output=elsewhere"])

    assert chosen.stages[0].run == ["fourm prepare rooms elsewhere/rooms --num 3"]


@pytest.mark.parametrize("override", ["scale=tiny", "variables.room=3", "outputs=x"])
def test_unknown_scales_variables_and_keys_are_refused(file: str, override: str) -> None:
    with pytest.raises(ConfigError, match="Known: "):
        load(file, [override])


def test_commands_are_of_fourm_or_python() -> None:
    with pytest.raises(ConfigError, match="must begin with fourm or python: rm -r x"):
        Stage("clean", ["rm -r x"])


@pytest.mark.parametrize("ranks", ["0", "-1", "two", ""])
def test_ranks_are_a_number_or_auto(ranks: str) -> None:
    with pytest.raises(ConfigError, match="expected auto or a number"):
        Stage("train", ["fourm doctor"], ranks=ranks)


@pytest.mark.parametrize("command", ["", 'fourm run "x'])
def test_commands_must_be_readable(command: str) -> None:
    with pytest.raises(ConfigError, match="command"):
        Stage("train", [command])


def test_stage_names_are_unique() -> None:
    stage = Stage("train", ["fourm doctor"])
    with pytest.raises(ConfigError, match="'train'"):
        Pipeline("demo", Path("out"), [stage, stage])


def test_description_lists_stages_and_commands(file: str) -> None:
    assert describe(load(file)).splitlines() == [
        "rooms",
        "  fourm prepare rooms out/demo/rooms --num 4000",
        "train",
        "  fourm pretrain rooms train.max_steps=10",
    ]


@pytest.mark.parametrize("name", ["emu", "vl_gpt", "vila"])
def test_what_a_stage_reads_of_the_output_was_written_by_one_before_it(name: str) -> None:
    pipeline = load(name)
    root, written = f"outputs/{name}/", list[str]()
    assert all(stage.outputs for stage in pipeline.stages)
    for stage in pipeline.stages:
        for word in (word.rpartition("=") for command in stage.run for word in command_words(command)):
            if word[2].startswith(root) and word[0] in ("model", "painter", "data"):
                place = word[2].removeprefix(root)
                assert any(
                    out == place or out.startswith(place + "/") or place.startswith(out + "/") for out in written
                )
        written += stage.outputs


@pytest.mark.parametrize("name", ["quickstart", "fashion"])
@pytest.mark.parametrize("scale", ["full", "small"])
def test_shipped_pipelines_load_and_every_stage_names_what_it_writes(name: str, scale: str) -> None:
    pipeline = load(name, [f"scale={scale}"])

    assert pipeline.output == Path("outputs") / name
    assert all(stage.outputs for stage in pipeline.stages)
    assert pipeline.stages[-1].outputs == ["metrics.json", "report.html"]
