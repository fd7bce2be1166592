"""A U-Net that attends to rows of vectors: what Stable Diffusion does with a text, for any condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fourm.errors import CheckpointError, ConfigError
from fourm.tokenizers.diffusers_parts import check_sizes, make_unet, read_part, unet_sizes
from fourm.tokenizers.visual_decoder_configs import CrossUNetConfig


class CrossUNet(nn.Module):
    """Predicts noise or image from noisy values, a timestep and conditions.

    Args:
        config: sizes.
        channels: of what it paints.
        joint: name -> length of the vectors of each condition that its own layers attend to, in this order.
        apart: name -> (number of vectors, length) of those that have keys and values of their own.

    Raises:
        ConfigError: if there are several conditions of different lengths and no `cross_dim`.
        CheckpointError: if the weights to start from cannot be read.
    """

    def __init__(
        self, config: CrossUNetConfig, channels: int, joint: Mapping[str, int], apart: Mapping[str, tuple[int, int]]
    ) -> None:
        super().__init__()
        self.config, self.joint, self.apart = config, tuple(joint), tuple(apart)
        dims = {*joint.values(), *(dim for _, dim in apart.values())}
        if config.cross_dim is None and len(dims) > 1:
            raise ConfigError(
                f"the conditions have vectors of {', '.join(map(str, sorted(dims)))} numbers: set "
                "tokenizer.unet.cross_dim to the length that all are mapped to"
            )
        self.cross_dim = config.cross_dim or dims.pop()
        every = {**joint, **{name: dim for name, (_, dim) in apart.items()}}
        self.projections = nn.ModuleDict(
            {name: nn.Linear(dim, self.cross_dim) for name, dim in every.items() if config.cross_dim is not None}
        )
        folded = channels * config.patch_size**2
        pooled = self.cross_dim if config.pooled else None
        self.network: Any = make_unet(config, folded, self.cross_dim, pooled)
        if config.source is not None and not self._is_meta:
            self._start_from(config.source)
        if apart:
            self._add_attention([count for count, _ in apart.values()])

    @property
    def _is_meta(self) -> bool:
        return bool(self.network.conv_in.weight.is_meta)

    def forward(self, noisy: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Predict.

        Args:
            noisy: (B, C, H, W).
            timestep: (B,).
            conditions: name -> (B, N, d).

        Returns:
            (B, C, H, W).
        """
        folded = F.pixel_unshuffle(noisy, self.config.patch_size)
        rows = {name: self._project(name, conditions[name]) for name in (*self.joint, *self.apart)}
        joint = torch.cat([rows[name] for name in self.joint], 1)
        seen: Any = (joint, [rows[name] for name in self.apart]) if self.apart else joint
        added = self._added(joint, noisy) if self.config.pooled else None
        predicted = self.network(folded, timestep, seen, added_cond_kwargs=added, return_dict=False)[0]
        return F.pixel_shuffle(cast(Tensor, predicted), self.config.patch_size)

    def _project(self, name: str, vectors: Tensor) -> Tensor:
        return self.projections[name](vectors) if name in self.projections else vectors

    def _added(self, vectors: Tensor, noisy: Tensor) -> dict[str, Tensor]:
        """The mean of the vectors, and the size and crop of the image: its own, without a crop (Emu2)."""
        size = [noisy.shape[-2] * self.size_factor, noisy.shape[-1] * self.size_factor]
        numbers = torch.tensor([*size, 0, 0, *size], dtype=vectors.dtype, device=vectors.device)
        return {"text_embeds": vectors.mean(1), "time_ids": numbers.expand(len(vectors), -1)}

    size_factor: int = 1
    """Pixels per side of one painted value."""

    def _add_attention(self, counts: list[int]) -> None:
        """Keys and values of their own for further conditions, beside those of every layer that attends to one."""
        from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

        processors = dict(self.network.attn_processors)
        for name in processors:
            if ".attn2." in name:
                layer = self.network.get_submodule(name.removesuffix(".processor"))
                processors[name] = IPAdapterAttnProcessor2_0(
                    layer.inner_dim, self.cross_dim, num_tokens=tuple(counts), scale=1.0
                )
        self.network.set_attn_processor(processors)

    @torch.no_grad()
    def _start_from(self, source: str) -> None:
        """Take the weights of a published U-Net; layers of other shapes, which belong to the condition, stay random."""
        from diffusers import UNet2DConditionModel

        found = read_part(UNet2DConditionModel, "unet", source, self.config.revision, "tokenizer.unet.source")
        sizes = {"widths": tuple(found.config.block_out_channels), "num_blocks": found.config.layers_per_block}
        check_sizes(source, "tokenizer.unet", sizes, self.config)
        ours, theirs = self.network.state_dict(), found.state_dict()
        fresh = [name for name, value in ours.items() if name not in theirs or theirs[name].shape != value.shape]
        strange = [name for name in fresh if ".attn2." not in name and not name.startswith("add_embedding.")]
        if strange or (missing := theirs.keys() - ours.keys()):
            name = strange[0] if strange else min(missing)
            raise CheckpointError(
                f"the U-Net in '{source}' has no layer that fits '{name}' of tokenizer.unet: set its sizes to those of "
                f"the model, as {unet_sizes(self.config)} are now"
            )
        for name, value in ours.items():
            if name not in fresh:
                value.copy_(theirs[name])
