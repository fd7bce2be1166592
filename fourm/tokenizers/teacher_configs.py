"""What a recipe says about teachers, the frozen networks whose features are tokenized. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from fourm.config import to_dict
from fourm.errors import ConfigError, did_you_mean
from fourm.modality import Modality
from fourm.registry import Registry

Output = Literal["blocks", "norm", "projection"]
Tokens = Literal["patches", "class", "pooled"]


@dataclass(frozen=True)
class TeacherConfig:
    """What all teachers have in common.

    Args:
        output: what is read of the network: its last block, the norm behind it, or the projection behind that.
        tokens: vectors of the patches, as a map; or the one vector of the image, that of the class token or the one
            that the network itself pools (SigLIP has no class token).
        weights: local file or folder; None: from the Hub.
        pretrained: False draws random weights, for tests.
        bf16: compute in bfloat16.
    """

    output: Output = "norm"
    tokens: Tokens = "patches"
    weights: Path | None = None
    pretrained: bool = True
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.tokens == "pooled" and self.output == "blocks":
            raise ConfigError("tokens is pooled, which is done behind the norm: use output: norm or projection")


@dataclass(frozen=True, kw_only=True)
class TimmTeacherConfig(TeacherConfig):
    """A vision transformer of timm.

    Args:
        name: as timm knows it, for instance `vit_base_patch14_dinov2.lvd142m`.
        output, tokens, weights, pretrained, bf16: see `TeacherConfig`.
    """

    target: ClassVar[str] = "fourm.tokenizers.teachers:TimmTeacher"

    name: str


@dataclass(frozen=True, kw_only=True)
class TransformersTeacherConfig(TeacherConfig):
    """A vision transformer of the transformers library, which is an extra (`fourm[labelers]`).

    Args:
        name: repository on the Hub, for instance `facebook/dinov2-base`, or a local folder.
        output, tokens, pretrained, bf16: see `TeacherConfig`.
        weights: local folder as `save_pretrained` writes it.
    """

    target: ClassVar[str] = "fourm.tokenizers.teachers:TransformersTeacher"

    name: str


@dataclass(frozen=True)
class ImageBindConfig(TeacherConfig):
    """The vision tower of ImageBind-H/14 (Girdhar et al. 2023).

    Its weights are under CC-BY-NC-SA 4.0, so they are not fetched: get `imagebind_huge.pth` from the authors.

    Args:
        output, tokens, pretrained, bf16: see `TeacherConfig`.
        weights: the authors' file.
        dim, depth, num_heads, projection_dim, image_size: sizes of the tower.
    """

    target: ClassVar[str] = "fourm.tokenizers.imagebind:ImageBindTeacher"

    output: Output = "blocks"
    dim: int = 1280
    depth: int = 32
    num_heads: int = 16
    projection_dim: int = 1024
    image_size: int = 224


TEACHER_KINDS = Registry(
    "kind of teacher",
    {
        "timm": "fourm.tokenizers.teacher_configs:TimmTeacherConfig",
        "transformers": "fourm.tokenizers.teacher_configs:TransformersTeacherConfig",
        "imagebind": "fourm.tokenizers.teacher_configs:ImageBindConfig",
    },
)

_CLIP_B16 = "vit_base_patch16_clip_quickgelu_224.openai"
_DINOV2_B14 = "vit_base_patch14_dinov2.lvd142m"
# The features that the published tokenizers encode, each of images with ImageNet's mean and deviation, CLIP's too.
TEACHERS: dict[str, TeacherConfig] = {
    "clip_b16": TimmTeacherConfig(name=_CLIP_B16, output="projection"),
    "dinov2_b14": TimmTeacherConfig(name=_DINOV2_B14),
    "dinov2_b14_global": TimmTeacherConfig(name=_DINOV2_B14, tokens="class"),
    "imagebind_h14": ImageBindConfig(),
    "imagebind_h14_global": ImageBindConfig(tokens="class"),
}


def teacher_of(modality: Modality, config: Any = None) -> Any:
    """The config of a modality's teacher, None if it has none.

    Args:
        modality: the raw modality.
        config: one to use instead of what `modality.teacher` names.

    Raises:
        ConfigError: if the name is not known, or a teacher is given to a modality without one.
    """
    if modality.teacher is None:
        if config is not None:
            raise ConfigError(
                f"tokenizer.teacher is set, but the files of modality '{modality.name}' hold its values: only a "
                "modality with `teacher: NAME` has one"
            )
        return None
    if config is not None:
        return config
    if modality.teacher not in TEACHERS:
        raise ConfigError(
            f"modality '{modality.name}': teacher is '{modality.teacher}'.{did_you_mean(modality.teacher, TEACHERS)} "
            "For another network, say which under tokenizer.teacher"
        )
    return TEACHERS[modality.teacher]


def identity(config: Any) -> dict[str, Any]:
    """What tells a teacher's features from those of another, as JSON: not where its weights lie or how it computes."""
    return {key: value for key, value in to_dict(config).items() if key not in ("weights", "bf16")}
