"""Surface normals by diffusion models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

import diffusers
from diffusers import AutoencoderKL, DDIMScheduler, MarigoldNormalsPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from fourm.data.decode import decode
from fourm.errors import CheckpointError, ConfigError
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.network_configs import NormalConfig
from fourm.prepare.labelers.normal import Normal


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marigold")
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=8, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=0, eos_token_id=1, pad_token_id=1, projection_dim=16,
    )  # fmt: skip
    words = folder / "words"
    words.mkdir()
    (words / "vocab.json").write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer.from_pretrained(words, model_max_length=8)
    scheduler = DDIMScheduler(timestep_spacing="trailing", prediction_type="v_prediction")
    MarigoldNormalsPipeline(
        unet, vae, scheduler, CLIPTextModel(text), tokenizer, prediction_type="normals",
        default_denoising_steps=2, default_processing_resolution=32,
    ).save_pretrained(folder / "model")  # fmt: skip
    return folder / "model"


def test_loading_the_parts_is_silent(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    diffusers.utils.logging.enable_progress_bar()
    Normal(NormalConfig(weights=weights), "cpu")
    assert capfd.readouterr().err == ""


def values(labeler: Normal, photos: list[Photo]) -> list[np.ndarray]:
    modality = labeler.config.modality("normal")
    return [decode(data, modality, lambda: "normal") for data in labeler.label(photos)]


def test_normals_are_unit_vectors_of_the_size_of_their_photograph(weights: Path, photos: list[Photo]) -> None:
    for photo, found in zip(photos, values(Normal(NormalConfig(weights=weights), "cpu"), photos)):
        assert found.shape == photo.image.shape
        np.testing.assert_allclose(np.linalg.norm(found / 127.5 - 1, axis=-1), 1, atol=0.02)


@pytest.mark.parametrize("ensemble_size", [1, 3])
def test_a_batch_gives_what_each_photograph_gives_alone(weights: Path, photos: list[Photo], ensemble_size: int) -> None:
    labeler = Normal(NormalConfig(weights=weights, ensemble_size=ensemble_size), "cpu")

    for photo, found in zip(photos, values(labeler, photos)):
        difference = np.abs(found.astype(int) - values(labeler, [photo])[0])
        assert (difference > 1).mean() < 0.001  # of an ensemble, rounding may choose another member


def test_the_noise_follows_from_the_seed_and_the_key(weights: Path, photos: list[Photo]) -> None:
    first, again = (values(Normal(NormalConfig(weights=weights), "cpu"), photos[:1])[0] for _ in range(2))
    other = values(Normal(NormalConfig(weights=weights, seed=1), "cpu"), photos[:1])[0]

    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 1


def test_files_that_are_missing_are_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match="normals network 'prs-eth/marigold-normals-v1-1'.*`weights` of this label"
    ):
        Normal(NormalConfig(weights=tmp_path), "cpu")


def test_random_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="pretrained is false"):
        NormalConfig(pretrained=False)
