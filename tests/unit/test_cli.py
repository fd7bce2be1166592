"""The `fourm` command: quick answers, one message per error, exit statuses."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fourm import cli
from fourm.errors import CheckpointError, DataError


def run(*arguments: str) -> int:
    try:
        cli.main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


COMMANDS = [
    [],
    *([name] for name in cli.cli.commands),
    *(["prepare", name] for name in cli.prepare.commands),
    *(["evaluate", name] for name in cli.evaluate.commands),
    *(["convert", name] for name in cli.convert.commands),
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words: list[str], capsys: Any) -> None:
    assert run(*words, "--help") == 0

    text = capsys.readouterr().out
    assert text.startswith(f"Usage: {' '.join(['fourm', *words])} ") or "Usage: " in text
    # A sentence, after the usage.
    assert any(line.strip().endswith(".") for line in text.splitlines()[1:])


def test_help_lists_the_jobs(capsys: Any) -> None:
    run("--help")

    text = capsys.readouterr().out
    for job in (
        "prepare",
        "tokenize",
        "pretrain",
        "generate",
        "finetune",
        "evaluate",
        "convert",
        "upload",
        "watch",
        "run",
        "doctor",
    ):
        assert f"\n  {job} " in text


def test_version(capsys: Any) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.startswith("fourm, version ")


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["pretrain", "--help"], ["pretrain", "rooms", "trian.max_steps=3"], ["pretrain", "no_such_recipe"],
     ["train-tokenizer", "rooms_depth", "tokenizer.kind=x"], ["run", "quickstart", "--list"],
     ["evaluate", "tokenizer", "--help"], ["evaluate", "rooms", "kind=x"], ["evaluate", "tokenizer", "a", "b", "c=1"],
     ["convert", "--help"], ["convert", "ml4m", "a", "b", "--tokenizer", "x"], ["convert", "list"]],
    ids=" ".join,
)  # fmt: skip
def test_help_and_config_errors_come_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom fourm.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'timm', 'diffusers', 'matplotlib', 'cv2', 'trimesh'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert ended.returncode == 0, ended.stderr


def test_a_printed_recipe_is_complete_and_can_be_used_again(tmp_path: Path, capsys: Any) -> None:
    assert run("pretrain", "rooms", "train.max_steps=7", "--print") == 0
    printed = capsys.readouterr().out
    (tmp_path / "again.yaml").write_text(printed)

    assert run("pretrain", str(tmp_path / "again.yaml"), "--print") == 0

    assert capsys.readouterr().out == printed
    assert "max_steps: 7" in printed
    assert "clip_grad: 1.0" in printed


@pytest.mark.parametrize(
    "words",
    [["rooms", "--print"], ["--print", "rooms"], ["recipe", "rooms", "--print"], ["recipe", "--print", "rooms"]],
)
def test_an_evaluation_is_named_by_its_recipe(words: list[str], capsys: Any) -> None:
    assert run("evaluate", *words) == 0
    assert capsys.readouterr().out.startswith("kind: rooms\n")


@pytest.mark.parametrize("folder", ["outputs/depth", "1e3", "a: [b", "with space"])
def test_a_tokenizer_to_evaluate_and_its_data_are_arguments(folder: str, capsys: Any) -> None:
    assert run("evaluate", "tokenizer", folder, "d/{00..02}.tar", "crop.kind=none", "--print") == 0

    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["kind"] == "tokenizer"
    assert (printed["tokenizer"], printed["data"]) == (folder, "d/{00..02}.tar")
    assert printed["output"] == f"{folder}/evaluation"
    assert printed["crop"]["kind"] == "none"


def test_check_reports_what_a_recipe_costs(capsys: Any) -> None:
    assert run("pretrain", "rooms", "--check") == 0

    text = capsys.readouterr().out
    for word in ("parameters", "encoder", "tokens per step", "FLOPs per step", "GiB"):
        assert word in text


def test_stages_of_a_pipeline_are_listed(capsys: Any) -> None:
    assert run("run", "quickstart", "scale=small", "--list") == 0

    assert "fourm prepare rooms outputs/quickstart/rooms/train --num 120" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DataError("the file x is damaged"), 1, "DataError: the file x is damaged\n"),
        (CheckpointError("no model in y"), 1, "CheckpointError: no model in y\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out/a"), 1, "cannot write out/a: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "out/a"), 1, "choose a folder you may write to"),
        (OSError(errno.EFBIG, "File too large", "out/a"), 1, "cannot write out/a: File too large"),
        (SystemExit(143), 143, ""),
    ],
)
def test_errors_end_with_one_message_and_their_status(
    error: BaseException, status: int, message: str, monkeypatch: Any, capsys: Any
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr("fourm.prepare.rooms.render", fail)

    assert run("prepare", "rooms", "out") == status

    written = capsys.readouterr().err
    assert message in written.lstrip("\n")
    assert "Traceback" not in written
    assert written.strip().count("\n") == 0


def test_mistakes_of_the_program_keep_their_traceback(monkeypatch: Any) -> None:
    def fail(**options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("fourm.prepare.rooms.render", lambda *a, **o: fail())

    with pytest.raises(ZeroDivisionError):
        cli.main(["prepare", "rooms", "out"])


def test_options_reach_the_job(monkeypatch: Any, tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("fourm.prepare.rooms.render", lambda out, **options: seen.update(options, out=out))

    run("prepare", "rooms", str(tmp_path), "--num", "3", "--size", "32", "--seed", "5", "--workers", "2")

    assert seen == {"out": tmp_path, "num": 3, "size": 32, "seed": 5, "workers": 2, "shard_size": 250}


def test_watch_shows_runs_and_writes_their_page(tmp_path: Path, capsys: Any) -> None:
    for name, loss in (("one", 3.5), ("two", 2.5)):
        (tmp_path / name).mkdir()
        lines = [{"kind": "train", "step": n, "tokens": n, "loss": loss - n, "lr": 0.1} for n in (1, 2)]
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("watch", str(tmp_path / "one"), str(tmp_path / "two")) == 0
    shown = capsys.readouterr().out
    assert "one" in shown
    assert "1.5000" in shown
    assert run("watch", str(tmp_path), "--html", str(tmp_path / "page.html")) == 0
    assert "two" in (tmp_path / "page.html").read_text()
    assert run("watch", str(tmp_path / "two" / "log.jsonl"), "--html", str(tmp_path / "none" / "p.html")) == 0


def test_watching_a_folder_without_a_run_is_an_error(tmp_path: Path, capsys: Any) -> None:
    assert run("watch", str(tmp_path)) == 1
    assert "holds no log.jsonl" in capsys.readouterr().err
