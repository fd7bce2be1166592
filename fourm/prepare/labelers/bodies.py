"""SMPL bodies (Loper et al. 2015), by a model of the user's since its licence forbids to ship it, and their tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fourm.data.transforms import normalize
from fourm.errors import ConfigError
from fourm.prepare.labelers.codes import load_codes
from fourm.registry import implementation
from fourm.tokenizers.structured.poses import NUM_POSE_TOKENS

_SHAPES: dict[str, tuple[int, ...]] = {
    "global_orient": (3, 3),
    "body_pose": (23, 3, 3),
    "betas": (10,),
    "pred_cam": (3,),
    "pose_tokenized": (NUM_POSE_TOKENS,),
}
"""What a body model may say of a person."""
_PARAMETERS = ("global_orient", "body_pose", "betas")
_OTHER_SIDE = [1, 0, 2, 4, 3, 5, 7, 6, 8, 10, 9, 11, 13, 12, 14, 16, 15, 18, 17, 20, 19, 22, 21]
"""SMPL's body joint that each of the 23 is in a mirror: the left hip is a right one."""
_MIRROR = np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], np.float32)
"""M R M with M = diag(-1, 1, 1), number by number."""


class Bodies(Protocol):
    """What `smpl: package.module:name` names, in an installed package of the user's.

    Either such a function, or a class, which is then built once with the device, such as `cuda:0`, and called.
    """

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Mapping[str, Any]:
        """SMPL bodies (Loper et al. 2015) of the people in a photograph.

        Args:
            image: (H, W, 3) RGB.
            boxes: (n, 4) x1, y1, x2, y2 of the people in pixels, at least one.

        Returns:
            arrays or nested lists with n rows: `pred_smpl_params`, a mapping with `global_orient` (3 x 3 rotation from
            the body's axes to the camera's: x right, y down, z away), `body_pose` (23 rotations 3 x 3 of joints) and
            `betas` (10 numbers of the shape); `pred_cam` (scale, x, y of the weak-perspective camera of the box); and,
            if there is a tokenizer of its own, `pose_tokenized` (8 ids below 1,024). Any may be missing.
        """


class BodyModel:
    """Calls the user's model, checks what it says, and adds the tokens of poses.

    Args:
        name: `package.module:name`, see `Bodies`.
        pose_tokenizer: folder of a tokenizer of `smpl_pose`; None: there are the tokens that the model gives.
        device: where to compute.

    Raises:
        ConfigError: if the model cannot be imported, or the tokenizer is not one of poses.
        CheckpointError: if the tokenizer cannot be loaded.
    """

    def __init__(self, name: str, pose_tokenizer: Path | None, device: str) -> None:
        self.name = name
        self.device = device
        self._bodies = _import(name, device)
        self._tokenizer: Any = None
        if pose_tokenizer is not None:
            self._tokenizer = load_codes(
                pose_tokenizer, "pose_tokenizer", device, like="smpl_pose", num_tokens=NUM_POSE_TOKENS
            )

    def __call__(self, image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> dict[str, Any]:
        """Arrays under the keys of `human_poses` files, a row for each person.

        Args:
            image: (H, W, 3) RGB.
            boxes: (n, 4) x1, y1, x2, y2 in pixels.

        Raises:
            ConfigError: if the model gives something else than it should.
        """
        found = self._bodies(image, boxes)
        given = {**found, **(found.get("pred_smpl_params") or {})}
        values = {
            name: self._checked(name, given[name], (len(boxes), *shape))
            for name, shape in _SHAPES.items()
            if given.get(name) is not None
        }
        if self._tokenizer is not None and "body_pose" in values:
            values["pose_tokenized"] = self._tokens(values["body_pose"])
            values["pose_tokenized_mirrored"] = self._tokens(mirrored(values["body_pose"]))
        body = {name: values.pop(name) for name in _PARAMETERS if name in values}
        return values | ({"pred_smpl_params": body} if body else {})

    def _checked(self, name: str, value: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, np.float32)
        if array.size != np.prod(shape) or not np.isfinite(array).all():
            raise ConfigError(
                f"smpl '{self.name}' gave {name} of shape {array.shape}; expected {shape}, a row per person, all finite"
            )
        array = array.reshape(shape)
        return array.astype(np.int64) if name == "pose_tokenized" else array

    @torch.inference_mode()
    def _tokens(self, body_pose: NDArray[np.float32]) -> NDArray[np.int64]:
        """(n, 8) ids of poses (n, 23, 3, 3)."""
        vectors = normalize(body_pose.reshape(len(body_pose), -1, 1, 1), self._tokenizer.modality)
        return np.asarray(self._tokenizer.encode(torch.from_numpy(vectors).to(self.device)).flatten(1).cpu())


def mirrored(body_pose: NDArray[np.float32]) -> NDArray[np.float32]:
    """Poses as a mirror shows them: left joints turn as right ones did, and all the other way round.

    Args:
        body_pose: (n, 23, 3, 3), the rotations of SMPL's body joints.
    """
    return body_pose[:, _OTHER_SIDE] * _MIRROR


def _import(name: str, device: str) -> Bodies:
    try:
        found = implementation(name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"smpl is '{name}', which cannot be imported: {error}. Install the package it is in, or correct the name"
        ) from error
    bodies = found(device) if isinstance(found, type) else found
    if not callable(bodies):
        raise ConfigError(f"smpl is '{name}', which is {type(bodies).__name__}; expected a function or a class of such")
    return bodies
