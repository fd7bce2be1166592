"""A trained encoder as a backbone: images or any of its other modalities in, maps of features out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError, DataError
from fourm.modality import ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.stems import Embedded, Stem, build_stem
from fourm.models.towers import ModelTower
from fourm.nn.init import fill_normal, initialise
from fourm.nn.trunk import Trunk
from fourm.patterns import AttentionPattern
from fourm.rng import torch_seed
from fourm.transfer.configs import BackboneConfig
from fourm.transfer.maps import Tokens, merged_map
from fourm.transfer.pyramid import SimplePyramid
from fourm.transfer.source import choose, reader
from fourm.transfer.windows import global_blocks, window_numbers


class Backbone(nn.Module):
    """The encoder of a model with the embedders of some of its modalities; of a model without one, its decoder.

    Args:
        modalities: what it reads, the most important one first.
        model: config of the model that it is the encoder of.
        config: how it is used.
        seed: of the initial weights.

    Attributes:
        out_channels: of every map.
        num_features: width of the encoder.
        patch_size: pixels per side and token of the first modality that has places in the image.
        num_prefix_tokens: registers, which come before all others in `forward_features`.

    Raises:
        ConfigError: if blocks are named that it does not have, or no modality has places in the image and maps are
            asked for.
    """

    def __init__(self, modalities: ModalitySet, model: MultimodalConfig, config: BackboneConfig, seed: int = 0) -> None:
        super().__init__()
        self.modalities, self.config = modalities, config
        unknown = sorted(set(config.channels) - set(modalities))
        if unknown:
            raise ConfigError(f"channels names '{unknown[0]}'; this backbone reads {', '.join(modalities)}")
        options: dict[str, Any] = {
            "drop_path": config.drop_path,
            "activation_checkpointing": config.activation_checkpointing,
        }
        if config.backend is not None:
            options["backend"] = config.backend
        self.model_config = replace(model, **options)
        dim, depth = model.dim, model.reading_depth
        self.embedding_std = model.embedding_std
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed, "backbone"))
            self.stems = nn.ModuleDict(
                {m.name: build_stem(m, model, config.channels.get(m.name)) for m in modalities.values()}
            )
            count = model.num_register_tokens
            self.registers = nn.Parameter(torch.empty(count, dim)) if count else None
            self.encoder = Trunk(self.model_config.trunk(depth, cross_attention=False))
            self.pyramid = SimplePyramid(dim, config.out_channels) if config.pyramid is not None else None
        self.num_features, self.num_prefix_tokens = dim, count
        self.out_channels = dim if self.pyramid is None else config.out_channels
        for stem in self.stems.values():
            cast(Stem, stem).counted = config.places == "counted"
        self.out_layers = _layers("out_layers", config.out_layers, depth)
        self.average_layers = _layers("average_layers", config.average_layers, depth)
        if self.average_layers is not None and self.out_layers is None:
            for part in (*self.encoder.blocks[max(self.average_layers) + 1 :], self.encoder.norm):
                part.requires_grad_(False)  # nothing reads it; ranks would wait for its gradient
        spatial = [m.name for m in modalities.values() if m.is_spatial]
        self.patch_size = modalities[spatial[0]].grid.patch_size if spatial else 1
        self.global_blocks = global_blocks(config.window, config.global_blocks, depth)
        self._new_stems = {m.name for m in modalities.values() if {m.name, m.key, *m.aliases} & set(config.new)}
        self._check_size(spatial)
        if self.encoder.norm.weight.device.type != "meta":
            initialise(self, seed)

    @classmethod
    def from_model(
        cls,
        model: Any,
        config: BackboneConfig,
        *,
        new: ModalitySet | None = None,
        pretrained: bool = True,
        seed: int = 0,
    ) -> Backbone:
        """The encoder of a trained model.

        Args:
            model: a `Multimodal`, a `Contrastive`, or a trained backbone; its weights are copied.
            config: how it is used.
            new: modalities that `config.new` may name.
            pretrained: false leaves all weights at random, for training from scratch.
            seed: of new weights.

        Raises:
            CheckpointError: if the model does not read a modality that is asked for.
        """
        model = model if isinstance(model, Backbone) else reader(model, config)
        chosen = [choose(name, model.modalities, new if name in config.new else None) for name in config.modalities]
        named = dict(zip(config.modalities, chosen))
        channels = {named[key].name if key in named else key: value for key, value in config.channels.items()}
        of = model.model_config if isinstance(model, Backbone) else model.config
        backbone = cls(ModalitySet(chosen), of, replace(config, channels=channels), seed)
        if pretrained:
            backbone.adopt(model, [m.name for name, m in named.items() if name not in config.new])
        return backbone

    @torch.no_grad()
    def adopt(self, model: Any, names: Sequence[str]) -> None:
        """Copy the trunk of a trained model or backbone, and the embedders of the modalities `names`."""
        trained = isinstance(model, Backbone)
        trunk = model.decoder if model.encoder is None else model.encoder
        self.encoder.load_state_dict(trunk.state_dict())
        if self.registers is not None:
            self.registers.copy_(model.registers)
        for name in names:
            if trained or isinstance(model, ModelTower):
                self._stem(name).take(model._stem(name) if trained else model.stem)
            else:
                self._stem(name).adopt(model)
        if trained and self.pyramid is not None and self.config.out_channels == model.out_channels and model.pyramid:
            self.pyramid.load_state_dict(model.pyramid.state_dict())

    def fill_parameters(self, generator: torch.Generator) -> None:
        """Draw the register tokens."""
        if self.registers is not None:
            fill_normal(self.registers, generator, self.embedding_std)

    @property
    def num_layers(self) -> int:
        """How many numbers `layer_of` can give."""
        return self.model_config.reading_depth + 2

    def layer_of(self, name: str) -> int:
        """Depth of a parameter of this module, for learning rates that decay with it (Bao et al. 2022, BEiT).

        Returns:
            0 for embedders and registers, i + 1 for block i, `num_layers` - 1 for all behind the blocks, and for the
            embedders of new modalities, which have everything to learn.
        """
        part, *rest = name.split(".")
        if self.is_new(name):
            return self.num_layers - 1
        if part in ("stems", "registers"):
            return 0
        if part == "encoder" and rest[0] == "blocks":
            return int(rest[1]) + 1
        return self.num_layers - 1

    def is_new(self, name: str) -> bool:
        """Whether no checkpoint has a parameter of this module: those of the pyramid, and of new modalities."""
        part, *rest = name.split(".")
        return part == "pyramid" or (part == "stems" and rest[0] in self._new_stems)

    def forward(
        self,
        x: Tensor | Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        prefix_lengths: Tensor | None = None,
    ) -> OrderedDict[str, Tensor]:
        """Maps of features, as torchvision's detectors read them.

        Args:
            x: modality -> its values: images (B, C, H, W) normalised as the modality says, ids (B, rows, columns) or
                (B, n), vectors (B, n, d). A tensor alone is the first modality. Modalities may be missing.
            present: modality -> (B,) bool, for samples that lack some of the modalities.
            prefix_lengths: (B,) tokens at the front that see one another, while each later one sees those before it and
                itself, as AIM is trained; None: all see all.

        Returns:
            "0", "1", ... -> (B, out_channels, h, w): with a pyramid at strides patch / 4, patch / 2, patch and
            2 * patch, else one map per layer at the stride of the patches.

        Raises:
            DataError: if an input is none of its modalities or has another shape, or none has places in the image.
        """
        tokens = self.embed(x, present, prefix_lengths)
        if not tokens.grids:
            raise DataError(
                f"none of the inputs {', '.join(self._named(x))} has places in the image, so there is no map"
            )
        first, present = self.config.merge == "first", present or {}
        maps = [merged_map(tokens.grids, hidden, present, first=first) for hidden in self._encode(tokens)]
        maps = maps if self.pyramid is None else self.pyramid(maps)
        return OrderedDict((str(level), value) for level, value in enumerate(maps))

    def forward_features(
        self,
        x: Tensor | Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        prefix_lengths: Tensor | None = None,
    ) -> Tensor:
        """(B, R + N, D) outputs of `encode` for all tokens, registers first, then modality by modality in the order of
        `modalities`; arguments as for `forward`.
        """
        return self.encode(self.embed(x, present, prefix_lengths))

    def pooled(self, x: Tensor | Mapping[str, Tensor], present: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, D) mean over all tokens of what `encode` gives, registers left out."""
        tokens = self.embed(x, present)
        hidden = self.encode(tokens)[:, self.num_prefix_tokens :]
        if tokens.valid is None:
            return hidden.mean(1)
        valid = tokens.valid[:, self.num_prefix_tokens :, None].to(hidden.dtype)
        return (hidden * valid).sum(1) / valid.sum(1).clamp(min=1)

    def embed(
        self,
        x: Tensor | Mapping[str, Tensor],
        present: Mapping[str, Tensor] | None = None,
        prefix_lengths: Tensor | None = None,
    ) -> Tokens:
        """The encoder's input; arguments as for `forward`."""
        given, present = self._named(x), present or {}
        parts: dict[str, Embedded] = {name: self._stem(name)(given[name]) for name in self.modalities if name in given}
        if not parts:
            raise DataError(f"nothing is given; this backbone reads {', '.join(self.modalities)}")
        first = next(iter(parts.values())).x
        grids, start = {}, self.num_prefix_tokens
        for name, part in parts.items():
            if part.size is not None and self.modalities[name].is_spatial:
                grids[name] = (start, part.size)
            start += part.x.shape[1]
        joined = [part.x for part in parts.values()]
        masks = [_valid(part, present.get(name)) for name, part in parts.items()]
        if self.registers is not None:
            joined.insert(0, self.registers.expand(len(first), -1, -1).to(first.dtype))
            masks.insert(0, None)
        valid = None
        if any(mask is not None for mask in masks):
            valid = torch.cat(
                [x.new_ones(x.shape[:2], dtype=torch.bool) if m is None else m for x, m in zip(joined, masks)], 1
            )
        if prefix_lengths is not None and (prefix_lengths.shape != (len(first),) or prefix_lengths.is_floating_point()):
            raise DataError(
                f"prefix_lengths is {prefix_lengths.dtype} of shape {tuple(prefix_lengths.shape)}; expected integers "
                f"({len(first)},), tokens of each sample"
            )
        prefix = None if prefix_lengths is None else prefix_lengths + self.num_prefix_tokens
        return Tokens(torch.cat(joined, 1), valid, grids, prefix)

    def encode(self, tokens: Tokens) -> Tensor:
        """(B, R + N, D) normalised outputs of the last block, or the mean of those of `average_layers`."""
        if self.average_layers is not None:
            return torch.stack(self._blocks(tokens, self.average_layers)).mean(0)
        if not self.config.normalize:
            return self._blocks(tokens, [len(self.encoder.blocks) - 1])[0]
        return cast(Tensor, self.encoder(tokens.x, attention=self._patterns(tokens)))

    def _encode(self, tokens: Tokens) -> list[Tensor]:
        """The outputs of the chosen blocks."""
        if self.out_layers is None:
            return [self.encode(tokens)]
        found = self._blocks(tokens, self.out_layers)
        return [self.encoder.norm(hidden) for hidden in found] if self.config.normalize else found

    def _blocks(self, tokens: Tokens, wanted: Sequence[int]) -> list[Tensor]:
        """The outputs of some blocks as they are."""
        found = self.encoder(tokens.x, attention=self._patterns(tokens), layers=tuple(wanted))
        by_block = dict(zip(sorted(set(wanted)), cast(list[Tensor], found)))
        return [by_block[block] for block in wanted]

    def _patterns(self, tokens: Tokens) -> AttentionPattern | list[AttentionPattern | None] | None:
        full = None if tokens.valid is None else AttentionPattern.full(tokens.valid)
        if tokens.prefix is not None:
            valid = tokens.x.new_ones(tokens.x.shape[:2], dtype=torch.bool) if tokens.valid is None else tokens.valid
            full = AttentionPattern.prefix_causal(valid, tokens.prefix.to(valid.device))
        if not self.config.window:
            return full
        numbers = window_numbers(tokens.x.shape[1], tokens.grids.values(), self.config.window).to(tokens.x.device)
        everyone = full or AttentionPattern.full(torch.ones_like(numbers, dtype=torch.bool))
        windowed = everyone.separate(numbers)
        return [full if block in self.global_blocks else windowed for block in range(len(self.encoder.blocks))]

    def _named(self, x: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        if isinstance(x, Tensor):
            return {next(iter(self.modalities)): x}
        named = {}
        for key, value in x.items():
            found = [m.name for m in self.modalities.values() if key in (m.name, m.key, *m.aliases)]
            if not found:
                raise DataError(f"input '{key}' is none of this backbone's modalities: {', '.join(self.modalities)}")
            named[found[0]] = value
        return named

    def _stem(self, name: str) -> Stem:
        return cast(Stem, self.stems[name])

    def _check_size(self, spatial: Sequence[str]) -> None:
        size = self.config.image_size
        if self.config.pyramid is not None and not spatial:
            raise ConfigError(
                f"pyramid needs a modality with places in the image; {', '.join(self.modalities)} has none"
            )
        if size is not None and size % self.patch_size:
            raise ConfigError(
                f"image_size is {size}, which does not divide by the {self.patch_size} pixels of a patch; the nearest "
                f"that does is {max(1, round(size / self.patch_size)) * self.patch_size}"
            )


def _layers(key: str, layers: Sequence[int] | None, depth: int) -> list[int] | None:
    if layers is None:
        return None
    wrong = [layer for layer in layers if not -depth <= layer < depth]
    if wrong:
        raise ConfigError(f"{key} names block {wrong[0]}; the encoder has {depth}: 0 to {depth - 1}, or -1 and down")
    return [layer % depth for layer in layers]


def _valid(part: Embedded, present: Tensor | None) -> Tensor | None:
    """(B, n) which tokens there are; None: all."""
    if present is None:
        return part.valid
    there = present[:, None].expand(part.x.shape[:2])
    return there if part.valid is None else there & part.valid
