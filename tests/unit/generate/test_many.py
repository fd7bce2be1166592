import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.generate import asking, many
from fourm.generate.answer import any_to_any
from fourm.generate.asking import Done
from fourm.generate.many import run_many
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.prompts import open_prompts
from fourm.generate.results import Results
from fourm.machine import Part
from fourm.rng import torch_seed
from fourm.tokenizers.text import train_wordpiece
from tests.unit.generate.toy import ToyBundle, build_model

WHOLE = Part()
HOT = GenerationPlan([Step("depth", num_steps=2)])
CAPTIONS = ["a red sofa", "a blue bed", "two chairs", "a lamp", "a table and a bed"]


def go(bundle: ToyBundle, prompts: object, out: Path, targets: str = "depth", **options: Any) -> Done:
    given = options.pop("given", [])
    options = {"device": "cpu", "part": WHOLE, **options}
    return run_many(bundle, prompts=str(prompts), given=given, targets=targets.split(","), out=out, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    (tmp_path / "captions.txt").write_text("\n".join([*CAPTIONS, ""]))
    return tmp_path / "captions.txt"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("b/kitchen.png", "a/hall.jpg", "c.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(len(name)).integers(0, 256, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


def test_every_line_gets_a_folder_of_answers(bundle: ToyBundle, captions: Path, tmp_path: Path) -> None:
    done = go(bundle, captions, tmp_path / "out", "depth,rgb")
    assert (done.written, done.skipped, done.rejected) == (5, 0, [])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [*(f"{n:06d}" for n in range(5)), "settings.json"]
    files = sorted(path.name for path in (tmp_path / "out" / "000003").iterdir())
    assert files == ["depth.png", "grid.png", "plan.yaml", "prompt.sha256", "rgb.png"]


def test_neither_batch_nor_part_nor_the_other_prompts_change_an_answer(
    bundle: ToyBundle, captions: Path, tmp_path: Path
) -> None:
    go(bundle, f"caption={captions}", tmp_path / "a", "depth,semseg", num_samples=2, batch_size=1)
    go(bundle, captions, tmp_path / "b", "depth,semseg", num_samples=2, batch_size=64)
    for index in (1, 0, 2):
        go(bundle, captions, tmp_path / "c", "depth,semseg", num_samples=2, part=Part(index, 3), batch_size=4)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_a_prompt_is_answered_as_it_is_alone(bundle: ToyBundle, captions: Path, tmp_path: Path) -> None:
    go(bundle, captions, tmp_path / "out", seed=5)
    seeds = torch.tensor([torch_seed(5, "prompt", "000001", 0)])
    any_to_any(bundle, {"caption": CAPTIONS[1]}, ["depth"], seeds=seeds).save(tmp_path / "alone")
    assert (tmp_path / "alone" / "depth.png").read_bytes() == (tmp_path / "out" / "000001" / "depth.png").read_bytes()


def test_only_what_is_missing_is_made(bundle: ToyBundle, captions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(bundle, captions, out)
    before = contents(out)
    for path in (out / "000002").iterdir():
        path.unlink()
    (out / "000002").rmdir()
    stamp = (out / "000001").stat().st_mtime_ns
    done = go(bundle, captions, out)
    assert (done.written, done.skipped) == (1, 4)
    assert contents(out) == before
    assert (out / "000001").stat().st_mtime_ns == stamp


def test_a_run_that_is_killed_while_it_writes_leaves_whole_answers_only(
    bundle: ToyBundle, captions: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    out, written = tmp_path / "out", Results.write
    calls: list[Path] = []

    def killed(self: Results, folder: Path) -> list[Path]:
        calls.append(folder)
        if len(calls) == 3:
            folder.mkdir(exist_ok=True)
            (folder / "depth.png").write_bytes(b"half")
            monkeypatch.setattr(many.shutil, "rmtree", lambda *a, **k: None)  # a killed process cleans up nothing
            raise KeyboardInterrupt
        return written(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Results, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            go(bundle, captions, out)
    monkeypatch.undo()
    assert sorted(p.name for p in out.iterdir() if not p.name.startswith(".")) == ["000000", "000001", "settings.json"]
    assert [p for p in out.iterdir() if p.name.startswith(".")]
    done = go(bundle, captions, out)
    assert (done.written, done.skipped) == (3, 2)
    go(bundle, captions, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_answers_of_other_settings_are_not_mixed(bundle: ToyBundle, captions: Path, tmp_path: Path) -> None:
    go(bundle, captions, tmp_path / "out")
    with pytest.raises(
        ConfigError, match=r"holds answers of another command: seed was 0 and is 1. Choose another --out"
    ):
        go(bundle, captions, tmp_path / "out", seed=1)
    with pytest.raises(ConfigError, match="plan was None and is"):
        go(bundle, captions, tmp_path / "out", plan=GenerationPlan([Step("depth", num_steps=2)]))
    with pytest.raises(ConfigError, match="sees was {} and is"):
        go(bundle, captions, tmp_path / "out", sees=["depth=caption"])
    with pytest.raises(ConfigError, match="bf16 was False and is True"):
        go(bundle, captions, tmp_path / "out", bf16=True)
    (tmp_path / "others.txt").write_text(captions.read_text())
    with pytest.raises(ConfigError, match=r"prompts was '.*captions.txt' and is '.*others.txt'"):
        go(bundle, tmp_path / "others.txt", tmp_path / "out")


def test_answers_with_another_text_tokenizer_are_not_mixed(bundle: ToyBundle, captions: Path, tmp_path: Path) -> None:
    go(bundle, captions, tmp_path / "out")
    words = train_wordpiece(["other words"] * 4, vocab_size=400, num_sentinels=20, num_coordinates=50)
    with pytest.raises(ConfigError, match="text was '[0-9a-f]+' and is '[0-9a-f]+'"):
        go(ToyBundle(bundle.model, bundle.tokenizers, words), captions, tmp_path / "out")


def test_a_prompt_that_has_changed_is_answered_again(bundle: ToyBundle, captions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(bundle, captions, out, plan=HOT)
    captions.write_text("\n".join(["a red sofa", "a lamp beside a table", *CAPTIONS[2:]]))
    done = go(bundle, captions, out, plan=HOT)
    assert (done.written, done.skipped) == (1, 4)
    go(bundle, captions, tmp_path / "anew", plan=HOT)
    assert contents(out) == contents(tmp_path / "anew")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_a_photograph_or_mask_that_has_changed_is_answered_again(
    bundle: ToyBundle, photos: Path, tmp_path: Path
) -> None:
    mask = np.zeros((20, 16), np.uint8)
    mask[:, :8] = 255
    Image.fromarray(mask).save(photos / "mask.png")
    line = {"rgb": "c.png", "known": {"rgb": "mask.png"}}
    (tmp_path / "photos" / "prompts.jsonl").write_text(json.dumps(line))
    places = {"a": photos / "prompts.jsonl", "b": f"rgb={photos / 'b'}"}
    for name, place in places.items():
        assert go(bundle, place, tmp_path / name).written == 1
        assert go(bundle, place, tmp_path / name).skipped == 1
    Image.fromarray(mask.T[:20].repeat(2, 0)[:20].repeat(2, 1)[:, :16]).save(photos / "b" / "kitchen.png")
    Image.fromarray(255 - mask).save(photos / "mask.png")
    for name, place in places.items():
        assert go(bundle, place, tmp_path / name).written == 1


def test_photographs_may_have_names_of_any_script(bundle: ToyBundle, photos: Path, tmp_path: Path) -> None:
    names = ["日本", "中国", "rejected-house", "rejected_00001"]
    (photos / "all").mkdir()
    for name in names:
        shutil.copy(photos / "c.png", photos / "all" / f"{name}.png")
    done = go(bundle, f"rgb={photos / 'all'}", tmp_path / "out")
    assert done.rejected == []
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == set(names)


@pytest.mark.parametrize("key", ["rejected.jsonl", "rejected_00001.jsonl", "settings.json"])
def test_names_of_its_own_files_are_no_keys(key: str, bundle: ToyBundle, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(json.dumps({"key": key, "caption": "a bed"}))
    with pytest.raises(DataError, match="is the name of a file of this command"):
        go(bundle, tmp_path / "p.jsonl", tmp_path / "out")


def test_what_another_process_writes_is_left_alone(bundle: ToyBundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "p.jsonl").write_text('{"key": "a", "caption": "a bed"}')
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        kept = [out / f".a.b.{process.pid}-0123abcd.tmp", out / f".a.{process.pid}-0123abcd.tmp", out / ".a.b.tmp"]
        gone = out / f".a.{os.getpid()}-0123abcd.tmp"
        for folder in (*kept, gone):
            folder.mkdir(parents=True)
        go(bundle, tmp_path / "p.jsonl", out)
        assert all(folder.is_dir() for folder in kept)
        assert not gone.exists()
        assert process.stdin is not None
        process.stdin.close()


def test_a_prompt_that_another_process_answered_meanwhile_is_done(
    bundle: ToyBundle, captions: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    out, written = tmp_path / "out", Results.write
    go(bundle, captions, tmp_path / "whole")

    def slow(self: Results, folder: Path) -> list[Path]:
        paths = written(self, folder)
        shutil.copytree(tmp_path / "whole" / "000000", out / "000000", dirs_exist_ok=True)
        return paths

    monkeypatch.setattr(Results, "write", slow)
    assert go(bundle, captions, out).written == 5
    assert contents(out) == contents(tmp_path / "whole")


def test_answers_of_another_model_are_not_mixed_wherever_it_lies(
    bundle: ToyBundle, captions: Path, tmp_path: Path
) -> None:
    go(bundle, captions, tmp_path / "out")
    same = ToyBundle(build_model(bundle.model.modalities, num_register_tokens=2), bundle.tokenizers, bundle.text)
    assert go(same, captions, tmp_path / "out").skipped == 5
    trained = ToyBundle(
        build_model(bundle.model.modalities, num_register_tokens=2, seed=1), bundle.tokenizers, bundle.text
    )
    with pytest.raises(ConfigError, match="holds answers of another command: model was '[0-9a-f]+' and is"):
        go(trained, captions, tmp_path / "out")


def test_what_a_target_sees_holds_for_every_prompt(bundle: ToyBundle, captions: Path, tmp_path: Path) -> None:
    labels = f"semseg={_labels(tmp_path)}"
    go(bundle, captions, tmp_path / "out", given=[labels], sees=["depth=semseg"], plan=HOT)
    depths = [(tmp_path / "out" / f"{n:06d}" / "plan.yaml").read_text() for n in range(5)]
    assert all("- tok_semseg@16" in plan for plan in depths)


def test_a_folder_of_images_gives_one_modality(bundle: ToyBundle, photos: Path, tmp_path: Path) -> None:
    go(bundle, f"rgb={photos}", tmp_path / "out", "caption,depth", given=["semseg=" + _labels(tmp_path)])
    names = {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()}
    assert names == {"a_hall", "b_kitchen", "c"}


def _labels(folder: Path) -> str:
    Image.fromarray(np.full((16, 16), 3, np.uint8)).save(folder / "labels.png")
    return str(folder / "labels.png")


def test_a_data_set_gives_several_modalities(bundle: ToyBundle, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for source in ("rgb@16", "caption", "tok_semseg@16"):
        (data / source).mkdir(parents=True)
    for n in range(2):
        Image.fromarray(np.full((16, 16, 3), 40 * n, np.uint8)).save(data / "rgb@16" / f"{n}.png")
        (data / "caption" / f"{n}.json").write_text(json.dumps(["a bed " * 9 if n else "a bed", "second"]))
        np.save(data / "tok_semseg@16" / f"{n}.npy", np.full((3, 16), n))
    prompts = open_prompts(bundle, f"rgb,caption,tok_semseg={data}")
    second = prompts[1]
    assert second.key == "1"
    assert second.names == ("rgb", "caption", "tok_semseg")
    given = {name: second.read(name, name) for name in second.names}
    assert given["tok_semseg"].facts["ids"].tolist() == [[1] * 16]
    assert given["caption"].facts["ids"].shape == (1, 12)  # cut as in training
    torch.testing.assert_close(given["rgb"].facts["values"], torch.full((1, 3, 16, 16), 40 / 255 * 2 - 1))
    assert go(bundle, f"rgb,caption,tok_semseg={data}", tmp_path / "out").written == 2


def test_lines_of_json_may_differ_in_what_they_give(bundle: ToyBundle, photos: Path, tmp_path: Path) -> None:
    mask = np.zeros((20, 16), np.uint8)
    mask[:, :8] = 255
    Image.fromarray(mask).save(photos / "mask.png")
    lines: list[dict[str, Any]] = [
        {"caption": "a bed"},
        {"key": "mine", "rgb": "c.png", "caption": "a sofa"},
        {"rgb": "c.png", "known": {"rgb": "mask.png"}},
        {"det": {"instances": [{"boxes": [0, 0, 1, 1], "class_name": "bed", "score": 1}]}},
        {"det": [{"boxes": [0, 0, 1, 1], "class_name": "bed"}]},
    ]
    (photos / "prompts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    done = go(bundle, photos / "prompts.jsonl", tmp_path / "out", "rgb", num_samples=2, ensemble=True)
    assert done.rejected == []
    folders = {p.name for p in (tmp_path / "out").iterdir() if p.is_dir()}
    assert folders == {"000000", "mine", "000002", "000003", "000004"}
    assert (tmp_path / "out" / "mine" / "rgb_uncertainty.png").is_file()


def test_the_known_part_of_a_photograph_stays_in_every_answer(bundle: ToyBundle, tmp_path: Path) -> None:
    flat = np.repeat(np.repeat(np.arange(16, dtype=np.uint8).reshape(4, 4) * 17, 4, 0), 4, 1)[..., None].repeat(3, 2)
    Image.fromarray(flat).save(tmp_path / "flat.png")
    Image.fromarray(np.where(np.arange(16) < 8, 255, 0).astype(np.uint8)[None].repeat(16, 0)).save(
        tmp_path / "mask.png"
    )
    line = {"rgb": "flat.png", "known": {"rgb": "mask.png"}}
    (tmp_path / "prompts.jsonl").write_text(json.dumps(line))
    go(bundle, tmp_path / "prompts.jsonl", tmp_path / "a", "rgb")
    options: dict[str, Any] = {"given": [f"rgb={tmp_path / 'flat.png'}"], "known": [f"rgb={tmp_path / 'mask.png'}"]}
    (tmp_path / "captions.txt").write_text("a bed")
    go(bundle, tmp_path / "captions.txt", tmp_path / "b", "rgb", **options)
    for folder in "ab":
        with Image.open(tmp_path / folder / "000000" / "rgb.png") as painted:
            np.testing.assert_array_equal(np.asarray(painted)[:, :8], flat[:, :8])


def test_a_bad_prompt_is_reported_and_stops_nothing(bundle: ToyBundle, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    lines = [
        '{"caption": "a bed"}', "no json", "[1, 2]", "{}", '{"caption": ""}', '{"sound": "x.wav"}',
        '{"rgb": "nowhere.png"}', '{"rgb": "broken.png"}', '{"rgb": 7}', '{"key": "same", "caption": "a bed"}',
        '{"key": "same", "caption": "a sofa"}', '{"key": "../../rejected", "caption": "a bed"}',
        '{"key": "rejected.jsonl", "caption": "a bed"}', '{"depth": "c.png", "caption": "a bed"}',
        '{"caption": ["a bed", "a sofa"]}', '{"caption": {"ids": [[1]]}}', '{"caption": "a sofa"}',
    ]  # fmt: skip
    (photos / "prompts.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out"
    done = go(bundle, photos / "prompts.jsonl", out)
    assert done.written == 3  # a key cannot lead out of the folder
    reported = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert reported == done.rejected
    assert len(reported) == len(lines) - 3
    told = {one["where"].rpartition(" ")[2]: one["error"] for one in reported}
    expected = {
        "2": "this is no JSON", "3": "expected a mapping", "4": "expected values by name", "5": "the text is empty",
        "6": "cannot read 'sound'", "7": "there is no file", "8": "not an image", "9": "expected the path of a file",
        "10": "2 prompts have the key 'same'", "11": "2 prompts have the key 'same'", "13": "name of a file",
        "14": "cannot read it as depth", "15": "one text per line", "16": "expected a text",
    }  # fmt: skip
    for line, message in expected.items():
        assert message in told[line], told[line]
    assert str(done) == f"3 answered, 14 rejected: see {out / 'rejected.jsonl'}"
    assert {p.name for p in out.iterdir() if p.is_dir()} == {"000000", "_.._rejected", "000016"}

    (photos / "prompts.jsonl").write_text(lines[0] + "\n" * 16 + lines[-1])
    again = go(bundle, photos / "prompts.jsonl", out)
    assert (again.written, again.skipped) == (0, 2)
    assert not (out / "rejected.jsonl").exists()


def test_a_prompt_that_fails_in_the_model_fails_alone(
    bundle: ToyBundle, captions: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    follow = asking.follow

    def failing(bundle: Any, values: Any, *rest: Any, **options: Any) -> Results:
        if "two chairs" in values[0].pictures:
            raise CheckpointError("the model's logits are not finite")
        return follow(bundle, values, *rest, **options)

    monkeypatch.setattr(asking, "follow", failing)
    done = go(bundle, captions, tmp_path / "out")
    assert done.written == 4
    assert [one["key"] for one in done.rejected] == ["000002"]


def test_each_process_reports_its_own_share(bundle: ToyBundle, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"caption": "a bed"}\nbad\n{"caption": "a sofa"}\nbad\n')
    with pytest.raises(DataError, match=r"not one of 2 prompts can be followed. .*line 2: this is no JSON"):
        go(bundle, tmp_path / "p.jsonl", tmp_path / "out", part=Part(1, 2))
    go(bundle, tmp_path / "p.jsonl", tmp_path / "out", part=Part(0, 2))
    assert [p.name for p in (tmp_path / "out").glob("rejected*")] == ["rejected_00001.jsonl"]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("nowhere.txt", {}, "nowhere.txt: cannot be read: No such file"),
        ("empty.txt", {}, "the file is empty"),
        ("latin.txt", {}, "no text in UTF-8"),
        ("x" * 300, {}, "there is no such file or folder"),
        ("captions.txt", {"num_samples": 0}, "num_samples is 0; expected a whole number"),
        ("captions.txt", {"batch_size": 0}, "batch_size is 0; expected a whole number"),
        ("photo.gif", {}, "there is no such file or folder"),
        ("FOLDER", {}, "say what the model is to see of it: rgb="),
        ("sound=FOLDER", {}, "cannot read 'sound'"),
        ("rgb,caption=captions.txt", {}, "a line holds one text"),
        ("captions.txt", {"targets": "dept"}, "Did you mean 'depth'"),
        ("captions.txt", {"plan": GenerationPlan([Step("semseg")])}, "the plan does not generate 'depth'"),
        ("captions.txt", {"known": ["rgb=mask.png"]}, "belongs to a --given"),
        ("captions.txt", {"given": ["caption=a bed"]}, "given to all prompts and by this one"),
        ("captions.txt", {"targets": "caption"}, "both given whole and to be generated"),
    ],
)
def test_what_is_wrong_for_all_is_told_at_once(
    prompts: str, options: dict[str, Any], message: str, bundle: ToyBundle, captions: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(captions.parent)
    Path("empty.txt").write_text("\n\n")
    Path("latin.txt").write_bytes(b"\xe4\xf6")
    with pytest.raises((ConfigError, DataError), match=message):
        go(bundle, prompts.replace("FOLDER", str(captions.parent)), Path("out"), **options)
