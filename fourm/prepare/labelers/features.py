"""Feature maps and vectors that other networks make of photographs (4M, 4M-21), computed before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from fourm.data.encode import npy
from fourm.data.shards import CROPS
from fourm.data.stored_crops import cut_all
from fourm.errors import CheckpointError, ConfigError
from fourm.machine import use_bf16
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.feature_configs import FeaturesConfig
from fourm.rng import generator
from fourm.tokenizers.teachers import KEY, build_teacher


class Features:
    """Photographs to npy (crops, C, H, W) float16, a row for each stored crop; without these, for the centre crop.

    Raises:
        ConfigError: if the network makes other features than the config says.
        CheckpointError: if its weights cannot be loaded.
    """

    def __init__(self, config: FeaturesConfig, device: str) -> None:
        self.config = config
        self.device = torch.device(device)
        self.images = config.images()
        network = config.network_config()
        network = replace(network, bf16=network.bf16 or use_bf16(config.precision, self.device))
        try:
            self.teacher = build_teacher(self.images, network)
        except (ConfigError, CheckpointError) as error:  # whose words are for the recipes of tokenizers
            raise type(error)(f"label of kind 'features': {str(error).replace(KEY, 'teacher')}") from error
        assert self.teacher is not None
        self.teacher.to(self.device)

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        crops = [self._crops(photo) for photo in photos]
        stack, most = np.concatenate(crops), self.config.batch_size
        made = np.concatenate([self._features(stack[start : start + most]) for start in range(0, len(stack), most)])
        ends = np.cumsum([len(rows) for rows in crops])
        return [npy(rows) for rows in np.split(made, ends[:-1])]

    def _crops(self, photo: Photo) -> NDArray[np.float32]:
        return cut_all(photo.image, self.images, photo.label(CROPS), generator("features", photo.key))

    def _features(self, crops: NDArray[np.float32]) -> NDArray[np.float16]:
        assert self.teacher is not None
        return self.teacher(torch.from_numpy(crops).to(self.device)).cpu().numpy().astype(np.float16)
