"""Segment Anything's instances in every stored crop, their masks as tokens (4M-21, Bachmann et al. 2024, sec. 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fourm.data import geometry, transforms
from fourm.data.encode import npz
from fourm.data.instances import INSTANCE_SIZE
from fourm.data.shards import CROPS
from fourm.data.stored_crops import settings_for
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.canny import opencv
from fourm.prepare.labelers.codes import load_codes
from fourm.prepare.labelers.feature_configs import SamInstanceConfig
from fourm.prepare.labelers.sam import Sam
from fourm.rng import generator
from fourm.tokenizers.structured.sam import NUM_MASK_TOKENS

_SIZE = (INSTANCE_SIZE, INSTANCE_SIZE)
_PATCHES = 64  # encoded at a time


class _Instance(NamedTuple):
    """One instance in a crop: its outline (n, 2) x, y; its box ymin, xmin, ymax, xmax; its mask (h, w) in the box."""

    outline: NDArray[np.int64]
    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]


class SamInstance(Sam):
    """Photographs to npz, as `fourm.data.facts.sam` reads it. The network sees each photograph once, uncropped.

    The outline of an instance that falls apart is that of its largest part; box and mask hold all of it.

    Raises:
        MissingExtraError: if OpenCV is not installed.
        ConfigError: if the tokenizer is not one of masks.
        CheckpointError: if it cannot be loaded.
    """

    def __init__(self, config: SamInstanceConfig, device: str) -> None:
        self._cv2 = opencv("the label 'sam_instance'")
        self._tokenizer = load_codes(
            config.mask_tokenizer, "mask_tokenizer", device, like="sam_mask", num_tokens=NUM_MASK_TOKENS
        )
        super().__init__(config, device)

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        found = [self.crops(self.masks(photo.image), photo.label(CROPS)) for photo in photos]
        ids = self._tokens([one.mask for crops in found for crop in crops for one in crop])
        files, start = [], 0
        for crops in found:
            count = sum(len(crop) for crop in crops)
            files.append(_npz(crops, ids[start : start + count]))
            start += count
        return files

    def crops(self, masks: NDArray[np.bool_], stored: NDArray[np.float32] | None) -> list[list[_Instance]]:
        """The instances that each crop shows.

        Args:
            masks: (n, H, W) of the whole photograph.
            stored: (crops, 5); None: the centre crop alone.
        """
        size = (masks.shape[1], masks.shape[2])
        rows = settings_for(stored, 1.0, size)
        cuts = [geometry.from_settings(rows, row, size) for row in range(len(rows))]
        return [[one for mask in masks if (one := self._instance(mask, cut)) is not None] for cut in cuts]

    def _instance(self, mask: NDArray[np.bool_], cut: geometry.Geometry) -> _Instance | None:
        grey = transforms.crop_resize(mask.astype(np.uint8) * 255, cut, _SIZE, Image.Resampling.BILINEAR)
        seen = np.ascontiguousarray(grey > 127)
        if seen.sum() < self.config.min_area:
            return None
        outlines, _ = self._cv2.findContours(
            seen.astype(np.uint8), self._cv2.RETR_EXTERNAL, self._cv2.CHAIN_APPROX_SIMPLE
        )
        outline = max(outlines, key=self._cv2.contourArea)
        rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        top, left, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
        return _Instance(outline.reshape(-1, 2), (top, left, bottom, right), seen[top:bottom, left:right])

    @torch.no_grad()
    def _tokens(self, masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
        """(n, 16) ids of masks, each stretched to the picture that the tokenizer reads."""
        modality, ids = self._tokenizer.modality, [np.zeros((0, NUM_MASK_TOKENS), np.int64)]
        for start in range(0, len(masks), _PATCHES):
            patches: Any = np.stack(
                [
                    transforms.apply(
                        mask.astype(np.uint8) * 255, modality, geometry.whole(mask.shape), generator("sam_instance")
                    )
                    for mask in masks[start : start + _PATCHES]
                ]
            )
            encoded = self._tokenizer.encode(torch.from_numpy(patches).to(self.device))
            ids.append(encoded.flatten(1).cpu().numpy())
        return np.concatenate(ids)


def _npz(crops: Sequence[Sequence[_Instance]], ids: NDArray[np.int64]) -> bytes:
    instances = [one for crop in crops for one in crop]
    outlines = [np.zeros((0, 2), np.int64), *(one.outline for one in instances)]
    return npz(
        points=np.concatenate(outlines).astype(np.int16),
        num_points=np.array([len(one.outline) for one in instances], np.int32),
        bbox=np.array([one.box for one in instances], np.int16).reshape(-1, 4),
        token_ids=ids.astype(np.int16),
        num_instances=np.array([len(crop) for crop in crops], np.int32),
    )
