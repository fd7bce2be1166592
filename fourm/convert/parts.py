"""Published models that are folders of several parts, and rules for the vision towers among them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from fourm.convert.rules import Rule
from fourm.errors import CheckpointError
from fourm.nn.vision_configs import TimmTowerConfig

_LORA = re.compile(r"(.*)\.lora_([AB])(?:\.default)?\.weight")
_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
_FAMILIES = {
    "clip_vision_model": ("vit_base_patch16_clip_224", 1e-5, "quick_gelu"),
    "siglip_vision_model": ("vit_base_patch16_siglip_224", 1e-6, "gelu_pytorch_tanh"),
}
"""Kind of a tower of transformers -> a network of timm of its layout, the epsilon of its norms, and its activation."""
_BLOCK = {
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.out_proj": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


class Prefixed(Mapping[str, Tensor]):
    """The tensors of several parts under one name each, `PART.name`; they are read when they are asked for.

    Args:
        parts: name of a part -> its tensors.
    """

    def __init__(self, parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        self._parts = dict(parts)
        self._names = {f"{part}.{name}": (part, name) for part, tensors in parts.items() for name in tensors}

    def __getitem__(self, name: str) -> Tensor:
        part, own = self._names[name]
        return self._parts[part][own]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Merged(Mapping[str, Tensor]):
    """The same tensors under other names, with LoRA (Hu et al. 2022) added to the matrices it belongs to.

    Args:
        tensors: by their published names.
        names: other name -> published one. Those of LoRA, `X.lora_A.weight` and `X.lora_B.weight` or with `.default`
            before `.weight`, are joined with `X.weight`.
        alpha: of LoRA; its products are scaled by alpha over their rank.
    """

    def __init__(self, tensors: Mapping[str, Tensor], names: Mapping[str, str], alpha: float) -> None:
        self._tensors, self.alpha = tensors, alpha
        self._names, self._lora = {}, dict[str, dict[str, str]]()
        for name, published in names.items():
            match = _LORA.fullmatch(name)
            if match is None:
                self._names[name.replace(".base_layer.weight", ".weight")] = published
            else:
                self._lora.setdefault(f"{match[1]}.weight", {})[match[2]] = published
        for name in self._lora.keys() - self._names.keys():  # of matrices that are not here: left over
            self._names |= {f"{name} (lora_{part})": own for part, own in self._lora.pop(name).items()}

    def __getitem__(self, name: str) -> Tensor:
        value = self._tensors[self._names[name]]
        if name not in self._lora:
            return value
        first, second = (self._tensors[self._lora[name][part]].float() for part in "AB")
        return value.float() + self.alpha / len(first) * second @ first

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def prefixed(rules: list[Rule], part: str) -> Iterator[Rule]:
    """Rules of one part among those of several."""
    for rule in rules:
        twins = tuple(f"{part}.{name}" for name in rule.twins)
        yield replace(rule, key=f"{part}.{rule.key}", twins=twins)


def tower_config(config: Mapping[str, Any], *, layer: int, class_token: bool) -> TimmTowerConfig:
    """A CLIP or SigLIP tower of transformers as one of timm.

    Args:
        config: its `config.json`.
        layer: whose outputs are read, counted from the last one, -1.
        class_token: read too.

    Raises:
        CheckpointError: if it is another kind of tower, or has options that timm's has not.
    """
    config = config.get("vision_config") or config
    kind = str(config.get("model_type"))
    if kind not in _FAMILIES:
        raise CheckpointError(f"the vision tower is of type {kind}; known: {', '.join(_FAMILIES)}")
    name, eps, default = _FAMILIES[kind]
    activation = str(config.get("hidden_act", default))
    if float(config.get("layer_norm_eps", eps)) != eps or activation not in _ACTIVATIONS:
        raise CheckpointError(
            f"the vision tower has hidden_act {activation} and layer_norm_eps {config.get('layer_norm_eps', eps)}; "
            f"expected one of {', '.join(_ACTIVATIONS)}, and {eps:g}"
        )
    dim, hidden = int(config["hidden_size"]), int(config["intermediate_size"])
    options = {
        "patch_size": int(config["patch_size"]),
        "embed_dim": dim,
        "depth": int(config["num_hidden_layers"]),
        "num_heads": int(config["num_attention_heads"]),
        "mlp_ratio": (hidden + 0.5) / dim,  # timm cuts off what is behind the point
        "act_layer": _ACTIVATIONS[activation],
    }
    return TimmTowerConfig(name, options=options, layer=layer, class_token=class_token, cut=True)


def tower_rules(prefix: str, own: Mapping[str, tuple[int, ...]], published: Mapping[str, Tensor]) -> list[Rule]:
    """What the tensors of a CLIP or SigLIP tower are; blocks, norm and head behind the layer that is read are unread.

    Args:
        prefix: of our tower's names.
        own: our names -> shapes.
        published: the tensors of the tower, with or without `vision_model.` before their names.
    """
    start = "vision_model." if any(name.startswith("vision_model.") for name in published) else ""
    dim = own[f"{prefix}.patch_embed.proj.weight"][0]
    names = {
        "embeddings.patch_embedding": "patch_embed.proj",
        "pre_layrnorm": "norm_pre",
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding.weight": "pos_embed",
    }
    blocks = f"{prefix}.blocks."
    depth = 1 + max(int(name.removeprefix(blocks).split(".")[0]) for name in own if name.startswith(blocks))
    for i in range(depth):
        names |= {f"encoder.layers.{i}.{theirs}": f"blocks.{i}.{ours}" for theirs, ours in _BLOCK.items()}
    rules = []
    for theirs, ours in names.items():
        for leaf in ("", ".weight", ".bias"):
            if (target := f"{prefix}.{ours}{leaf}") in own:
                rules.append(Rule(f"{start}{theirs}{leaf}", own[target], (target,)))
    for i in range(depth):
        for leaf in ("weight", "bias"):
            target = f"{prefix}.blocks.{i}.attn.qkv.{leaf}"
            for number, letter in enumerate("qkv"):
                rows = slice(number * dim, (number + 1) * dim)
                shape = (dim, *own[target][1:])
                rules.append(Rule(f"{start}encoder.layers.{i}.self_attn.{letter}_proj.{leaf}", shape, (target,), rows))
    known = {rule.key for rule in rules}
    behind = ("post_layernorm.", "head.", "embeddings.position_ids", "visual_projection.", "logit_")
    for name in published.keys() - known:
        local = name.removeprefix(start)
        block = local.removeprefix("encoder.layers.").split(".")[0]
        if local.startswith(behind) or (local.startswith("encoder.layers.") and int(block) >= depth):
            rules.append(Rule(name, tuple(published[name].shape)))
    return rules
