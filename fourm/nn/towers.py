"""Vision transformers of timm as towers: images to the vectors of their patches."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from fourm.errors import CheckpointError, ConfigError
from fourm.nn.init import fill_normal, fill_xavier
from fourm.nn.patches import PatchConv2d
from fourm.nn.pretrained import timm_model
from fourm.nn.vision_configs import TimmTowerConfig

_STD = 0.02
"""Of new class tokens and positions."""


class ImageFacts(NamedTuple):
    """The images that a tower reads.

    Args:
        name: of their modality, for errors.
        height, width: pixels.
        channels: of them.
        normalization: how natural units become their numbers.
    """

    name: str
    height: int
    width: int
    channels: int
    normalization: str


class Tower(nn.Module):
    """Images to vectors. Subclasses give the tokens.

    Attributes:
        dim: length of a vector.
        grid: (rows, columns) of the patches.
        num_extra: tokens before those of the patches.
    """

    dim: int
    grid: tuple[int, int]
    num_extra: int = 0

    @property
    def num_tokens(self) -> int:
        return self.num_extra + self.grid[0] * self.grid[1]

    def forward(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, num_tokens, dim), the patches row by row."""
        raise NotImplementedError


class TimmTower(Tower):
    """A vision transformer of timm, without what lies behind the layer that is read.

    Args:
        image: what it reads.
        config: which one.

    Attributes:
        has_weights: published ones are in it already.

    Raises:
        ConfigError: if timm has no such vision transformer, or it does not go with the images.
        CheckpointError: if its weights cannot be loaded.
    """

    def __init__(self, image: ImageFacts, config: TimmTowerConfig) -> None:
        super().__init__()
        on_meta = torch.empty(0).device.type == "meta"  # weights come later, from a folder of ours
        self.has_weights = (config.pretrained or config.weights is not None) and not on_meta
        self.config, self.model = config, _timm(image, config, loads=self.has_weights)
        depth = len(self.model.blocks)
        if depth + config.layer < 0:
            raise ConfigError(f"tower.layer is {config.layer}, but '{config.name}' has {depth} blocks")
        self.index = depth + config.layer
        self.model.prune_intermediate_layers([self.index], prune_norm=not config.norm, prune_head=True)
        if config.activation_checkpointing:
            self.model.set_grad_checkpointing(True)
        rows, columns = self.model.patch_embed.grid_size
        self.dim, self.grid = int(self.model.embed_dim), (int(rows), int(columns))
        self.num_extra = int(self.model.num_prefix_tokens) if config.class_token else 0

    @property
    def shard_units(self) -> list[nn.Module]:
        """Blocks, of which ranks that share the weights out hold one as a whole at a time (FSDP2)."""
        return list(self.model.blocks)

    def fill_tables(self) -> None:
        """Compute the constants that no checkpoint has, such as the bias of keys in EVA, which is zero."""
        for module in self.model.modules():
            missing = [k for k in module._non_persistent_buffers_set if module._buffers[k] is not None]
            if not missing:
                continue
            if not hasattr(module, "init_non_persistent_buffers"):
                raise ConfigError(f"tower.name is '{self.config.name}', which needs a newer timm: 1.0.31 will do")
            for key in missing:
                module._buffers[key] = torch.empty_like(module._buffers[key], device=torch.get_default_device())
            module.init_non_persistent_buffers()

    def fitted(self, name: str, table: Tensor) -> Tensor:
        """A weight of the same network for images of another size; tables of positions are resized."""
        own = self.model.state_dict()[name.removeprefix("model.")]
        if not name.endswith("pos_embed") or table.shape == own.shape or table.shape[-1] != own.shape[-1]:
            return table
        from timm.layers import resample_abs_pos_embed

        extra = own.shape[1] - self.grid[0] * self.grid[1]
        return cast(Tensor, resample_abs_pos_embed(table, list(self.grid), num_prefix_tokens=extra))

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw what is no linear layer: patches as a linear layer, class tokens and positions."""
        for module in self.model.modules():
            if isinstance(module, nn.Conv2d):
                flat = torch.empty(module.weight.shape[0], module.weight[0].numel())
                fill_xavier(flat, generator)
                module.weight.copy_(flat.view_as(module.weight))
                if module.bias is not None:
                    module.bias.zero_()
        for name in ("cls_token", "reg_token", "pos_embed"):
            if isinstance(parameter := getattr(self.model, name, None), nn.Parameter):
                fill_normal(parameter, generator, _STD)

    def forward(self, images: Tensor) -> Tensor:
        """(n, C, H, W) -> (n, num_tokens, dim), the patches row by row."""
        found = self.model.forward_intermediates(
            images,
            indices=[self.index],
            norm=self.config.norm,
            return_prefix_tokens=bool(self.num_extra),
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )[0]
        if not self.num_extra:
            return cast(Tensor, found)
        patches, extra = found
        return torch.cat([extra, patches], 1)


def _timm(image: ImageFacts, config: TimmTowerConfig, *, loads: bool) -> Any:
    """The network of timm for images of this size."""
    options = {"img_size": (image.height, image.width), "in_chans": image.channels, **config.options}
    licence = _licence(config.name)
    try:
        with torch.random.fork_rng(devices=[]):
            model: Any = timm_model(
                config.name, key="tower", pretrained=loads, weights=config.weights if loads else None, **options
            )
    except CheckpointError as error:
        raise CheckpointError(f"{error}. Licence of these weights: {licence}") from None
    except AssertionError as error:
        raise ConfigError(f"tower.name is '{config.name}', which cannot be used here: {error}") from error
    if not all(hasattr(model, name) for name in ("blocks", "prune_intermediate_layers", "num_prefix_tokens")):
        raise ConfigError(
            f"tower.name is '{config.name}', which is no vision transformer; expected one, such as "
            "vit_large_patch14_clip_336"
        )
    patch = tuple(int(side) for side in model.patch_embed.patch_size)
    if not config.cut and (image.height % patch[0] or image.width % patch[1]):
        near = [max(round(side / p), 1) * p for side, p in zip((image.height, image.width), patch)]
        raise ConfigError(
            f"modality '{image.name}' has images of {image.height} x {image.width} pixels, which '{config.name}' "
            f"cannot cut into patches of {patch[0]} x {patch[1]}: set layout.height and width to {near[0]} and "
            f"{near[1]}, or tower.cut to true"
        )
    if isinstance(conv := model.patch_embed.proj, nn.Conv2d):
        model.patch_embed.proj = PatchConv2d.of(conv)  # a convolution cannot be traced without data
    return model.requires_grad_(True).train()


def _licence(name: str) -> str:
    """Of published weights, as far as timm knows it."""
    import timm

    with contextlib.suppress(Exception):  # networks without published weights, or of the Hub
        return str(cast(Any, timm.get_pretrained_cfg(name)).license or "not known; see their page on the Hub")
    return "see their page on the Hub"
