"""Frozen networks that make feature maps of images (4M's CLIP, 4M-21's DINOv2 and ImageBind tokens encode them)."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError, MissingExtraError
from fourm.modality import Modality
from fourm.nn.pretrained import check_file, frozen, timm_model
from fourm.registry import implementation
from fourm.tokenizers.teacher_configs import (
    TeacherConfig,
    TimmTeacherConfig,
    TransformersTeacherConfig,
    teacher_of,
)

KEY = "tokenizer.teacher"


class Teacher(nn.Module):
    """Images to features. Subclasses give `dim`, `patch_size` and the tokens.

    Args:
        config: which tokens, and in which precision.

    Attributes:
        dim: length of a vector.
        patch_size: pixels per place.
    """

    dim: int
    patch_size: int

    def __init__(self, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features of images.

        Args:
            images: (B, 3, H, W), normalised as the modality says.

        Returns:
            (B, dim, H / patch_size, W / patch_size) float32; (B, dim, 1, 1) of a single vector.
        """
        with self._precision(images.device):
            tokens = self._tokens(images)
        height, width = self.map_size(images.shape[-2], images.shape[-1])
        tokens = tokens[:, -height * width :] if self.config.tokens == "patches" else tokens[:, :1]
        return tokens.float().transpose(1, 2).unflatten(2, (height, width))

    def map_size(self, height: int, width: int) -> tuple[int, int]:
        """Places of the map of an image of this size."""
        return (height // self.patch_size, width // self.patch_size) if self.config.tokens == "patches" else (1, 1)

    def _tokens(self, images: Tensor) -> Tensor:
        """(B, n, dim): the class token first, the patches last; or (B, 1, dim), what the network pools."""
        raise NotImplementedError

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """That of the config, whatever the training step computes in: tokenizing computes the same features."""
        if device.type == "meta":  # which knows no autocast
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16)


class VisionTransformerTeacher(Teacher):
    """A teacher whose network is a vision transformer of timm's class.

    Args:
        config: what is read of it.
        model: the network.

    Raises:
        ConfigError: if it has no such output.
    """

    def __init__(self, config: TeacherConfig, model: Any, name: str) -> None:
        super().__init__(config)
        if not hasattr(model, "forward_intermediates") or not hasattr(model, "num_prefix_tokens"):
            raise ConfigError(f"{KEY}: '{name}' is no vision transformer; expected one, for instance vit_base_patch16")
        if config.tokens == "class" and not model.num_prefix_tokens:
            raise ConfigError(f"{KEY}.tokens is class, but '{name}' has no class token; use tokens: patches")
        if config.output == "projection" and not isinstance(model.head, nn.Linear):
            raise ConfigError(f"{KEY}.output is projection, but '{name}' has none; use output: norm")
        self.model = model
        self.dim = model.head.out_features if config.output == "projection" else model.num_features
        self.patch_size = model.patch_embed.patch_size[0]

    def _tokens(self, images: Tensor) -> Tensor:
        model, normed = self.model, self.config.output != "blocks"
        if self.config.tokens == "pooled":
            return model.forward_head(model.forward_features(images), self.config.output != "projection")[:, None]
        found = model.forward_intermediates(
            images, indices=1, norm=normed, return_prefix_tokens=True, output_fmt="NLC", intermediates_only=True
        )[0]
        tokens = torch.cat([found[1], found[0]], 1) if isinstance(found, tuple) else found
        tokens = model.fc_norm(tokens) if normed else tokens
        return model.head(tokens) if self.config.output == "projection" else tokens


class TimmTeacher(VisionTransformerTeacher):
    """A network of timm.

    Args:
        config: which one.

    Raises:
        ConfigError: if timm has no such vision transformer, or it has no such output.
        CheckpointError: if its weights cannot be loaded.
    """

    def __init__(self, config: TimmTeacherConfig) -> None:
        options = {} if config.output == "projection" else {"num_classes": 0}
        model = timm_model(
            config.name, key=KEY, pretrained=config.pretrained, weights=config.weights, dynamic_img_size=True, **options
        )
        super().__init__(config, model, config.name)


class TransformersTeacher(Teacher):
    """A network of the transformers library.

    Args:
        config: which one.

    Raises:
        MissingExtraError: if the library is not installed.
        ConfigError: if it is no vision transformer, or has no such output.
        CheckpointError: if its weights cannot be loaded.
    """

    config: TransformersTeacherConfig

    def __init__(self, config: TransformersTeacherConfig) -> None:
        super().__init__(config)
        check_file(config.weights, f"{KEY}.weights")
        model = frozen(
            lambda: _transformers_model(config),
            f"{KEY} '{config.name}'",
            f"{KEY}.weights to a folder with the model, as `save_pretrained` writes it",
        )
        self.tower: Any = getattr(model, "vision_model", model)
        norms = [getattr(self.tower, name, None) for name in ("post_layernorm", "layernorm")]
        self.norm: Any = next((norm for norm in norms if norm is not None), None)
        self.projection: Any = getattr(model, "visual_projection", None)
        for output, part in (("norm", self.norm), ("projection", self.norm and self.projection)):
            if config.output == output and part is None:
                raise ConfigError(f"{KEY}.output is {output}, but '{config.name}' has none; use another one")
        sizes = self.tower.config
        if not hasattr(sizes, "patch_size") or not hasattr(sizes, "hidden_size"):
            raise ConfigError(f"{KEY}: '{config.name}' is no vision transformer; expected one, such as DINOv2 or CLIP")
        self.patch_size = int(sizes.patch_size)
        last: Any = self.projection if config.output == "projection" else None
        self.dim = int(sizes.hidden_size if last is None else last.out_features)
        resizes = "interpolate_pos_encoding" in inspect.signature(self.tower.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if resizes else {}

    def _tokens(self, images: Tensor) -> Tensor:
        found = self.tower(pixel_values=images, output_hidden_states=True, **self._options)
        if self.config.tokens == "pooled":
            vector = getattr(found, "pooler_output", None)
            if vector is None:
                raise ConfigError(f"{KEY}.tokens is pooled, but '{self.config.name}' pools nothing; use another one")
            return (self.projection(vector) if self.config.output == "projection" else vector)[:, None]
        tokens = found.hidden_states[-1]
        if self.config.output == "blocks" or self.norm is None:
            return tokens
        tokens = self.norm(tokens)
        return self.projection(tokens) if self.config.output == "projection" else tokens


def _transformers_model(config: TransformersTeacherConfig) -> nn.Module:
    try:
        from transformers import AutoConfig, AutoModel
    except ImportError:
        raise MissingExtraError("transformers", "labelers", f"{KEY}.kind transformers") from None
    where = str(config.weights or config.name)
    if config.pretrained:
        return AutoModel.from_pretrained(where, use_safetensors=True)
    return AutoModel.from_config(AutoConfig.from_pretrained(where))


def build_teacher(
    modality: Modality, config: Any = None, weights: Path | None = None, resolutions: Sequence[int] = ()
) -> Teacher | None:
    """The network that makes a modality's values, ready to use; None if its files hold them.

    Args:
        modality: the raw modality.
        config: a teacher to use instead of what `modality.teacher` names.
        weights: file to read its weights from, whatever the config says.
        resolutions: further sizes of its images, as pixels of the shorter side.

    Raises:
        ConfigError: if there is no such teacher, or its features are not those the modality declares.
        CheckpointError: if its weights cannot be loaded.
    """
    chosen = teacher_of(modality, config)
    if chosen is None:
        if weights is not None:
            raise ConfigError(
                f"weights of a teacher are given, but modality '{modality.name}' has none: leave them out"
            )
        return None
    if weights is not None:
        chosen = replace(chosen, weights=weights)
    teacher: Teacher = implementation(chosen.target)(chosen)
    for size in (modality.grid.image_size, *map(modality.grid.image_size_at, resolutions)):
        if size[0] % teacher.patch_size or size[1] % teacher.patch_size:
            raise ConfigError(
                f"modality '{modality.name}' has images of {size[0]} x {size[1]} pixels, which do not divide by the "
                f"{teacher.patch_size} pixels of its teacher's patches"
            )
    height, width = modality.grid.image_size
    made, declared = (teacher.dim, *teacher.map_size(height, width)), (modality.map_channels, *modality.map_size())
    if made != declared:
        raise ConfigError(
            f"modality '{modality.name}' declares {_words(declared)}, but its teacher makes {_words(made)} of images "
            f"of {height} x {width} pixels. Correct content.dim and layout of the modality, or {KEY}.output and tokens"
        )
    return teacher.requires_grad_(False).eval()


def _words(shape: tuple[int | None, ...]) -> str:
    return f"{shape[0]} numbers in {shape[1]} x {shape[2]} places"
