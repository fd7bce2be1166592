"""The noise process of a diffusion model: forwards for training, backwards for sampling, on diffusers' schedulers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fourm.nn.configs import NoiseConfig, SamplingConfig
from fourm.rng import normal

Denoise = Callable[[Tensor, Tensor], Tensor]
_MAX_BETA = 0.999
_PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v": "v_prediction"}


class Diffusion(nn.Module):
    """Adds noise, says what a network should predict, and turns such a network into images.

    x_t = a_t x + s_t n with a_t^2 + s_t^2 = 1 (variance preserving).

    Args:
        config: the process.
    """

    signal: Tensor
    noise: Tensor

    def __init__(self, config: NoiseConfig) -> None:
        super().__init__()
        self.config = config
        with torch.device("cpu"):  # a table like any constant, also where the networks are built on the meta device
            share = self._scheduler("DDPMScheduler", clip_sample=False).alphas_cumprod.double()
        self.register_buffer("signal", share.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1 - share).sqrt().float(), persistent=False)

    def add_noise(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """(B, ...) clean values and noise -> values at timesteps (B,)."""
        signal, level = self._levels(timestep, clean)
        return signal * clean + level * noise

    def target(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """What a network should say about noisy values: the noise, the clean values, or v = a n - s x."""
        if self.config.prediction == "epsilon":
            return noise
        if self.config.prediction == "sample":
            return clean
        signal, level = self._levels(timestep, clean)
        return signal * noise - level * clean

    @torch.no_grad()
    def sample(self, denoise: Denoise, noise: Tensor, sampling: SamplingConfig) -> Tensor:
        """Run the process backwards. Nothing is drawn on the way: noise and network decide the result.

        Args:
            denoise: noisy values (B, ...) and timesteps (B,) -> prediction, guidance included.
            noise: (B, ...) where to start.
            sampling: scheduler and number of steps; its `guidance` is the caller's.

        Returns:
            (B, ...) float32.
        """
        scheduler = self.scheduler(sampling)
        values = noise.float() * scheduler.init_noise_sigma
        for step in scheduler.timesteps.tolist():
            timestep = torch.full((len(values),), step, dtype=scheduler.timesteps.dtype, device=values.device)
            seen = scheduler.scale_model_input(values, step)
            values = scheduler.step(denoise(seen, timestep).float(), step, values, return_dict=False)[0]
        return values

    def scheduler(self, sampling: SamplingConfig) -> Any:
        """A scheduler of diffusers with its timesteps set."""
        common: dict[str, Any] = {"timestep_spacing": sampling.spacing}
        if sampling.scheduler == "ddim":
            made = self._scheduler("DDIMScheduler", clip_sample=sampling.clip, **common)
        elif sampling.scheduler == "euler":
            made = self._scheduler("EulerDiscreteScheduler", **common)
        elif sampling.scheduler == "pndm":
            # Without Runge-Kutta steps, as Stable Diffusion has it.
            made = self._scheduler("PNDMScheduler", skip_prk_steps=True, **common)
        else:
            name = {"dpm": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler"}[sampling.scheduler]
            # Dynamic thresholding at ratio 1 and maximum 1 is clipping, which these classes do not offer by itself.
            clip = {"thresholding": sampling.clip, "dynamic_thresholding_ratio": 1.0, "sample_max_value": 1.0}
            made = self._scheduler(name, **clip, **common)
        made.set_timesteps(sampling.num_steps)
        return made

    def _scheduler(self, name: str, **options: Any) -> Any:
        import diffusers

        c = self.config
        if c.schedule in ("linear", "scaled_linear"):
            options |= {"beta_schedule": c.schedule, "beta_start": c.betas[0], "beta_end": c.betas[1]}
        elif c.schedule == "cosine":
            options["beta_schedule"] = "squaredcos_cap_v2"
        else:
            options["trained_betas"] = shifted_cosine_betas(c.num_timesteps, c.shift)
        return getattr(diffusers, name)(
            num_train_timesteps=c.num_timesteps,
            prediction_type=_PREDICTIONS[c.prediction],
            **({} if name == "PNDMScheduler" else {"rescale_betas_zero_snr": c.zero_terminal_snr}),
            **options,
        )

    def _levels(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *(1,) * (like.dim() - 1))
        return self.signal[timestep].view(shape), self.noise[timestep].view(shape)


def shifted_cosine_betas(num_timesteps: int, shift: float) -> list[float]:
    """Betas of a cosine schedule whose log signal-to-noise ratio is moved by 2 log(shift).

    At time t in [0, 1], log snr = -2 log tan(pi t / 2) + 2 log(shift) (Hoogeboom et al. 2023, eq. 9), and the share of
    the signal is sigmoid(log snr) = 1 / (1 + (tan(pi t / 2) / shift)^2).
    """

    def share(t: float) -> float:
        return 1.0 / (1.0 + (math.tan(math.pi / 2 * t) / shift) ** 2) if t < 1 else 0.0

    times = [step / num_timesteps for step in range(num_timesteps + 1)]
    return [min(1.0 - share(b) / share(a), _MAX_BETA) for a, b in pairwise(times)]


def starting_noise(seeds: Tensor, stream: int, shape: tuple[int, ...]) -> Tensor:
    """(B, *shape) standard normal noise; each sample's own, whatever the batch.

    Args:
        seeds: (B,) int64.
        stream: keeps this purpose apart from others that use the same seeds.
        shape: of one sample.
    """
    index = torch.arange(math.prod(shape), device=seeds.device)
    return normal(seeds[:, None], stream, index).view(len(seeds), *shape)
