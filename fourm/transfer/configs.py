"""Configuration of backbones, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fourm.errors import ConfigError
from fourm.nn.configs import Backend
from fourm.ranges import check_range


@dataclass(frozen=True)
class BackboneConfig:
    """An encoder with the embedders of some of its modalities.

    Args:
        modalities: what it reads, by full name or without the resolution, the most important one first.
        new: those of them that the checkpoint does not know; their embedders start at random.
        channels: modality -> the channels of it that are read, for instance `[0]`; they keep their trained weights.
        image_size: pixels per side of the images it will be used for, if that is known beforehand. Other sizes can
            still be read.
        out_layers: blocks whose outputs become maps, from 0, negative ones from the end; None: the last one.
        normalize: the last norm of the encoder is applied to what blocks give; false gives it as it is.
        average_layers: blocks whose outputs, as they are, are averaged for heads on tokens, in place of the last
            block's normalised one (AIM, El-Nouby et al. 2024, sec. 4). Nothing behind them is computed or trained.
        places: how sine-cosine positions follow the size of an image: `fitted` to the grid of the training, or
            `counted` from 0, as native AIMv2 encoders do.
        pyramid: `simple` makes maps of four strides (ViTDet, Li et al. 2022); null leaves them at that of the patches.
        out_channels: of the maps of a pyramid.
        window: tokens per side of the windows within which blocks attend; 0: all blocks attend globally.
        global_blocks: blocks that attend globally in spite of `window`; None: four, evenly spaced, the last among them.
        merge: maps of several modalities become their `mean`, or those of the `first` that is there.
        drop_path: stochastic depth, growing linearly over the blocks.
        activation_checkpointing: recompute activations in the backward pass.
        backend: attention kernel; None: as the model was trained.
    """

    modalities: list[str] = field(default_factory=lambda: ["rgb"])
    new: list[str] = field(default_factory=list)
    channels: dict[str, list[int]] = field(default_factory=dict)
    image_size: int | None = None
    out_layers: list[int] | None = None
    normalize: bool = True
    average_layers: list[int] | None = None
    places: Literal["fitted", "counted"] = "fitted"
    pyramid: Literal["simple"] | None = None
    out_channels: int = 256
    window: int = 0
    global_blocks: list[int] | None = None
    merge: Literal["mean", "first"] = "mean"
    drop_path: float = 0.0
    activation_checkpointing: bool = False
    backend: Backend | None = None

    def __post_init__(self) -> None:
        check_range(self, "image_size", "out_channels", least=1)
        check_range(self, "window", least=0)
        check_range(self, "drop_path", least=0, below=1)
        if not self.modalities:
            raise ConfigError("modalities is empty; name what the backbone reads, for instance modalities: [rgb]")
        strange = [name for name in self.new if name not in self.modalities]
        if strange:
            raise ConfigError(f"new names '{strange[0]}', which is not among modalities: {', '.join(self.modalities)}")
        for key in ("out_layers", "average_layers"):
            if getattr(self, key) == []:
                raise ConfigError(f"{key} is empty; name blocks, or leave it out for the last one")
        if self.pyramid is not None and self.out_layers is not None and len(self.out_layers) not in (1, 4):
            raise ConfigError(
                f"out_layers names {len(self.out_layers)} blocks; a pyramid is made of one of them, or of four, one "
                "for each of its strides"
            )
