"""Surface normals by diffusion models (Marigold, Ke et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fourm.data.encode import png
from fourm.nn.pretrained import check_file, fetched
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.network import Inputs, Network, check_finite, remedy, transformers
from fourm.prepare.labelers.network_configs import NormalConfig
from fourm.prepare.labelers.normal_from_depth import encode_normals
from fourm.rng import torch_seed

_WHAT = "normals network"


class Normal(Network):
    """Photographs to RGB pngs of normals: x right, y up, z towards the viewer, which is Marigold's convention too.

    Raises:
        MissingExtraError: if transformers, which has a part of the model, is not installed.
        CheckpointError: if the model cannot be loaded.
    """

    def __init__(self, config: NormalConfig, device: str) -> None:
        super().__init__(config, device)
        transformers(_WHAT)
        from diffusers import MarigoldNormalsPipeline
        from diffusers.utils import logging

        logging.disable_progress_bar()
        check_file(config.weights, f"`weights` of the {_WHAT} '{config.name}'")
        place, local = str(config.weights or config.name), config.weights is not None
        self.model = fetched(
            lambda: MarigoldNormalsPipeline.from_pretrained(
                place, use_safetensors=True, local_files_only=local, low_cpu_mem_usage=False
            ),
            f"{_WHAT} '{config.name}'",
            remedy(),
        ).to(self.device)
        self.model.set_progress_bar_config(disable=True)

    def answer(self, photos: Sequence[Photo], inputs: Inputs) -> list[bytes]:
        c = self.config
        found = self.model(
            inputs["pixels"],
            num_inference_steps=c.num_steps,
            ensemble_size=c.ensemble_size,
            processing_resolution=c.resolution,
            batch_size=len(photos) * c.ensemble_size,
            generator=[self._noise(photo, member) for photo in photos for member in range(c.ensemble_size)],
            output_type="pt",
        ).prediction
        vectors = check_finite(found, _WHAT).float().permute(0, 2, 3, 1).cpu().numpy()
        return [png(encode_normals(_unit(one))) for one in vectors]

    def _noise(self, photo: Photo, member: int) -> torch.Generator:
        """What each prediction starts from, on the CPU: the same on every device."""
        return torch.Generator().manual_seed(torch_seed(self.config.seed, "normal", photo.key, member))


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length one: interpolated ones are shorter."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
