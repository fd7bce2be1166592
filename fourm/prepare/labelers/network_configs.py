"""What a recipe says about labelers that compute with networks. Free of torch and of the libraries they come from.

Each names a default whose weights are fetched from the Hub when the first photograph needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from fourm.catalog import MODALITIES
from fourm.errors import ConfigError
from fourm.machine import Precision
from fourm.modality import Modality
from fourm.prepare.labelers.coco import model_classes
from fourm.prepare.labelers.configs import LabelerConfig, like
from fourm.ranges import check_range

FARTHEST = 10.0
"""How many times farther than its nearest point the farthest point of a photograph is taken to be, if not known."""
_MOST_CLASSES = 255  # ids of 8 bits, of which 255 is void


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(LabelerConfig):
    """What all labelers with a network have in common.

    Args:
        name: repository on the Hub, or a local folder.
        weights: local folder with the same model as `save_pretrained` writes it, used instead of the Hub.
        pretrained: False draws random weights, for tests.
        precision: what the network computes in; `auto` is bfloat16 where the device does so itself.
        batch_size: most photographs the network sees at once.
    """

    network: ClassVar[bool] = True

    name: str
    weights: Path | None = None
    pretrained: bool = True
    precision: Precision = "auto"
    batch_size: int = 8

    def __post_init__(self) -> None:
        check_range(self, "batch_size", least=1)


@dataclass(frozen=True, kw_only=True)
class DepthConfig(NetworkConfig):
    """Depth, by a network of the transformers library: Depth Anything (Yang et al. 2024), DPT (Ranftl et al. 2021), ...

    Most networks are trained on inverse depth up to scale and shift, which says nothing of metres. What is stored of it
    grows with the distance, as 4M's depth does.

    Args:
        name, weights, pretrained, batch_size: see `NetworkConfig`.
        scale: what is stored: `relative`, the inverse depth turned round, 0 at the nearest point of the photograph
            and 1 at the farthest; or `metric`, metres, for networks that know them.
        value_range: least and largest metres of metric depth. What is nearer or farther is stored as these.
        gives: what the network computes; `auto` asks its config. DPT is taken to give inverse depth, which its
            versions for NYU and KITTI do not: they give `metres`.
        precision: see `NetworkConfig`. Depth in bfloat16 has steps of half a percent.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.depth:Depth"
    extension: ClassVar[str] = "png"

    name: str = "depth-anything/Depth-Anything-V2-Small-hf"
    scale: Literal["relative", "metric"] = "relative"
    value_range: tuple[float, float] = (0.25, 20.0)
    gives: Literal["auto", "inverse", "metres"] = "auto"
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "value_range", above=0)
        if self.value_range[0] >= self.value_range[1]:
            raise ConfigError(f"value_range is {list(self.value_range)}; expected the least and the largest metres")

    def modality(self, source: str) -> Modality:
        if self.scale == "relative":
            return like("depth@224", source)
        return like("depth@224", source, value_range=list(self.value_range), normalization="log")


@dataclass(frozen=True, kw_only=True)
class NormalFromDepthConfig(LabelerConfig):
    """Surface normals that follow from another label's depth and the camera. No network.

    Args:
        depth: that label.
        field_of_view: of the longer side of the original photograph, in degrees; 65 is a phone's main camera.
        focal_length: in pixels of the original photograph, instead of `field_of_view`.
        values: what the depth is: `linear`, in any unit; `relative`, as the label `depth` stores it by default; `auto`:
            relative where its modality is standardised per photograph and has no value range but [0, 1].
        farthest: how many times farther than the nearest point of a photograph its farthest one is taken to be, which
            relative depth does not tell.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.normal_from_depth:NormalFromDepth"
    extension: ClassVar[str] = "png"

    depth: str = "depth"
    field_of_view: float = 65.0
    focal_length: float | None = None
    values: Literal["auto", "linear", "relative"] = "auto"
    farthest: float = FARTHEST

    def __post_init__(self) -> None:
        check_range(self, "field_of_view", above=0, below=180)
        check_range(self, "focal_length", above=0)
        check_range(self, "farthest", above=1)

    @property
    def needs(self) -> Sequence[str]:
        return (self.depth,)

    def modality(self, source: str) -> Modality:
        return like("normal@224", source)


@dataclass(frozen=True, kw_only=True)
class NormalConfig(NetworkConfig):
    """Surface normals, by a diffusion model of the kind of Marigold (Ke et al. 2024), through diffusers.

    Args:
        name, weights, pretrained, precision, batch_size: see `NetworkConfig`.
        num_steps: of denoising; None: as many as the model was made for.
        ensemble_size: predictions per photograph, of which the one closest to their mean is taken.
        resolution: pixels of the longer side that the model sees; None: what it was made for.
        seed: the noise of a photograph is a pure function of it and the key.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.normal:Normal"
    extension: ClassVar[str] = "png"

    name: str = "prs-eth/marigold-normals-v1-1"
    num_steps: int | None = None
    ensemble_size: int = 1
    resolution: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "num_steps", "ensemble_size", "resolution", least=1)
        if not self.pretrained:
            raise ConfigError("pretrained is false, but a diffusion model has no use without weights; set weights")

    def modality(self, source: str) -> Modality:
        return like("normal@224", source)


@dataclass(frozen=True, kw_only=True)
class SemsegConfig(NetworkConfig):
    """Semantic segmentation, by a universal network such as Mask2Former (Cheng et al. 2022) or OneFormer.

    Args:
        name, weights, pretrained, precision, batch_size: see `NetworkConfig`.
        vocabulary: `coco`: COCO's panoptic classes in the order of 4M, matched by name; `model`: the classes of the
            model as its config lists them.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.semseg:Semseg"
    extension: ClassVar[str] = "png"

    name: str = "facebook/mask2former-swin-base-coco-panoptic"
    vocabulary: Literal["coco", "model"] = "coco"

    def classes(self) -> tuple[str, ...]:
        """Names of the ids that are stored.

        Raises:
            CheckpointError: if the model's config cannot be read.
            ConfigError: if it has too many.
        """
        if self.vocabulary == "coco":
            return MODALITIES["semseg_coco@224"].classes
        found = model_classes(self.name, self.weights)
        if len(found) > _MOST_CLASSES:
            raise ConfigError(f"'{self.name}' has {len(found)} classes; label maps hold at most {_MOST_CLASSES}")
        return found

    def modality(self, source: str) -> Modality:
        classes = self.classes()
        content = {"kind": "discrete", "vocab_size": len(classes) + 1}
        return like("semseg_coco@224", source, classes=list(classes), content=content)


@dataclass(frozen=True, kw_only=True)
class DetConfig(NetworkConfig):
    """Boxes, by a network of the transformers library: DETR (Carion et al. 2020), RT-DETR (Zhao et al. 2024), ...

    Args:
        name, weights, pretrained, precision, batch_size: see `NetworkConfig`.
        threshold: least score of a box. Training on `det` uses those of .6 and more (4M).
    """

    target: ClassVar[str] = "fourm.prepare.labelers.det:Det"
    extension: ClassVar[str] = "json"

    name: str = "PekingU/rtdetr_r50vd"
    threshold: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "threshold", least=0, most=1)

    def modality(self, source: str) -> Modality:
        return like("det", source)


@dataclass(frozen=True, kw_only=True)
class TorchvisionDetConfig(DetConfig):
    """Boxes, by a detector of torchvision.

    Args:
        name: as torchvision knows it.
        weights: local file with its weights, `.safetensors` or `.pth`, used instead of torchvision's.
        pretrained, precision, batch_size: see `NetworkConfig`.
        threshold: see `DetConfig`.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.torchvision_det:TorchvisionDet"

    name: str = "fasterrcnn_resnet50_fpn_v2"


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(NetworkConfig):
    """Captions, by a network of the transformers library: BLIP (Li et al. 2022) or BLIP-2 (Li et al. 2023).

    Args:
        name, weights, pretrained, precision, batch_size: see `NetworkConfig`.
        prompt: start of every caption, such as `a photo of`; it stays part of it.
        num_captions: per photograph; where they are alike, it is stored once.
        max_new_tokens: of a caption.
        num_beams: of the beam search, whose best captions are taken; 1 is greedy.
        temperature: above 0, captions are drawn instead; the draws of a photograph are a pure function of `seed` and
            its key.
        top_p: share of the probability that draws are limited to.
        seed: of draws.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.caption:Caption"
    extension: ClassVar[str] = "json"

    name: str = "Salesforce/blip-image-captioning-large"
    prompt: str = ""
    num_captions: int = 1
    max_new_tokens: int = 50
    num_beams: int = 4
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "num_captions", "max_new_tokens", "num_beams", least=1)
        check_range(self, "temperature", least=0)
        check_range(self, "top_p", above=0, most=1)
        if not self.temperature and self.num_captions > self.num_beams:
            raise ConfigError(
                f"num_captions is {self.num_captions}, but the beam search finds num_beams, {self.num_beams}: raise "
                "num_beams, or set a temperature to draw captions"
            )

    def modality(self, source: str) -> Modality:
        return like("caption", source)
