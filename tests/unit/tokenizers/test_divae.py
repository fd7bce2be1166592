from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm.config import build
from fourm.errors import CheckpointError, ConfigError
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.configs import DiVAEConfig, VQVAEConfig
from fourm.tokenizers.divae import DiVAE
from fourm.tokenizers.vqvae import VQVAE

RGB = Modality(
    "rgb", Grid(2, 2, 8), Continuous(192), "rgb", "image", channels=3, value_range=(0.0, 1.0), normalization="half"
)
CONV = {"kind": "conv", "stem": 4, "widths": [8, 16], "num_blocks": [1, 1], "groups": 4}
HALF = {"encoder": CONV, "quantizer": {"kind": "ema", "codebook_size": 12, "dim": 4}}
UNET = {
    "kind": "unet", "patch_size": 2, "width": 8, "multipliers": [1, 2], "num_blocks": 1, "attention_levels": [1],
    "groups": 4,
}  # fmt: skip


UVIT = {
    "kind": "uvit", "dim": 16, "depth": 2, "num_heads": 2, "patch_size": 2, "widths": [8], "num_blocks": 1,
    "grid_size": 4, "groups": 4,
}  # fmt: skip


def make(modality: Modality = RGB, *, opened: bool = True, **values: Any) -> DiVAE:
    torch.manual_seed(0)
    model = DiVAE(modality, build(DiVAEConfig, {**HALF, "denoiser": UNET, "sampling": {"num_steps": 3}, **values}))
    if opened:  # a fresh denoiser says nothing, whatever it is shown
        for parameter in model.decoder.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def images(batch: int = 3, device: str = "cpu") -> torch.Tensor:
    return torch.rand(batch, 3, 16, 16, device=device) * 2 - 1


@pytest.mark.parametrize("denoiser", [UNET, UVIT], ids=["unet", "uvit"])
def test_a_training_pass_predicts_what_the_noise_process_asks(denoiser: dict[str, Any]) -> None:
    result = make(denoiser=denoiser)(images(), torch.tensor([4, 5, 6]))
    assert result.output.shape == result.target.shape == (3, 3, 16, 16)
    assert result.ids.shape == (3, 2, 2)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"condition_dropout": 0.5, "masked_condition": [0.0, 1.0]},
        {"condition_dropout": 0.5, "denoiser": UVIT},
        {"condition_dropout": 0.5, "denoiser": {**UVIT, "conditioning": "cross"}},
    ],
    ids=["plain", "hidden", "uvit", "cross"],
)
def test_each_sample_owns_what_is_drawn_for_it(extra: dict[str, Any]) -> None:
    model, x, seeds = make(**extra).eval(), images(), torch.tensor([4, 5, 6])
    whole, last = model(x, seeds), model(x[2:], seeds[2:])
    torch.testing.assert_close(whole.output[2:], last.output)
    torch.testing.assert_close(model.decode(whole.ids, seeds=seeds)[2:], model.decode(whole.ids[2:], seeds=seeds[2:]))


def test_places_with_several_codes_are_shown_or_hidden_as_wholes() -> None:
    quantizer = {"kind": "memcodes", "num_heads": 4, "codebook_size": 6, "dim": 8}
    model = make(quantizer=quantizer, condition_dropout=0.5, masked_condition=[0.0, 1.0])
    result = model(images(), torch.tensor([4, 5, 6]))
    assert result.ids.shape == (3, 4, 4)
    model.eval()
    assert model.decode(model.encode(images())).shape == (3, 3, 16, 16)
    assert model.denoise(images(), torch.tensor(7), result.ids).shape == (3, 3, 16, 16)


def test_seeds_give_different_images_of_the_same_codes() -> None:
    model = make().eval()
    ids = torch.zeros(2, 2, 2, dtype=torch.int64)
    one, other = model.decode(ids, seeds=torch.tensor([1, 2]))
    assert not torch.allclose(one, other)
    assert 0 <= one.min() <= one.max() <= 1


def test_images_of_other_sizes_decode() -> None:
    assert make().decode(torch.zeros(1, 4, 3, dtype=torch.int64)).shape == (1, 3, 32, 24)


def test_hidden_codes_have_the_shares_asked_for() -> None:
    model = make(condition_dropout=0.25, masked_condition=[0.5, 0.5])
    keep = model._kept(torch.arange(2000), torch.zeros(2000, 4, 4, dtype=torch.int64))
    assert keep is not None
    assert (~keep).flatten(1).all(1).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert keep.float().mean().item() == pytest.approx(0.75 * 0.5, abs=0.03)


def test_guidance_moves_along_the_difference_that_the_codes_make() -> None:
    model = make(condition_dropout=0.1, sampling={"num_steps": 1, "clip": False}, noise={"prediction": "sample"}).eval()
    ids, seeds = torch.randint(0, 12, (1, 2, 2)), torch.tensor([3])

    def at(weight: float) -> torch.Tensor:
        return model.use_sampling(guidance=weight).decode(ids, seeds=seeds, raw=True)

    blind, seeing, guided = at(0.0), at(1.0), at(3.0)
    torch.testing.assert_close(guided, blind + 3 * (seeing - blind), rtol=1e-3, atol=1e-4)


def test_one_call_of_the_denoiser_is_what_sampling_makes() -> None:
    model = make(noise={"prediction": "sample"}).eval()
    ids, noisy = torch.zeros(2, 2, 2, dtype=torch.int64), torch.randn(2, 3, 16, 16)
    assert model.denoise(noisy, 500, ids).shape == noisy.shape
    torch.testing.assert_close(model.denoise(noisy, 500, ids), model.denoise(noisy, torch.tensor([500, 500]), ids))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_form_for_decoding_gives_the_same_images(precision: Any) -> None:
    model = make().eval()
    ids = torch.randint(0, 12, (2, 2, 2))
    before = model.decode(ids)
    after = model.for_decoding(precision=precision).decode(ids)
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 if precision == "fp32" else 0.1)


def test_saving_keeps_everything(tmp_path: Path) -> None:
    model = make(noise={"prediction": "v", "schedule": "shifted_cosine", "shift": 0.5}).eval()
    digest = model.save(tmp_path)
    again = load_tokenizer(tmp_path)
    ids, seeds = torch.zeros(1, 2, 2, dtype=torch.int64), torch.tensor([7])
    assert isinstance(again, DiVAE)
    assert again.hash == digest
    assert torch.equal(again.decode(ids, seeds=seeds), model.decode(ids, seeds=seeds))


def test_a_frozen_encoder_stays_and_gives_the_tokens_it_came_with() -> None:
    torch.manual_seed(1)
    source = VQVAE(RGB, build(VQVAEConfig, {**HALF, "decoder": CONV})).train()
    source(images())
    model = make(freeze_encoder=True)
    model.adopt_encoder(source)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("decoder.")}
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    model(images(), torch.arange(3)).output.square().mean().backward()
    optimizer.step()
    assert model.hash == source.hash
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("decoder."))
    x = images()
    assert torch.equal(model.encode(x), source.encode(x))


def test_an_encoder_of_another_shape_is_not_adopted() -> None:
    source = VQVAE(RGB, build(VQVAEConfig, {**HALF, "quantizer": {"kind": "ema", "codebook_size": 10, "dim": 4}}))
    with pytest.raises(CheckpointError, match="same encoder and quantizer"):
        make(freeze_encoder=True).adopt_encoder(source)


@pytest.mark.parametrize("denoiser", [UNET, UVIT], ids=["unet", "uvit"])
def test_gradients_reach_every_parameter(denoiser: dict[str, Any]) -> None:
    model = make(denoiser=denoiser, condition_dropout=0.5)
    result = model(images(), torch.arange(3))
    ((result.output - result.target).square().mean() + result.commitment.mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("denoiser", [UNET, UVIT], ids=["unet", "uvit"])
def test_a_training_step_runs_on_meta_tensors(denoiser: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = make(opened=False, denoiser=denoiser, condition_dropout=0.1, masked_condition=[0.0, 0.5]).to("meta")
    result = model(images(device="meta"), torch.arange(3, device="meta"))
    ((result.output - result.target).mean() + result.commitment.mean()).backward()


@pytest.mark.parametrize(
    ("modality", "values", "message"),
    [
        (Modality("semseg", Grid(16, 16, 1), Discrete(5), "semseg", "labels"), {}, "is a label map"),
        (replace(RGB, normalization="mask"), {}, "is a mask, whose decoder answers logits"),
        (RGB, {"denoiser": {**UNET, "multipliers": [1, 1, 1, 1, 1]}}, "do not divide by the denoiser's 32"),
        (RGB, {"sampling": {"guidance": 2.0}}, "never been without its codes"),
        (RGB, {"sampling": {"num_steps": 2000}}, "has 1000 timesteps"),
        (RGB, {"noise": {"zero_terminal_snr": True}, "sampling": {"spacing": "leading"}}, "use trailing"),
        (RGB, {"condition_dropout": 1.0}, "condition_dropout is 1.0"),
        (RGB, {"masked_condition": [0.9, 0.1]}, "masked_condition is"),
    ],
)
def test_what_does_not_fit_is_refused(modality: Modality, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(modality, **values)


def test_decoding_options_change_how_and_not_what_is_stored(tmp_path: Path) -> None:
    make().eval().save(tmp_path)
    ids = torch.randint(0, 12, (2, 2, 2))
    loaded = load_tokenizer(tmp_path, sampling={"scheduler": "dpm", "num_steps": 2}, channels_last=True)
    assert (loaded.sampling.scheduler, loaded.sampling.num_steps, loaded.sampling.clip) == ("dpm", 2, True)
    expected = load_tokenizer(tmp_path).use_sampling(scheduler="dpm", num_steps=2).decode(ids)
    torch.testing.assert_close(loaded.decode(ids), expected, rtol=0, atol=1e-4)
    assert load_tokenizer(tmp_path).sampling.num_steps == 3


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"steps": 3}, "sampling.steps.*num_steps"),
        ({"scheduler": "dmp"}, "Did you mean 'dpm'"),
        ({"num_steps": 9999}, "9999"),
    ],
)
def test_unknown_decoding_options_are_named(tmp_path: Path, sampling: dict[str, Any], message: str) -> None:
    make().save(tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_tokenizer(tmp_path, sampling=sampling)


def test_the_decoder_of_another_family_is_not_gone_on_from() -> None:
    source = VQVAE(RGB, build(VQVAEConfig, {**HALF, "decoder": CONV}))
    with pytest.raises(CheckpointError, match="encoder_from"):
        make().adopt(source)
