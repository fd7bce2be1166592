"""What a recipe says about labelers that compute features, instances and people with networks. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from fourm import catalog
from fourm.config import slot
from fourm.data.shards import CROPS
from fourm.errors import ConfigError, did_you_mean
from fourm.layouts import Continuous, Grid
from fourm.machine import Precision
from fourm.modality import Modality, Normalization
from fourm.prepare.labelers.configs import LabelerConfig, like
from fourm.prepare.labelers.network_configs import NetworkConfig
from fourm.ranges import check_range
from fourm.tokenizers import saved
from fourm.tokenizers.base import tokenizer_folder
from fourm.tokenizers.teacher_configs import TEACHER_KINDS, identity, teacher_of


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(LabelerConfig):
    """What another network makes of each stored crop: CLIP, SigLIP, DINOv2, ImageBind (4M, 4M-21).

    Args:
        base: modality of the catalog with such features, as `clip@224`; what follows changes it.
        teacher: the network, as tokenizers name it; None: that of `base`.
        dim: length of a vector; None: that of `base`.
        size: pixels of the square that the network sees.
        patch_size: pixels of a place; of a single vector per image `size`.
        normalization: of the pixels, for instance `half` for SigLIP.
        weights: local file or folder with the weights of the teacher; None: from the Hub.
        precision: see `NetworkConfig`; fp32 is what tokenizers compute the same features in.
        batch_size: crops the network sees at once.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.features:Features"
    extension: ClassVar[str] = "npy"
    network: ClassVar[bool] = True

    base: str = "clip@224"
    teacher: Any = slot(TEACHER_KINDS, optional=True)
    dim: int | None = None
    size: int | None = None
    patch_size: int | None = None
    normalization: Normalization | None = None
    weights: Path | None = None
    precision: Precision = "fp32"
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_range(self, "dim", "size", "patch_size", "batch_size", least=1)
        self.images()

    @property
    def wants(self) -> Sequence[str]:
        return (CROPS,)

    def images(self) -> Modality:
        """What the network reads and makes, as a modality with a teacher.

        Raises:
            ConfigError: if there is no such modality, or it has no teacher.
        """
        base = catalog.get(self.base)
        if base.teacher is None:
            known = {name: m for name, m in catalog.MODALITIES.items() if m.teacher is not None}
            raise ConfigError(f"base is '{self.base}', which is no feature of a network.{did_you_mean('', known)}")
        single = base.num_tokens == 1
        size = self.size or base.grid.image_size[0]
        patch = self.patch_size or (size if single else base.grid.patch_size)
        if size % patch:
            raise ConfigError(f"size is {size}, which does not divide by the {patch} pixels of patch_size")
        return replace(
            base,
            layout=Grid(size // patch, size // patch, patch),
            content=Continuous(self.dim or base.map_channels or 1),
            normalization=self.normalization or base.normalization,
        )

    def network_config(self) -> Any:
        """The config of the teacher."""
        chosen = teacher_of(self.images(), self.teacher)
        return replace(chosen, weights=self.weights or chosen.weights)

    def modality(self, source: str) -> Modality:
        images = self.images()
        dim = images.map_channels
        assert dim is not None
        return Modality(
            source, Grid(*images.map_size()), Continuous(dim), source=source, decode="features", direction="input",
            channels=dim,
        )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "teacher": identity(self.network_config())}


@dataclass(frozen=True, kw_only=True)
class T5Config(NetworkConfig):
    """T5 embeddings of captions (4M-21: T5-XXL). Of a list of alternatives the first counts.

    Args:
        name, weights, pretrained, precision: see `NetworkConfig`.
        batch_size: captions the network sees at once.
        dim: length of a vector: 4096 for XXL, 2048 for XL, 1024 for large, 768 for base, 512 for small.
        max_tokens: longer captions are cut.
        caption: source of the captions.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.t5:T5"
    extension: ClassVar[str] = "npz"

    name: str = "google/t5-v1_1-xxl"
    dim: int = 4096
    max_tokens: int = 77
    caption: str = "caption"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "dim", least=1)
        check_range(self, "max_tokens", least=2, most=512)

    @property
    def needs(self) -> Sequence[str]:
        return (self.caption,)

    def modality(self, source: str) -> Modality:
        return like("t5_caption", source, layout={"max_tokens": self.max_tokens}, content={"dim": self.dim})


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig(T5Config):
    """Embeddings of captions by the text encoder of CLIP, always `max_tokens` of them: a condition of visual decoders.

    Args:
        name, weights, pretrained, precision, batch_size, dim, max_tokens, caption: see `T5Config`.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.t5:ClipText"

    name: str = "openai/clip-vit-large-patch14"
    dim: int = 768


@dataclass(frozen=True, kw_only=True)
class SamConfig(NetworkConfig):
    """Masks of everything in a photograph by Segment Anything, asked at a grid of points.

    `name` may be SAM (Kirillov et al. 2023) or SAM 2 (Ravi et al. 2024).

    Args:
        name, weights, pretrained, precision: see `NetworkConfig`.
        batch_size: points asked at a time; photographs go one by one.
        points_per_side: of the grid.
        min_iou: masks with a lower quality, as the network estimates it, are dropped.
        min_stability: masks that change more when the threshold moves are dropped.
        max_overlap: of two boxes with a larger intersection over union only the better one stays.
    """

    name: str = "facebook/sam-vit-huge"
    batch_size: int = 64
    points_per_side: int = 32
    min_iou: float = 0.88
    min_stability: float = 0.95
    max_overlap: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "points_per_side", least=1)
        check_range(self, "min_iou", "min_stability", "max_overlap", least=0, most=1)


@dataclass(frozen=True, kw_only=True)
class SamEdgeConfig(SamConfig):
    """Edges of Segment Anything's masks (4M-21, Bachmann et al. 2024); see `SamConfig`."""

    target: ClassVar[str] = "fourm.prepare.labelers.sam_edge:SamEdge"
    extension: ClassVar[str] = "png"

    def modality(self, source: str) -> Modality:
        return like("canny@224", source)


@dataclass(frozen=True, kw_only=True)
class SamInstanceConfig(SamConfig):
    """Instances of Segment Anything in every stored crop (4M-21, Bachmann et al. 2024); see `SamConfig`.

    Args:
        mask_tokenizer: folder of a tokenizer of `sam_mask`, whose 16 codes stand for a mask.
        min_area: pixels of the crop of 224 x 224 below which an instance is dropped.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.sam_instance:SamInstance"
    extension: ClassVar[str] = "npz"

    mask_tokenizer: Path
    min_area: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "min_area", least=1)

    @property
    def wants(self) -> Sequence[str]:
        return (CROPS,)

    def modality(self, source: str) -> Modality:
        return like("sam_instance", source)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "mask_tokenizer": _hash(self.mask_tokenizer)}


@dataclass(frozen=True, kw_only=True)
class PosesConfig(NetworkConfig):
    """People with COCO's 17 key points by ViTPose (Xu et al. 2022), and with what a body model of the user's adds.

    Args:
        name, weights, pretrained, precision: see `NetworkConfig`.
        batch_size: people the network sees at once.
        det: source of the boxes.
        min_score: boxes of people below this score are passed over.
        smpl: `package.module:name` in the user's own Python environment that estimates SMPL bodies (Loper et al. 2015);
            see `fourm.prepare.labelers.bodies.Bodies`.
        pose_tokenizer: folder of a tokenizer of `smpl_pose`, whose 8 codes stand for the pose of a body.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.human_poses:HumanPoses"
    extension: ClassVar[str] = "json"

    name: str = "usyd-community/vitpose-base-simple"
    batch_size: int = 64
    det: str = "det"
    min_score: float = 0.6
    smpl: str | None = None
    pose_tokenizer: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "min_score", least=0, most=1)
        if self.smpl is not None and not all(self.smpl.partition(":")):
            raise ConfigError(f"smpl is '{self.smpl}'; expected package.module:name")
        if self.pose_tokenizer is not None and self.smpl is None:
            raise ConfigError("pose_tokenizer is set, but without smpl there are no poses for it to encode; set smpl")

    @property
    def needs(self) -> Sequence[str]:
        return (self.det,)

    def modality(self, source: str) -> Modality:
        return like("human_poses", source)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "pose_tokenizer": self.pose_tokenizer and _hash(self.pose_tokenizer)}


def _hash(folder: Path) -> str:
    return saved.saved_hash(tokenizer_folder(folder))
