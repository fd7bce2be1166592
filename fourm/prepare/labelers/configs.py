"""What a recipe says about labelers. Free of torch and of the libraries that labelers use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fourm.catalog import MODALITIES
from fourm.config import to_dict
from fourm.errors import ConfigError
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality, from_dict
from fourm.ranges import check_range
from fourm.registry import Registry

COMPUTING = ("weights", "precision", "batch_size")
"""Keys of configs that do not change what is computed."""


@dataclass(frozen=True)
class LabelerConfig:
    """What all labelers have in common. A labeler's class takes its config and the device it computes on.

    Attributes:
        target: the class, imported where it is used.
        extension: of its files, without a dot.
        network: it computes with a network, on the device of the recipe.
        reads_input: it needs the user's own files, not only the stored photograph.
        uses_alpha: it needs the transparency of the user's file.
    """

    target: ClassVar[str] = ""
    extension: ClassVar[str] = ""
    network: ClassVar[bool] = False
    reads_input: ClassVar[bool] = False
    uses_alpha: ClassVar[bool] = False

    @property
    def needs(self) -> Sequence[str]:
        """Sources that other labelers have to make before."""
        return ()

    @property
    def wants(self) -> Sequence[str]:
        """Sources that are used where there are labelers for them."""
        return ()

    @property
    def files(self) -> Sequence[str]:
        """The user's files that it reads, as templates: `{path}.txt` is `cats/tom.txt` for `cats/tom.jpg`."""
        return ()

    @property
    def tables(self) -> Sequence[str]:
        """The user's files that say something of many photographs, as the recipe names them."""
        return ()

    def located(self, folder: str) -> LabelerConfig:
        """This config with its tables where they are, for an input folder."""
        return self

    def modality(self, source: str) -> Modality:
        """What its files hold, under the name of the folder they lie in."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """What tells its labels from those of another, as JSON: not where weights lie, or how it computes."""
        return {"class": self.target, **{k: v for k, v in to_dict(self).items() if k not in COMPUTING}}


def like(name: str, source: str, **facts: object) -> Modality:
    """A modality of the catalog under another name and folder."""
    return from_dict(source, {"source": source, **facts}, MODALITIES[name])


@dataclass(frozen=True)
class CannyConfig(LabelerConfig):
    """Edges (Canny 1986), by OpenCV.

    Args:
        low, high: thresholds of the gradient in grey values; edges start above `high` and go on above `low`.
        blur: standard deviation in pixels of the Gaussian before; 0 for none.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.canny:Canny"
    extension: ClassVar[str] = "png"

    low: float = 100.0
    high: float = 200.0
    blur: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "low", "high", "blur", least=0)
        if self.low > self.high:
            raise ConfigError(f"low is {self.low:g} and high is {self.high:g}; expected low <= high")

    def modality(self, source: str) -> Modality:
        return like("canny@224", source)


@dataclass(frozen=True)
class PaletteConfig(LabelerConfig):
    """Colour palettes of one to `max_colors` colours by k-means (4M-21, Bachmann et al. 2024, sec. 3.1)."""

    target: ClassVar[str] = "fourm.prepare.labelers.palette:Palette"
    extension: ClassVar[str] = "json"

    max_colors: int = 7

    def __post_init__(self) -> None:
        check_range(self, "max_colors", least=1, most=7)

    def modality(self, source: str) -> Modality:
        return like("color_palette", source)


@dataclass(frozen=True)
class MetadataConfig(LabelerConfig):
    """The facts of 4M-21's metadata that follow from the pixels, and from other labels where there are any.

    Args:
        caption, det, sam_instance, semseg, normal, depth: sources of these labels.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.metadata:Metadata"
    extension: ClassVar[str] = "json"

    caption: str = "caption"
    det: str = "det"
    sam_instance: str = "sam_instance"
    semseg: str = "semseg"
    normal: str = "normal"
    depth: str = "depth"

    @property
    def wants(self) -> Sequence[str]:
        return (self.caption, self.det, self.sam_instance, self.semseg, self.normal, self.depth)

    def modality(self, source: str) -> Modality:
        return like("metadata", source)


@dataclass(frozen=True)
class CropSettingsConfig(LabelerConfig):
    """Crops that tokens made beforehand follow (4M's `crop_settings`): the centre, then random ones.

    Args:
        num_crops: per photograph.
        min_scale: smallest share of the area in a random crop; 1 repeats the centre crop.
        hflip: probability of mirroring a random crop.
        aspect: width : height.
        seed: the crops of a photograph are a pure function of it and the key.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.crop_settings:CropSettings"
    extension: ClassVar[str] = "npy"

    num_crops: int = 10
    min_scale: float = 0.2
    hflip: float = 0.5
    aspect: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "num_crops", least=1)
        check_range(self, "min_scale", above=0, most=1)
        check_range(self, "hflip", least=0, most=1)
        check_range(self, "aspect", least=0.1, most=10)

    def modality(self, source: str) -> Modality:
        return Modality(
            source, Grid(1, 1), Continuous(5), source=source, decode="crop_settings", direction="input", channels=5
        )


@dataclass(frozen=True)
class AlphaConfig(LabelerConfig):
    """What a photograph that was cut out shows, from its own transparency: 0 background, 1 object.

    Args:
        threshold: opacity in [0, 1] from which on a pixel shows the object.
        opaque: whether a photograph without transparency is all object; otherwise it is rejected.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.alpha:Alpha"
    extension: ClassVar[str] = "png"
    reads_input: ClassVar[bool] = True
    uses_alpha: ClassVar[bool] = True

    threshold: float = 0.5
    opaque: bool = True

    def __post_init__(self) -> None:
        check_range(self, "threshold", above=0, most=1)

    def modality(self, source: str) -> Modality:
        return Modality(
            source, Grid(224, 224, 1), Discrete(2), source=source, decode="labels", direction="input",
            classes=("background", "object"),
        )  # fmt: skip


LABELER_KINDS = Registry(
    "labeler",
    {
        kind: f"fourm.prepare.labelers.configs:{name}"
        for kind, name in {
            "canny": "CannyConfig",
            "color_palette": "PaletteConfig",
            "metadata": "MetadataConfig",
            "crop_settings": "CropSettingsConfig",
            "alpha": "AlphaConfig",
        }.items()
    }
    | {
        kind: f"fourm.prepare.labelers.file_configs:{name}"
        for kind, name in {
            "text_file": "TextFileConfig",
            "file": "FileConfig",
        }.items()
    }
    | {
        kind: f"fourm.prepare.labelers.annotation_configs:{name}"
        for kind, name in {
            "text_table": "TextTableConfig",
            "coco": "CocoConfig",
            "voc": "VocConfig",
            "yolo": "YoloConfig",
        }.items()
    }
    | {
        kind: f"fourm.prepare.labelers.network_configs:{name}"
        for kind, name in {
            "depth": "DepthConfig",
            "normal": "NormalConfig",
            "normal_from_depth": "NormalFromDepthConfig",
            "semseg": "SemsegConfig",
            "det": "DetConfig",
            "torchvision_det": "TorchvisionDetConfig",
            "caption": "CaptionConfig",
        }.items()
    }
    | {
        kind: f"fourm.prepare.labelers.feature_configs:{name}"
        for kind, name in {
            "features": "FeaturesConfig",
            "t5": "T5Config",
            "clip_text": "ClipTextConfig",
            "sam_edge": "SamEdgeConfig",
            "sam_instance": "SamInstanceConfig",
            "human_poses": "PosesConfig",
        }.items()
    },
)
