"""The published encoders of AIM (El-Nouby et al. 2024) and AIMv2 (Fini et al. 2024), the first with its probe.

Both are trunks over patches with the same names of tensors. AIM has layer norms with biases, GELU and fixed positions;
AIMv2 RMS norms, SwiGLU, and learned positions or, in its native form, fixed ones that are counted at any size.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from fourm.convert.aim_transformers import PATCHES, PublishedNames
from fourm.convert.published import WEIGHTS_FILE, Published, open_checkpoint
from fourm.convert.rules import Rule
from fourm.errors import CheckpointError, ConfigError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.models.configs import MultimodalConfig

Version = Literal["aim", "aimv2"]
_HEAD_DIM = 128
"""Of all published encoders."""
_PROBED = 6
"""Blocks whose outputs the published probes average: the last ones, or those of `_BEST`."""
_BEST = {1536: 14, 2048: 12, 3072: 12, 4096: 14}
"""Width -> first of the blocks that the published probes called best average."""
_SIZE = 224
_NAMES = {
    "dim": ("embed_dim", "hidden_size"),
    "depth": ("num_blocks", "num_hidden_layers"),
    "num_heads": ("num_heads", "num_attention_heads"),
    "mlp_dim": ("mlp_hidden_dim", "intermediate_size"),
    "image_size": ("img_size", "image_size"),
    "patch_size": ("patch_size",),
}
_TRUNK = {
    "norm_1": "norm1",
    "norm_2": "norm2",
    "attn.qkv": "attn.qkv",
    "attn.proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.fc3": "mlp.fc3",
}
_POSITIONS = "preprocessor.pos_embed"
_EPS: dict[Version, float] = {"aim": 1e-6, "aimv2": 1e-5}
"""Of all norms; a config of AIMv2 may say another one."""


@dataclass(frozen=True)
class Facts:
    """What a published encoder is, by its config and its tensors.

    Args:
        version: `aim` or `aimv2`.
        dim, depth, num_heads, mlp_dim, image_size, patch_size, channels: sizes.
        learned: whether its positions are learned.
        counted: whether its positions are fixed, and counted from 0 at any size.
        num_classes: of its head; None: it has none.
        norm_eps: epsilon of its norms.
        probed: blocks that the head averages.
    """

    version: Version
    dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    image_size: int
    patch_size: int
    channels: int
    learned: bool
    counted: bool
    num_classes: int | None
    norm_eps: float
    probed: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, published: Published, version: Version, layers: str | None = None, num_heads: int | None = None
    ) -> Facts:
        """Read them.

        Args:
            published: config and tensors.
            version: which one it is taken for.
            layers: blocks that the probe averages; see `fourm.recipe.aim.convert`.
            num_heads: of its attention; None: as the config says, or one for each 128 channels.

        Raises:
            CheckpointError: if the tensors are those of something else, or of the other version.
        """
        state, config = published.tensors, published.config
        for key in ("preprocessor.patchifier.proj.weight", "trunk.blocks.0.mlp.fc1.weight"):
            if key not in state:
                raise CheckpointError(
                    f"a published AIM encoder has the tensor {key}, this one has not; it has "
                    f"{', '.join(list(state)[:3]) or 'none'}"
                )
        if (activation := config.get("hidden_act", "silu")) != "silu":
            raise CheckpointError(f"its config has hidden_act {activation}; only silu can be converted")
        found = "aimv2" if "trunk.blocks.0.mlp.fc3.weight" in state else "aim"
        if found != version:
            raise CheckpointError(f"this is an encoder of {found}: use `fourm convert {found}`")
        dim, channels, patch_size, _ = state["preprocessor.patchifier.proj.weight"].shape
        told = num_heads or next((config[key] for key in _NAMES["num_heads"] if config.get(key) is not None), None)
        if told is None and dim % _HEAD_DIM:
            raise CheckpointError(
                f"how many heads its attention has is told by no config, and its width of {dim} is no multiple of "
                f"{_HEAD_DIM}, the channels of a published head: give them by --heads"
            )
        depth = 1 + max(int(m[1]) for key in state if (m := re.match(r"trunk\.blocks\.(\d+)\.", key)))
        learned = _POSITIONS in state
        side = round(state[_POSITIONS].shape[-2] ** 0.5) if learned else _SIZE // patch_size
        sizes = {
            "dim": dim, "depth": depth, "num_heads": dim // _HEAD_DIM,
            "mlp_dim": state["trunk.blocks.0.mlp.fc1.weight"].shape[0],
            "image_size": side * patch_size, "patch_size": patch_size,
        }  # fmt: skip
        for name, keys in _NAMES.items():
            sizes[name] = next((int(config[key]) for key in keys if config.get(key) is not None), sizes[name])
        sizes["num_heads"] = num_heads or sizes["num_heads"]
        num_classes = state["head.linear.weight"].shape[0] if "head.linear.weight" in state else None
        probed = () if num_classes is None else _probed(layers, config.get("probe_layers"), dim, depth)
        eps = config.get("rms_norm_eps") if version == "aimv2" else None
        return cls(
            version, **sizes, channels=channels, learned=learned, counted=version == "aimv2" and not learned,
            num_classes=num_classes, norm_eps=float(eps or _EPS[version]), probed=probed,
        )  # fmt: skip

    @property
    def name(self) -> str:
        return f"rgb@{self.image_size}"

    @property
    def modality(self) -> Modality:
        """What it reads."""
        side = self.image_size // self.patch_size
        return Modality(
            self.name, Grid(side, side, self.patch_size), Continuous(self.channels * self.patch_size**2),
            source="rgb", decode="image", direction="input", channels=self.channels, normalization="imagenet",
            positions="learned" if self.learned else "sincos_xy",
        )  # fmt: skip

    @property
    def model(self) -> MultimodalConfig:
        """Its trunk."""
        first = self.version == "aim"
        ratio = self.mlp_dim / self.dim
        return MultimodalConfig(
            dim=self.dim, encoder_depth=0, decoder_depth=self.depth, num_heads=self.num_heads,
            mlp_ratio=ratio if first else 1.5 * ratio, mlp_hidden_dim=self.mlp_dim,
            activation="gelu" if first else "swiglu", norm="layernorm" if first else "rmsnorm", norm_bias=first,
            norm_eps=self.norm_eps, patch_bias=True, patch_norm=True, modality_embeddings=False,
        )  # fmt: skip


def rules(facts: Facts, state: Mapping[str, Tensor]) -> Iterator[Rule]:
    """What every published tensor is in ours.

    Args:
        facts: of the encoder.
        state: of a `Backbone`, or of a `TransferNetwork` with its probe; on any device.
    """
    own = {name: tuple(tensor.shape) for name, tensor in state.items()}
    prefix = "" if facts.num_classes is None else "backbone."
    stem, patch = f"{prefix}stems.{facts.name}", facts.patch_size
    theirs = "preprocessor.patchifier"
    shape = (facts.dim, facts.channels, patch, patch)
    yield Rule(f"{theirs}.proj.weight", shape, (f"{stem}.projection.weight",), axes=(0, 2, 3, 1))
    yield Rule(f"{theirs}.proj.bias", (facts.dim,), (f"{stem}.projection.bias",))
    if facts.learned:
        yield Rule(_POSITIONS, (1, *own[f"{stem}.positions"]), (f"{stem}.positions",))
    norms = {f"{theirs}.norm": f"{stem}.norm", "trunk.post_trunk_norm": f"{prefix}encoder.norm"}
    blocks = {
        f"trunk.blocks.{i}.{name}": f"{prefix}encoder.blocks.{i}.{target}"
        for i in range(facts.depth)
        for name, target in _TRUNK.items()
    }
    for name, target in (norms | blocks).items():
        for leaf in ("weight", "bias"):
            if f"{target}.{leaf}" in own:
                yield Rule(f"{name}.{leaf}", own[f"{target}.{leaf}"], (f"{target}.{leaf}",))
    if facts.num_classes is not None:
        yield Rule("head.cls_token", (1, *own["head.queries"]), ("head.queries",))
        renamed = {
            "k.weight": "key.weight",
            "v.weight": "value.weight",
            "linear.weight": "linear.weight",
            **{f"bn.{name}": f"norm.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")},
        }
        for key, target in renamed.items():
            yield Rule(f"head.{key}", own[f"head.{target}"], (f"head.{target}",))


def open_encoder(source: str | Path, head: str | Path | None = None) -> Published:
    """The checkpoint of an encoder, with its probe.

    Args:
        source: a folder with `model.safetensors` and, where there is one, `config.json`; a `.safetensors` or `.pth`
            file; or a repository.
        head: file of the probe, where it is published apart.

    Raises:
        CheckpointError: if one of them is missing or damaged.
    """
    weights = Path(source) / WEIGHTS_FILE
    bare = weights.is_file() and not (Path(source) / "config.json").is_file()
    body = open_checkpoint(weights if bare else source)
    if PATCHES in body.tensors:
        body = replace(body, tensors=PublishedNames(body.tensors))
    if head is None:
        return body
    extra = open_checkpoint(head)
    return Published(body.source, {**extra.config, **body.config}, ChainMap(dict(body.tensors), dict(extra.tensors)))


def _probed(layers: str | None, config: Any, dim: int, depth: int) -> tuple[int, ...]:
    """The blocks that a probe averages.

    Raises:
        ConfigError: if they cannot be told, or there are no such blocks.
    """
    wanted: list[int]
    if layers == "best":
        if dim not in _BEST:
            raise ConfigError(
                f"which blocks are best is known of widths {list(_BEST)}, not of {dim}: give their numbers"
            )
        wanted = list(range(_BEST[dim], _BEST[dim] + _PROBED))
    elif layers not in (None, "last"):
        wanted = [n for part in layers.split(",") for n in _numbers(part)]
    elif isinstance(config, list | tuple) and layers is None:
        wanted = [int(n) for n in config]
    else:
        count = int(config) if isinstance(config, int) else min(_PROBED, depth)
        wanted = list(range(depth - count, depth))
    if not wanted or not set(wanted) <= set(range(depth)):
        raise ConfigError(f"the probe averages blocks {wanted}; the encoder has 0 to {depth - 1}")
    return tuple(wanted)


def _numbers(part: str) -> range:
    first, _, last = part.partition("-")
    if not first.strip().isdigit() or not (last or first).strip().isdigit():
        raise ConfigError(f"layers is '{part}'; expected last, best, or numbers of blocks such as 14-19 or 3,5")
    return range(int(first), int(last or first) + 1)
