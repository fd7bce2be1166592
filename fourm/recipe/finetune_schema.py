"""What a fine-tuning recipe holds, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fourm import catalog
from fourm.config import slot
from fourm.data.configs import DataConfig
from fourm.errors import ConfigError
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MODELS
from fourm.nn.configs import LoRAConfig
from fourm.objectives.supervised_configs import TASKS, ClassificationConfig, DetectionConfig
from fourm.ranges import check_range
from fourm.train.configs import TrainConfig
from fourm.transfer.configs import BackboneConfig
from fourm.transfer.detector_config import MaskRCNNConfig
from fourm.transfer.head_configs import HEADS

LABEL = "label"
"""Name of the modality that holds the class of a whole sample."""
INSTANCES = "instances"
"""Name of the modality that holds the instances of an image."""


@dataclass(frozen=True)
class TaskEvaluation:
    """How a fine-tuned network is measured.

    Args:
        max_samples: samples of each validation set; None: all.
        batch_size: samples per rank and batch; 1 where images differ in shape (`crop.kind: fit`).
        hidden: inputs that are not shown, to measure a network of several modalities without some of them.
        window: for answers of every pixel, pixels per side of windows that slide over larger images; None: at once.
        stride: pixels from one window to the next; None: two thirds of the window.
    """

    max_samples: int | None = None
    batch_size: int = 32
    hidden: list[str] = field(default_factory=list)
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "max_samples", "batch_size", "window", "stride", least=1)
        if self.stride is not None and self.stride > (self.window or 0):
            raise ConfigError(
                f"stride is {self.stride}, more than the window of {self.window or 0}; it would leave gaps"
            )


@dataclass
class FinetuneRecipe:
    """Train an encoder and a head for one task.

    Args:
        name: of the run.
        data: what to train and evaluate on.
        objective: the task, `kind: classification | segmentation | depth | normals | detection`.
        head: what turns features into answers, `kind: linear | attentive | convnext | upernet`, or for
            detection `mask_rcnn | cascade_mask_rcnn`.
        backbone: what of the encoder is used, and how.
        modalities: entries, as in a pretraining recipe, for targets and new inputs that the catalog does not have.
        init_from: where the encoder comes from, as in `fourm.load_model`.
        model: sizes of the network, `kind: multimodal`; needed where there is no checkpoint.
        weights_from: output of an earlier fine-tuning, with the same backbone, whose weights are the start; its head's
            too where it has the same shape.
        pretrained: false leaves the weights at random, for the same network from scratch.
        predict: token modalities among the backbone's that the checkpoint's own decoder predicts from the other inputs
            first, in place of data.
        lora: train low-rank changes of the encoder instead of its weights.
        frozen: leave the encoder as it is. With either, a pyramid and the embedders of `new` modalities are trained.
        layer_decay: factor of the learning rate for each layer further down (Bao et al. 2022, BEiT).
        train: optimizer, schedule, length, checkpoints.
        evaluation: how it is measured.
        seed: of new weights, data order and augmentation.
        output: folder of the run.
    """

    name: str
    data: DataConfig
    objective: Any = slot(TASKS)
    head: Any = slot(HEADS)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    modalities: Any = field(default_factory=dict)
    init_from: str | None = None
    model: Any = slot(MODELS, optional=True)
    weights_from: Path | None = None
    pretrained: bool = True
    predict: list[str] = field(default_factory=list)
    lora: LoRAConfig | None = None
    frozen: bool = False
    layer_decay: float = 1.0
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: TaskEvaluation = field(default_factory=TaskEvaluation)
    seed: int = 0
    output: Path = Path("outputs/finetune")

    def __post_init__(self) -> None:
        check_range(self, "layer_decay", above=0, most=1)
        if self.init_from is None and (self.model is None or self.predict):
            raise ConfigError(
                "init_from is missing: name the folder of a trained model, a published checkpoint, or, for a network "
                "from scratch, its sizes under model"
            )
        if self.frozen and (self.lora is not None or not self.pretrained):
            raise ConfigError("frozen trains the head alone: leave out lora, and take a pretrained encoder")
        unknown = [name for name in self.predict if name not in self.backbone.modalities]
        if unknown:
            raise ConfigError(f"predict names '{unknown[0]}', which is not among backbone.modalities")
        hides: Any = getattr(self.objective, "modality_dropout", 0.0)
        if self.predict and (self.evaluation.hidden or hides):
            raise ConfigError(
                "predict makes inputs of all others, so that what is hidden would still be seen in them: leave out "
                "objective.modality_dropout and evaluation.hidden"
            )
        if self.data.resolutions:
            raise ConfigError("data.resolutions is for `fourm train-tokenizer`; set backbone.image_size")
        self._check_dense()
        self._check_detection()
        self.train.check()

    def _check_dense(self) -> None:
        if not self.is_dense and self.evaluation.window is not None:
            raise ConfigError("evaluation.window is for answers of every pixel, not for classification")
        for split in (self.data.train, self.data.val):
            for name, dataset in split.datasets.items():
                if self.is_dense and (dataset.rand_augment or dataset.erase):
                    raise ConfigError(
                        f"data set '{name}': rand_augment and erase change photographs alone, so that answers for "
                        "every pixel would not fit them any more; use hflip, jitter and crop"
                    )

    def _check_detection(self) -> None:
        if self.is_detection != isinstance(self.head, MaskRCNNConfig):
            raise ConfigError(
                "objective.kind detection and the heads mask_rcnn and cascade_mask_rcnn belong together; take both or "
                "neither"
            )
        for split in (self.data.train, self.data.val):
            for name, dataset in split.datasets.items():
                if self.is_detection != (dataset.annotations is not None):
                    raise ConfigError(
                        f"data set '{name}': detection needs the file of `annotations` in COCO's form"
                        if self.is_detection
                        else f"data set '{name}': annotations are for objective.kind detection; leave them out"
                    )
        if self.is_detection and (self.predict or self.evaluation.hidden):
            raise ConfigError("detection reads photographs alone: leave out predict and evaluation.hidden")

    @property
    def is_detection(self) -> bool:
        """Whether instances are to be found."""
        return isinstance(self.objective, DetectionConfig)

    @property
    def is_dense(self) -> bool:
        """Whether every pixel has an answer."""
        return not isinstance(self.objective, ClassificationConfig | DetectionConfig)

    def entry(self, name: str) -> Modality:
        """A modality of the recipe's own, or of the catalog."""
        own = catalog.resolve(self.modalities) if self.modalities else ModalitySet(())
        return own[name] if name in own else catalog.get(name)

    def new_modalities(self) -> ModalitySet:
        """Inputs that the checkpoint need not know."""
        return ModalitySet(self.entry(name) for name in self.backbone.new)

    def answer(self, classes: tuple[str, ...] = ()) -> Modality:
        """What the network's answers are compared with, in natural units.

        Args:
            classes: names of the classes of whole samples.
        """
        task = self.objective
        if isinstance(task, ClassificationConfig | DetectionConfig):
            number = len(classes) or task.num_classes or 0
            if not number:
                raise ConfigError("objective.classes is empty; name the classes, or say how many with num_classes")
            if isinstance(task, DetectionConfig):
                return Modality(
                    INSTANCES, Sequence(1), Discrete(number), INSTANCES, "boxes", direction="input", classes=classes
                )
            decode = "class_folder" if task.source is None else "label"
            return Modality(
                LABEL, Sequence(1), Discrete(number), task.source or LABEL, decode, direction="input", classes=classes
            )
        return resized(self.entry(task.modality), self.backbone.image_size, target=True)


def resized(modality: Modality, size: int | None, *, target: bool = False) -> Modality:
    """A modality as data hands it over for images of `size` pixels per shorter side.

    Args:
        modality: as it is declared.
        size: None: its own.
        target: pixel by pixel and in natural units, to be compared with.
    """
    if not modality.is_grid or modality.decode in ("tokens", "features") or modality.teacher is not None:
        return modality
    grid = modality.grid
    height, width = grid.image_size if size is None else grid.image_size_at(size)
    patch = 1 if target else grid.patch_size
    if height % patch or width % patch:
        raise ConfigError(
            f"backbone.image_size: '{modality.name}' would be {height} x {width} pixels, which does not divide by its "
            f"patches of {patch}"
        )
    layout = Grid(height // patch, width // patch, patch)
    if modality.is_discrete:
        return replace(modality, layout=layout)
    content = Continuous((modality.channels or 1) * patch**2)
    normalization = "none" if target else modality.normalization
    return replace(modality, layout=layout, content=content, normalization=normalization)


def class_folders(recipe: FinetuneRecipe, folders: Mapping[str, list[str]]) -> tuple[str, ...]:
    """The classes of a data set whose folders are classes.

    Args:
        recipe: asks for them.
        folders: name of each data set -> folders found in it.

    Raises:
        ConfigError: if they are not those that the recipe names, or as many.
    """
    task = recipe.objective
    first, found = next(iter(folders.items()))
    classes = list(task.classes) or found
    if task.num_classes not in (None, len(classes)):
        raise ConfigError(
            f"data set '{first}' has {len(classes)} folders of classes ({', '.join(classes[:5])} ...), but "
            f"objective.num_classes is {task.num_classes}; correct one of them"
        )
    for name, there in folders.items():
        strange = sorted(set(there) - set(classes))
        if strange:
            raise ConfigError(
                f"data set '{name}' has a folder '{strange[0]}', which is none of the {len(classes)} classes "
                f"({', '.join(classes[:5])} ...); remove it, or list it under objective.classes"
            )
    return tuple(classes)
