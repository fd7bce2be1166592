import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from fourm.errors import CheckpointError, MissingExtraError
from fourm.train.tracking import Tracker, read_log


def test_records_are_lines_with_kind_and_step(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.write("train", 1, {"loss": 2.5})
    tracker.write("eval", 1, {"loss": float("nan")})
    tracker.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == [{"kind": "train", "step": 1, "loss": 2.5}, {"kind": "eval", "step": 1, "loss": None}]


def test_a_resumed_run_drops_what_comes_again(tmp_path: Path) -> None:
    first = Tracker(tmp_path, 0)
    for step in range(1, 6):
        first.write("train", step, {"loss": float(step)})
    first.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # the kill came in the middle of a line
    second = Tracker(tmp_path, 3)
    second.write("train", 4, {"loss": 40.0})
    second.close()
    assert [record["loss"] for record in read_log(tmp_path / "log.jsonl")] == [1.0, 2.0, 3.0, 40.0]


def test_pictures_are_saved_by_step_and_name(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.pictures(12, {"rgb_to_depth": Image.new("RGB", (4, 3), (255, 0, 0))})
    tracker.close()
    picture = Image.open(tmp_path / "pictures" / "step-00000012" / "rgb_to_depth.png")
    assert picture.size == (4, 3)
    assert picture.getpixel((0, 0)) == (255, 0, 0)


def test_a_log_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(CheckpointError, match="cannot write"):
        Tracker(tmp_path / "run", 0)


def test_wandb_without_the_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"fourm\[wandb\]"):
        Tracker(tmp_path, 0, wandb=True)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Tracker(tmp_path, 0, tensorboard=True)
    tracker.write("train", 3, {"loss": 2.5})
    tracker.pictures(3, {"rgb": Image.new("L", (4, 3))})
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 2.5)]
    assert events.Tags()["images"] == ["rgb"]


def test_without_tensorboard_the_log_is_still_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    tracker = Tracker(tmp_path, 0, tensorboard=True)
    tracker.write("train", 1, {"loss": 1.0})
    tracker.close()
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_run_that_ends_before_its_time_says_why_in_its_last_line(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.write("train", 7, {"loss": 1.0})
    tracker.ended(7, CheckpointError("the disk\nis full"))
    tracker.close()
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last.pop("time") > 0
    assert last == {"kind": "end", "step": 7, "error": "CheckpointError", "reason": "the disk\nis full"}


def test_the_reason_goes_when_the_run_goes_on(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    tracker.write("train", 7, {"loss": 1.0})
    tracker.ended(7, KeyboardInterrupt())
    tracker.close()
    Tracker(tmp_path, 7).close()
    assert [record["kind"] for record in read_log(tmp_path / "log.jsonl")] == ["train"]


def test_a_log_that_a_power_cut_has_damaged_goes_on(tmp_path: Path) -> None:
    lines = [b'{"kind": "train", "step": 1}', b"\xff\x00\xfe", b"17", b'{"step": 2}', b'{"kind": "train"}', b'{"kind']
    (tmp_path / "log.jsonl").write_bytes(b"\n".join(lines))
    Tracker(tmp_path, 2).close()
    assert read_log(tmp_path / "log.jsonl") == [{"kind": "train", "step": 1}, {"step": 2}]
