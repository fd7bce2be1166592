from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fourm.config import build
from fourm.errors import ConfigError
from fourm.nn.configs import NoiseConfig, SamplingConfig, check_sampling
from fourm.nn.diffusion import Diffusion, shifted_cosine_betas, starting_noise

PREDICTIONS = ("epsilon", "sample", "v")
SCHEDULES = ("linear", "scaled_linear", "cosine", "shifted_cosine")


def closed_form(diffusion: Diffusion, values: Tensor, timestep: Tensor, deviation: float) -> Tensor:
    """The best prediction for data from N(0, deviation^2): its posterior mean is linear in the noisy values."""
    signal, level = (table[timestep][:, None] for table in (diffusion.signal, diffusion.noise))
    clean = signal * deviation**2 / (signal**2 * deviation**2 + level**2) * values
    noise = (values - signal * clean) / level
    return diffusion.target(clean, noise, timestep)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_signal_and_noise_share_the_variance_and_the_signal_fades(schedule: str) -> None:
    diffusion = Diffusion(NoiseConfig(schedule=schedule))  # type: ignore[arg-type]
    torch.testing.assert_close(diffusion.signal**2 + diffusion.noise**2, torch.ones(1000))
    assert (diffusion.signal.diff() < 0).all()
    assert diffusion.signal[0] > 0.99
    assert diffusion.signal[-1] < 0.1


def test_the_linear_schedule_is_the_product_of_its_betas() -> None:
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    expected = (1 - betas).cumprod(0).sqrt().float()
    torch.testing.assert_close(Diffusion(NoiseConfig()).signal, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
def test_shifting_a_cosine_moves_its_log_signal_to_noise_ratio_by_a_constant(shift: float) -> None:
    signal = (1 - torch.tensor(shifted_cosine_betas(1000, shift), dtype=torch.float64)).cumprod(0)
    times = torch.arange(1, 1001, dtype=torch.float64) / 1000
    ratio = torch.log(signal / (1 - signal))
    expected = -2 * torch.log(torch.tan(math.pi / 2 * times)) + 2 * math.log(shift)
    torch.testing.assert_close(ratio[10:900], expected[10:900], rtol=0, atol=2e-2)


def test_zero_terminal_snr_ends_in_pure_noise() -> None:
    diffusion = Diffusion(NoiseConfig(prediction="v", zero_terminal_snr=True))
    assert diffusion.signal[-1] == 0
    assert Diffusion(NoiseConfig()).signal[-1] > 0


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noisy_values_and_targets_are_the_closed_forms(prediction: str) -> None:
    diffusion = Diffusion(NoiseConfig(prediction=prediction))  # type: ignore[arg-type]
    clean, noise = torch.randn(2, 3, 4)
    timestep = torch.tensor([0, 500, 999])
    signal, level = diffusion.signal[timestep][:, None], diffusion.noise[timestep][:, None]
    torch.testing.assert_close(diffusion.add_noise(clean, noise, timestep), signal * clean + level * noise)
    expected = {"epsilon": noise, "sample": clean, "v": signal * noise - level * clean}[prediction]
    torch.testing.assert_close(diffusion.target(clean, noise, timestep), expected)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "unipc"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_sampling_with_the_best_prediction_gives_the_distribution_of_the_data(prediction: str, scheduler: str) -> None:
    diffusion = Diffusion(NoiseConfig(schedule="cosine", prediction=prediction))  # type: ignore[arg-type]
    noise = starting_noise(torch.arange(4000), 0, (1,))
    sampling = SamplingConfig(scheduler, num_steps=50, clip=False)  # type: ignore[arg-type]
    values = diffusion.sample(lambda x, t: closed_form(diffusion, x, t, 0.5), noise, sampling)
    assert values.std().item() == pytest.approx(0.5, rel=0.05)
    assert values.mean().item() == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "unipc", "euler"])
def test_a_known_image_is_found_in_any_number_of_steps(scheduler: str) -> None:
    diffusion = Diffusion(NoiseConfig(prediction="sample"))
    image = torch.rand(2, 3, 4, 4) * 2 - 1
    for steps in (1, 2, 7):
        sampling = SamplingConfig(scheduler, steps, clip=scheduler != "euler")  # type: ignore[arg-type]
        found = diffusion.sample(lambda x, t: image, torch.randn(2, 3, 4, 4), sampling)
        torch.testing.assert_close(found, image, rtol=0, atol=4e-2)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm", "unipc"])
@pytest.mark.parametrize("prediction", ["sample", "v"])
def test_schedulers_start_at_pure_noise_under_zero_terminal_snr(prediction: str, scheduler: str) -> None:
    diffusion = Diffusion(NoiseConfig(schedule="cosine", prediction=prediction, zero_terminal_snr=True))  # type: ignore[arg-type]
    seen: list[int] = []

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        seen.append(int(t[0]))
        return torch.zeros_like(x)

    assert diffusion.sample(denoise, torch.randn(1, 1, 2, 2), SamplingConfig(scheduler, 4)).isfinite().all()  # type: ignore[arg-type]
    assert seen[0] == 999


def test_noise_belongs_to_its_seed() -> None:
    seeds = torch.tensor([3, 5, 3])
    noise = starting_noise(seeds, 1, (2, 4))
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[1:2], starting_noise(seeds[1:2], 1, (2, 4)))
    assert not torch.equal(noise, starting_noise(seeds, 2, (2, 4)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zero_terminal_snr": True, "prediction": "epsilon"}, "does not go with prediction epsilon"),
        ({"shift": 0.5}, "only shifted_cosine"),
        ({"num_timesteps": 1}, "num_timesteps is 1"),
        ({"schedule": "cosin"}, "cosin"),
    ],
)
def test_contradictions_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(NoiseConfig, values)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_pseudo_numerical_steps_come_close_to_a_known_image(spacing: str) -> None:
    """Stable Diffusion's scheduler ends at its first timestep, where a little noise is left."""
    diffusion = Diffusion(NoiseConfig(schedule="scaled_linear", betas=(0.00085, 0.012), prediction="epsilon"))
    image = torch.linspace(-1, 1, 12).view(1, 3, 2, 2)

    def known(noisy: Tensor, timestep: Tensor) -> Tensor:
        return (noisy - diffusion.signal[timestep] * image) / diffusion.noise[timestep]

    sampling = SamplingConfig(scheduler="pndm", num_steps=50, spacing=spacing, clip=False)  # type: ignore[arg-type]
    found = diffusion.sample(known, torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)), sampling)
    torch.testing.assert_close(found, image, rtol=0, atol=0.15)


@pytest.mark.parametrize(
    ("noise", "sampling", "message"),
    [
        (
            {"prediction": "sample"},
            {"scheduler": "pndm", "clip": False},
            "pndm, which does not go with noise.prediction",
        ),
        (
            {"prediction": "v", "zero_terminal_snr": True},
            {"scheduler": "pndm", "clip": False},
            "noise.zero_terminal_snr",
        ),
        ({}, {"scheduler": "euler"}, "euler clips nothing: set clip to false"),
        ({}, {"num_steps": 2000}, "the process has 1000 timesteps"),
    ],
)
def test_a_scheduler_that_does_not_know_the_process_is_refused(
    noise: dict[str, object], sampling: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_sampling(build(NoiseConfig, noise), build(SamplingConfig, sampling))
