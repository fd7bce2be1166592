import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm import recipes
from fourm.errors import ConfigError, DataError, FourmError
from fourm.generate import job
from fourm.generate.answer import any_to_any
from fourm.generate.job import run
from fourm.generate.plan import GenerationPlan, Step
from tests.unit.generate.toy import ToyBundle


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def go(bundle: ToyBundle, photo: Path, targets: str, out: Path, **options: Any) -> list[Path]:
    return run(bundle, given=[f"rgb={photo}"], targets=targets.split(","), out=out, device="cpu", **options)


def test_every_target_has_its_usual_format(bundle: ToyBundle, photo: Path, tmp_path: Path) -> None:
    paths = go(bundle, photo, "depth,semseg,caption,det,edges", tmp_path / "out")
    names = ["depth.png", "semseg.png", "caption.txt", "det.json", "edges.png", "grid.png", "plan.yaml"]
    assert [path.name for path in paths] == names
    assert all(path.is_file() for path in paths)
    assert "instances" in json.loads((tmp_path / "out" / "det.json").read_text())
    with Image.open(tmp_path / "out" / "depth.png") as depth:
        assert depth.mode.startswith("I")
        assert depth.size == (16, 16)


def test_several_answers_are_numbered_and_differ(bundle: ToyBundle, photo: Path, tmp_path: Path) -> None:
    run(bundle, given=["caption=a bed"], targets=["rgb"], out=tmp_path, num_samples=3, device="cpu", batch_size=2)
    answers = [(tmp_path / f"rgb_{n:02d}.png").read_bytes() for n in range(3)]
    assert len(set(answers)) == 3


def test_the_same_command_gives_the_same_files(bundle: ToyBundle, photo: Path, tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        go(bundle, photo, "depth,caption", tmp_path / folder, seed=7 if folder == "c" else 3)
    contents = {f: (tmp_path / f / "caption.txt").read_text() for f in "abc"}
    assert contents["a"] == contents["b"] != contents["c"]


def test_the_plan_it_followed_can_be_given_back(bundle: ToyBundle, photo: Path, tmp_path: Path) -> None:
    go(bundle, photo, "depth,caption", tmp_path / "a")
    plan = tmp_path / "a" / "plan.yaml"
    assert recipes.load(plan, GenerationPlan).targets == ["tok_depth@16", "caption"]
    go(bundle, photo, "depth,caption", tmp_path / "b", plan=str(plan))
    assert (tmp_path / "a" / "depth.png").read_bytes() == (tmp_path / "b" / "depth.png").read_bytes()


def test_the_picture_shows_what_was_given_and_all_answers(bundle: ToyBundle, photo: Path, tmp_path: Path) -> None:
    go(bundle, photo, "depth,caption", tmp_path, num_samples=2)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.width > 3 * 190
        assert grid.height > 2 * 190


def test_a_negative_caption_is_a_condition_of_a_plan(bundle: ToyBundle, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("steps:\n  - {target: rgb, num_steps: 2, conditions: {caption: 2, 'caption#not': -1}}\n")
    given = ["caption=a red sofa", "caption#not=a lamp"]
    paths = run(bundle, given=given, targets=["rgb"], out=tmp_path / "out", plan=plan, device="cpu")
    assert paths[0].name == "rgb.png"


@pytest.mark.parametrize(
    ("given", "targets", "options", "message"),
    [
        (["rgb=PHOTO"], ["dept"], {}, "Did you mean 'depth'"),
        (["sound=x.wav"], ["depth"], {}, "cannot read 'sound'. It can read"),
        (["rgb=nowhere.png"], ["depth"], {}, "there is no file"),
        (["PHOTO"], ["depth"], {}, "NAME=VALUE"),
        (["rgb=PHOTO"], ["depth"], {"device": "abacus"}, "device is 'abacus'"),
        (["rgb=PHOTO"], ["depth"], {"plan": "no_such_plan"}, "no recipe 'no_such_plan'"),
        (["rgb=PHOTO"], ["depth,depth@16"], {}, "twice"),
    ],
)
def test_bad_input_leaves_no_folder(
    given: list[str], targets: list[str], options: dict[str, Any], message: str,
    bundle: ToyBundle, photo: Path, tmp_path: Path,
) -> None:  # fmt: skip
    given = [item.replace("PHOTO", str(photo)) for item in given]
    with pytest.raises(FourmError, match=message):
        run(bundle, given=given, targets=targets[0].split(","), out=tmp_path / "out", **{"device": "cpu", **options})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["photo.png", "photo.png/inside/it", "x" * 300])
def test_a_folder_that_cannot_be_made_is_named_before_the_work(
    place: str, bundle: ToyBundle, photo: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(job, "follow", lambda *_, **__: pytest.fail("it has worked for nothing"))
    with pytest.raises(ConfigError, match="--out .*: (there is a file of the name .*photo.png|cannot be made)"):
        go(bundle, photo, "depth", photo.parent / place)


def test_all_of_a_plan_is_what_it_generates(bundle: ToyBundle, photo: Path, tmp_path: Path) -> None:
    plan = GenerationPlan([Step("depth"), Step("edges")])
    names = [path.name for path in go(bundle, photo, "all", tmp_path, plan=plan)]
    assert names == ["depth.png", "edges.png", "grid.png", "plan.yaml"]


@pytest.mark.parametrize("options", [{"num_samples": 0}, {"batch_size": 0}, {"num_samples": -1}, {"batch_size": 2.5}])
def test_nothing_and_parts_of_answers_are_refused(
    options: dict[str, Any], bundle: ToyBundle, photo: Path, tmp_path: Path
) -> None:
    told = "{} is {}; expected a whole number of at least 1".format(*next(iter(options.items())))
    with pytest.raises(ConfigError, match=told):
        go(bundle, photo, "depth", tmp_path / "out", **options)
    with pytest.raises(ConfigError, match=told):
        any_to_any(bundle, {"rgb": photo}, "depth", **options)


def test_seeds_may_be_a_list(bundle: ToyBundle, photo: Path) -> None:
    a, b = (any_to_any(bundle, {"rgb": photo}, "depth", seeds=s)["depth"] for s in ([7], torch.tensor([7])))
    assert torch.equal(a, b)
    for seeds in ([0.5], [1, 2], ["a"], [2**70], [[1]]):
        with pytest.raises(DataError, match="seeds"):
            any_to_any(bundle, {"rgb": photo}, "depth", seeds=seeds)
