import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fourm.errors import CheckpointError
from fourm.generate.answer import any_to_any
from fourm.generate.job import run
from fourm.generate.plan import GenerationPlan, Step
from tests.unit.generate.toy import ToyBundle, build_model

RGB = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_results_are_written_as_the_command_writes_them(bundle: ToyBundle, tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "photo.png")
    targets = ["depth", "caption"]
    paths = any_to_any(bundle, {"rgb": tmp_path / "photo.png"}, targets, seed=3).save(tmp_path / "a")
    given = [f"rgb={tmp_path / 'photo.png'}"]
    again = run(bundle, given=given, targets=targets, out=tmp_path / "b", seed=3, device="cpu")
    assert [p.name for p in paths] == [p.name for p in again] == ["depth.png", "caption.txt", "grid.png", "plan.yaml"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(paths, again, strict=True))


def test_a_notebook_shows_the_labelled_picture(bundle: ToyBundle) -> None:
    results = any_to_any(bundle, {"rgb": RGB}, ["depth"])
    with Image.open(io.BytesIO(results._repr_png_())) as shown:
        assert shown.size == results.grid().size
        assert np.array_equal(np.asarray(shown), np.asarray(results.grid()))


def test_an_ensemble_has_maps_of_uncertainty_beside_it(bundle: ToyBundle, tmp_path: Path) -> None:
    plan = GenerationPlan([Step("depth"), Step("semseg")])
    results = any_to_any(bundle, {"rgb": RGB[:1]}, ["depth", "semseg"], num_samples=4, ensemble=True, plan=plan)
    names = [path.name for path in results.save(tmp_path)]
    assert names == [
        "depth.png", "depth_uncertainty.png", "depth_uncertainty.npy",
        "semseg.png", "semseg_uncertainty.png", "semseg_uncertainty.npy", "grid.png", "plan.yaml",
    ]  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "depth_uncertainty.npy"), results.uncertainty["depth"][0].numpy())
    with Image.open(tmp_path / "depth_uncertainty.png") as file:
        assert np.asarray(file).max() == 65535
    results.uncertainty.clear()
    with Image.open(tmp_path / "grid.png") as whole:
        assert whole.width > results.grid().width


def test_each_answer_stands_beside_what_it_was_given(bundle: ToyBundle) -> None:
    """With several answers of several samples, rows are sample after sample."""
    shades = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 16, 16)
    results = any_to_any(bundle, {"rgb": shades}, ["depth"], num_samples=2)
    pictures = [float(picture.mean()) for picture in results.given[0].pictures]
    assert pictures == pytest.approx([0, 0, 1, 1], abs=1e-3)


def test_progress_is_told_per_target_and_batch(bundle: ToyBundle) -> None:
    told: list[tuple[int, int, str]] = []
    any_to_any(bundle, {"rgb": RGB}, "depth, caption", batch_size=1, progress=lambda *step: told.append(step))
    assert told == [(1, 4, "tok_depth@16"), (2, 4, "caption"), (3, 4, "tok_depth@16"), (4, 4, "caption")]


@pytest.mark.parametrize("target", ["depth", "caption"])
def test_logits_that_are_no_numbers_are_told(target: str, bundle: ToyBundle) -> None:
    model = build_model(bundle.model.modalities)
    with torch.no_grad():
        model.heads.weight.fill_(torch.nan)
    broken = ToyBundle(model, bundle.tokenizers, bundle.text)
    with pytest.raises(CheckpointError, match=rf"logits for '\w*{target}.*' are not finite.*Generate without bf16"):
        any_to_any(broken, {"rgb": RGB}, [target])


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def test_a_folder_holds_the_answers_of_the_last_call_and_what_others_put_there(
    bundle: ToyBundle, tmp_path: Path
) -> None:
    (tmp_path / "depth_07.png").write_text("of somebody else")
    any_to_any(bundle, {"rgb": RGB[:1]}, ["depth", "caption"], num_samples=3).save(tmp_path)
    assert {"depth_00.png", "caption_02.txt"} <= visible(tmp_path)
    (tmp_path / "caption_00.txt").write_text("corrected by hand")
    any_to_any(bundle, {"rgb": RGB[:1]}, ["depth"]).save(tmp_path)
    mine = {"depth_07.png", "caption_00.txt"}
    assert visible(tmp_path) == {"depth.png", "grid.png", "plan.yaml", *mine}
    assert (tmp_path / "caption_00.txt").read_text() == "corrected by hand"


@pytest.mark.parametrize(
    "listed", ["no json", "[1]", '{"../photo.png": "x", "notes.txt": 1, ".": "x", "grid.png": []}']
)
def test_a_list_that_is_not_one_removes_nothing(bundle: ToyBundle, tmp_path: Path, listed: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "photo.png").write_text("photo")
    (out / "notes.txt").write_text("notes")
    (out / ".written.json").write_text(listed)
    any_to_any(bundle, {"rgb": RGB[:1]}, ["depth"]).save(out)
    assert visible(out) == {"depth.png", "grid.png", "plan.yaml", "notes.txt"}
    assert (tmp_path / "photo.png").exists()
