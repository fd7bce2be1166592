"""Configuration of the supervised tasks, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fourm.errors import ConfigError
from fourm.ranges import check_range
from fourm.registry import Registry


@dataclass(frozen=True)
class ClassificationConfig:
    """Name the class of a whole image.

    Args:
        classes: names of the classes; empty: those of the folders, or of the modality that `source` names.
        source: folder of files that each hold a class, as its number or name; None: the class is the folder that an
            image lies in (ImageFolder).
        num_classes: how many there have to be; None: as many as are found.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016).
        mixup: concentration of the shares in which two images are blended (Zhang et al. 2018); 0: never.
        cutmix: concentration of the areas that are pasted from one image into another (Yun et al. 2019); 0: never.
        cutmix_probability: how often it is cutmix, where there are both.
        modality_dropout: probability of hiding each input modality of a sample; one always stays.
    """

    target: ClassVar[str] = "fourm.objectives.tasks:Classification"

    classes: list[str] = field(default_factory=list)
    source: str | None = None
    num_classes: int | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    cutmix_probability: float = 0.5
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "num_classes", least=2)
        check_range(self, "label_smoothing", "modality_dropout", least=0, below=1)
        check_range(self, "mixup", "cutmix", least=0)
        check_range(self, "cutmix_probability", least=0, most=1)
        if self.classes and self.num_classes not in (None, len(self.classes)):
            raise ConfigError(f"num_classes is {self.num_classes}, but classes names {len(self.classes)}")


@dataclass(frozen=True)
class SegmentationConfig:
    """Name the class of every pixel; void pixels are not scored.

    Args:
        modality: the label map.
        label_smoothing: share of the target that is spread over all classes.
        modality_dropout: as for classification.
    """

    target: ClassVar[str] = "fourm.objectives.tasks:Segmentation"

    modality: str
    label_smoothing: float = 0.0
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "label_smoothing", "modality_dropout", least=0, below=1)


@dataclass(frozen=True)
class DepthConfig:
    """Say how far every pixel is, in metres; the network gives its logarithm.

    Args:
        modality: the depth map; pixels outside `min_depth` to `max_depth` are not scored.
        loss: `silog` (Eigen et al. 2014), `log_l1`, or `berhu` on metres (Laina et al. 2016).
        scale_invariance: for `silog`, how much of an error common to the whole image is forgiven: 0 none, 1 all of it.
        min_depth, max_depth: metres.
        modality_dropout: as for classification.
    """

    target: ClassVar[str] = "fourm.objectives.tasks:Depth"

    modality: str
    loss: Literal["silog", "log_l1", "berhu"] = "silog"
    scale_invariance: float = 0.5
    min_depth: float = 1e-3
    max_depth: float = 80.0
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "scale_invariance", least=0, most=1)
        check_range(self, "min_depth", above=0, below=self.max_depth)
        check_range(self, "modality_dropout", least=0, below=1)


@dataclass(frozen=True)
class NormalsConfig:
    """Say which way the surface faces at every pixel.

    Args:
        modality: the map of normals; pixels whose normal is shorter than a half are not scored.
        modality_dropout: as for classification.
    """

    target: ClassVar[str] = "fourm.objectives.tasks:Normals"

    modality: str
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "modality_dropout", least=0, below=1)


@dataclass(frozen=True)
class DetectionConfig:
    """Find the instances of classes, with boxes and masks.

    Args:
        classes: names of the classes, in the order of their labels; other categories of the data are left out. Empty:
            all categories of the first data set.
        num_classes: how many there have to be; None: as many as are found.
    """

    target: ClassVar[str] = "fourm.transfer.detection:DetectionTask"

    classes: list[str] = field(default_factory=list)
    num_classes: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "num_classes", least=1)
        if self.classes and self.num_classes not in (None, len(self.classes)):
            raise ConfigError(f"num_classes is {self.num_classes}, but classes names {len(self.classes)}")


TASKS = Registry(
    "objective",
    {
        "classification": "fourm.objectives.supervised_configs:ClassificationConfig",
        "segmentation": "fourm.objectives.supervised_configs:SegmentationConfig",
        "depth": "fourm.objectives.supervised_configs:DepthConfig",
        "normals": "fourm.objectives.supervised_configs:NormalsConfig",
        "detection": "fourm.objectives.supervised_configs:DetectionConfig",
    },
)
"""A config's `target(config, modality)` is a `fourm.objectives.tasks.Task`; of detection, a `DetectionTask`."""
