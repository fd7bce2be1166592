"""Measuring tokenizers of any family through what all of them offer."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fourm import catalog
from fourm.data.shards import ShardWriter
from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.evaluate.configs import DecodingConfig, TokenizerEvaluation
from fourm.evaluate.reconstruction import content_of, evaluate_reconstruction, read_pairs
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality
from fourm.tokenizers.units import to_natural
from tests.unit.evaluate.conftest import png

CPU = torch.device("cpu")
FEATURES = Modality("clip@64", Grid(4, 4, 1), Continuous(6), "clip", "features", channels=6)


class Perfect:
    """A tokenizer that keeps what it saw: each image is one code. As much as a third party has to offer."""

    vocab_size, hash, codebook = 1000, "0" * 64, None

    def __init__(self, modality: Modality) -> None:
        self.modality, self.grid, self.seen, self.seeds = modality, Grid(8, 8, 8), [], []  # type: ignore[var-annotated]

    def encode(self, image: Tensor) -> Tensor:
        numbers = torch.arange(len(self.seen), len(self.seen) + len(image))
        self.seen += list(image)
        return numbers.view(-1, 1, 1).expand(-1, 8, 8)

    def decode(self, ids: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        assert seeds is not None
        self.seeds += seeds.tolist()
        values = torch.stack([self.seen[n] for n in ids[:, 0, 0].tolist()])
        return values if self.modality.is_discrete else to_natural(values, self.modality)


class Wrong(Perfect):
    """Perfect, but for one thing."""

    def __init__(self, modality: Modality, ids: Any = None, image: Any = None) -> None:
        super().__init__(modality)
        self.change_ids, self.change_image = ids, image

    def encode(self, image: Tensor) -> Tensor:
        ids = super().encode(image)
        return self.change_ids(ids) if self.change_ids else ids

    def decode(self, ids: Tensor, **options: Any) -> Tensor:
        image = super().decode(ids.clamp(0, len(self.seen) - 1).long(), **options)
        return self.change_image(image) if self.change_image else image


def config(root: Path, **changes: Any) -> TokenizerEvaluation:
    return TokenizerEvaluation("tokenizer", Path("t"), str(root), Path("out"), **({"batch_size": 2} | changes))


def measure(tokenizer: Any, root: Path, **changes: Any) -> dict[str, float]:
    outcome = evaluate_reconstruction(config(root, **changes), tokenizer, CPU)
    (found,) = outcome.metrics.values()
    return found


@pytest.fixture(scope="module")
def feature_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("features"), np.random.default_rng(0)
    with ShardWriter(root, 0, {"clip": "npy"}) as writer:
        for n in range(3):
            buffer = io.BytesIO()
            np.save(buffer, rng.normal(size=(6, 4, 4)).astype(np.float32))
            writer.write(f"{n}", {"clip": buffer.getvalue()})
    return root


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("depth@64", {"abs_rel": 0.0, "delta1": 1.0}),
        ("normal@64", {"mean_angle": 0.0}),
        ("semseg@64", {"miou": 1.0}),
        pytest.param(
            "rgb@64",
            {"ssim": 1.0, "high_frequency_ratio": 1.0},
            marks=pytest.mark.slow,  # importing torchmetrics takes many seconds
        ),
    ],
)
def test_a_perfect_tokenizer_has_perfect_scores(name: str, expected: dict[str, float], rooms: Path) -> None:
    found = measure(Perfect(catalog.get(name)), rooms / "test", networks=[])
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-3)
    assert found["codes_used"] == pytest.approx(5 / 1000)
    assert found["perplexity"] == pytest.approx(5, rel=1e-4)
    assert min(found["encode_images_per_second"], found["decode_images_per_second"]) > 0
    if name == "rgb@64":
        assert found["psnr"] > 100
        assert found["psnr_gain"] == pytest.approx(found["psnr"] - found["bicubic_psnr"])
        assert found["bicubic_high_frequency_ratio"] < 0.01


def test_features_are_compared_by_direction_and_error(feature_maps: Path) -> None:
    perfect = measure(Perfect(FEATURES), feature_maps)
    assert (perfect["cosine_similarity"], perfect["explained_variance"]) == pytest.approx((1, 1))
    assert measure(Wrong(FEATURES, image=lambda x: -2 * x), feature_maps)["cosine_similarity"] == pytest.approx(-1)


def test_features_that_a_teacher_makes_of_images_are_compared_not_the_images(rooms: Path) -> None:
    modality = replace(catalog.get("rgb@64"), name="toy@64", normalization="none")
    object.__setattr__(modality, "teacher", "toy")

    class Taught(Wrong):
        def features(self, images: Tensor) -> Tensor:
            assert images.shape[1] == 3
            return torch.cat([images, -images], 1).unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5))

        def decode(self, ids: Tensor, **options: Any) -> Tensor:
            values = torch.stack([self.seen[n] for n in ids[:, 0, 0].tolist()])
            assert values.shape[1:] == (6, 8, 8)
            return values * torch.tensor([1.0, 1, 1, 0, 0, 0])[:, None, None]  # half of each vector is lost

    found = measure(Taught(modality), rooms / "test")
    assert found["cosine_similarity"] == pytest.approx(0.5**0.5)
    assert "psnr" not in found


def test_metrics_and_seeds_do_not_depend_on_the_batches(rooms: Path) -> None:
    class Shifted(Perfect):
        def decode(self, ids: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
            assert seeds is not None
            noise = [torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(s)) for s in seeds.tolist()]
            return super().decode(ids, seeds=seeds) + torch.stack(noise)

    one, other, more = (Shifted(catalog.get("depth@64")) for _ in range(3))
    first, second = measure(one, rooms / "test", batch_size=1), measure(other, rooms / "test", batch_size=4)
    assert first["abs_rel"] == pytest.approx(second["abs_rel"])
    assert one.seeds == other.seeds
    assert len(set(one.seeds)) == 5
    measure(more, rooms / "test", seed=1)
    assert set(more.seeds).isdisjoint(one.seeds)


def test_depth_standardised_per_image_is_aligned_to_metres(rooms: Path) -> None:
    relative = replace(catalog.get("depth@64"), normalization="standardize")
    found = measure(Perfect(relative), rooms / "test")
    assert found["abs_rel"] == pytest.approx(0, abs=1e-3)
    assert found["delta1"] == 1.0


def test_the_truth_is_not_what_the_network_can_read(rooms: Path) -> None:
    """Log depth is cut off at the ends of its range; what is cut off counts as lost."""
    near = replace(catalog.get("depth@64"), value_range=(2.0, 16.0))
    batches, count = read_pairs(config(rooms / "test", batch_size=5), near)
    (pair,) = batches
    assert count == 5
    assert pair.inputs.min() == -1
    assert pair.truth.min() < 1
    assert measure(Perfect(near), rooms / "test")["abs_rel"] > 0.01


def test_only_so_many_samples_are_used_and_shown(rooms: Path) -> None:
    outcome = evaluate_reconstruction(
        config(rooms / "test", num_samples=3, num_pictures=3), Perfect(catalog.get("semseg@64")), CPU
    )
    assert "3 samples" in outcome.facts["data"]
    assert outcome.facts["tokens"] == "192"
    (table,) = outcome.tables
    assert table.columns == ["original", "reconstruction"]
    assert [len(row) for row in table.cells] == [2, 2, 2]
    assert outcome.classes == catalog.ROOM_CLASSES


@pytest.mark.parametrize(("decode", "void"), [("labels", -1), ("labels_void_first", 0)])
def test_pixels_without_a_label_are_not_scored(decode: str, void: int, tmp_path: Path) -> None:
    pixels = np.full((64, 64), 255, np.uint8)
    pixels[:32] = 3
    with ShardWriter(tmp_path, 0, {"semseg": "png"}) as writer:
        writer.write("0", {"semseg": png(pixels)})
    modality = replace(catalog.get("semseg@64"), decode=decode, content=Discrete(17))
    in_void = Wrong(modality, image=lambda labels: torch.where(labels == void, 7, labels))
    elsewhere = Wrong(modality, image=lambda labels: torch.where(labels == void, 7, 9))
    assert measure(in_void, tmp_path)["miou"] == 1.0
    assert measure(elsewhere, tmp_path)["miou"] == 0.0


def test_a_metric_without_anything_to_measure_says_why(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 0, {"semseg": "png"}) as writer:
        writer.write("0", {"semseg": png(np.full((64, 64), 255, np.uint8))})
    tokenizer = Wrong(catalog.get("semseg@64"), image=lambda labels: labels.clamp(min=0))
    outcome = evaluate_reconstruction(config(tmp_path), tokenizer, CPU)
    assert outcome.missing == {"miou": "no pixel of the data has a label"}
    assert "miou" not in outcome.metrics["semseg_reconstruction"]


@pytest.mark.slow  # importing torchmetrics takes many seconds
def test_networks_that_are_not_there_are_reported_not_raised(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity.__init__", no_network)
    monkeypatch.setattr("torchmetrics.image.fid.FrechetInceptionDistance.__init__", no_network)
    outcome = evaluate_reconstruction(config(rooms / "test"), Perfect(catalog.get("rgb@64")), CPU)
    assert set(outcome.missing) == {"lpips", "fid"}
    assert all("no network" in reason for reason in outcome.missing.values())
    assert not {"lpips", "fid"} & set(outcome.metrics["rgb_reconstruction"])


def test_networks_are_not_touched_for_what_has_no_colours(rooms: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fourm.evaluate.reconstruction.NETWORKS", {})
    assert "lpips" not in measure(Perfect(catalog.get("depth@64")), rooms / "test")


@pytest.mark.parametrize(
    ("ids", "image", "message"),
    [
        (lambda i: i + 1000, None, "expected whole numbers from 0 to 999"),
        (lambda i: i.float(), None, "expected whole numbers from 0 to 999"),
        (None, lambda x: x[..., :32], "decodes to shape (2, 1, 64, 32); expected (2, 1, 64, 64)"),
        (None, lambda x: x * float("nan"), "not finite"),
    ],
)
def test_a_tokenizer_that_breaks_its_promise_is_named(ids: Any, image: Any, message: str, rooms: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        measure(Wrong(catalog.get("depth@64"), ids, image), rooms / "test")
    assert message in str(caught.value)


def test_labels_outside_the_classes_are_named(rooms: Path) -> None:
    with pytest.raises(CheckpointError, match="labels from 100 to .*expected 0 to 15"):
        measure(Wrong(catalog.get("semseg@64"), image=lambda x: x + 100), rooms / "test")


def test_decoding_steps_need_a_diffusion_decoder(rooms: Path) -> None:
    with pytest.raises(ConfigError, match=r"decoding.num_steps is for diffusion decoders"):
        measure(Perfect(catalog.get("depth@64")), rooms / "test", decoding=DecodingConfig(num_steps=3))


def test_values_without_scale_are_refused(rooms: Path) -> None:
    with pytest.raises(ConfigError, match="standardised per image"):
        measure(Perfect(replace(catalog.get("canny@64"), normalization="standardize")), rooms / "test")


def test_data_without_the_modality_is_refused(photographs: Path) -> None:
    with pytest.raises(DataError, match="depth"):
        measure(Perfect(catalog.get("depth@64")), photographs / "test")


def test_a_folder_of_another_name_can_be_given(rooms: Path) -> None:
    edges = catalog.get("image@28")
    (pair,) = read_pairs(config(rooms / "test", source="canny", batch_size=5), edges)[0]
    assert pair.inputs.shape == (5, 1, 28, 28)


@pytest.mark.parametrize(
    ("name", "content"),
    [("rgb@64", "image"), ("image@28", "image"), ("canny@224", "image"), ("depth@224", "depth"),
     ("normal@224", "normals"), ("semseg_coco@224", "labels")],
)  # fmt: skip
def test_the_modality_decides_what_is_compared(name: str, content: str) -> None:
    assert content_of(catalog.get(name)) == content
    assert content_of(FEATURES) == "features"
