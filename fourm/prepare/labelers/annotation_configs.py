"""What a recipe says about annotations of the user's: in one file for many photographs, or boxes beside each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from fourm.errors import ConfigError, did_you_mean
from fourm.layouts import Discrete, Grid
from fourm.modality import Modality
from fourm.prepare.labelers.configs import LabelerConfig, like
from fourm.prepare.labelers.file_configs import VOID, Orientation
from fourm.prepare.labelers.tables import find_table


@dataclass(frozen=True)
class TableConfig(LabelerConfig):
    """What labels that lie in one file for many photographs have in common.

    A photograph is found by its name within the input, such as `cats/tom.jpg`, or by `tom.jpg` alone where that is
    the name of one photograph only.

    Args:
        file: the file: within the input where it is there, otherwise from where the command runs.
        missing: photographs that it does not name are rejected, or have an `empty` label.
    """

    reads_input: ClassVar[bool] = True
    extension: ClassVar[str] = "json"

    file: str
    missing: Literal["reject", "empty"] = "reject"

    @property
    def tables(self) -> Sequence[str]:
        return (self.file,)

    def located(self, folder: str) -> TableConfig:
        return replace(self, file=str(find_table(self.file, folder)))


@dataclass(frozen=True)
class TextTableConfig(TableConfig):
    """Texts of many photographs in a CSV, TSV or JSON lines file.

    Args:
        file_column, text_column: names of its columns. Several rows for a photograph are alternatives, and so is a list
            of texts in JSON.
        max_tokens: of the modality.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.text_table:TextTable"

    file: str = "metadata.csv"
    file_column: str = "file_name"
    text_column: str = "text"
    max_tokens: int = 256

    def modality(self, source: str) -> Modality:
        return like("caption", source, layout={"kind": "sequence", "max_tokens": self.max_tokens})


@dataclass(frozen=True)
class CocoConfig(TableConfig):
    """Annotations of many photographs in one JSON file, as COCO has them (Lin et al. 2014).

    Args:
        make: `boxes`; `semseg`, a label map painted from polygons and masks, small regions over large ones; or
            `captions`.
        classes: names of the categories to take, in the order of their ids in a label map. Empty: all, for boxes.
        rest: for label maps, the class of pixels that no region covers, one of `classes`, or `void`.
        crowd: also take boxes around crowds.
        orientation: what the annotations lie on where EXIF turned the photograph; see `file`.
        max_tokens: of captions and boxes.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.coco_file:CocoFile"

    make: Literal["boxes", "semseg", "captions"] = "boxes"
    classes: tuple[str, ...] = ()
    rest: str = VOID
    crowd: bool = False
    orientation: Orientation = "auto"
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if self.make == "semseg" and not self.classes:
            raise ConfigError("classes is empty; a label map needs names of categories in the order of their ids")
        if self.rest not in (VOID, *self.classes):
            hint = did_you_mean(self.rest, (VOID, *self.classes))
            raise ConfigError(f"rest is '{self.rest}', which is none of the classes.{hint}")

    @property
    def extension(self) -> str:  # type: ignore[override]
        return "png" if self.make == "semseg" else "json"

    def modality(self, source: str) -> Modality:
        if self.make == "semseg":
            return Modality(
                source, Grid(224, 224, 1), Discrete(len(self.classes)), source=source, decode="labels",
                direction="input", classes=self.classes,
            )  # fmt: skip
        name = "det" if self.make == "boxes" else "caption"
        return like(name, source, layout={"kind": "sequence", "max_tokens": self.max_tokens})


@dataclass(frozen=True)
class BoxFileConfig(LabelerConfig):
    """What boxes in a file of their own beside each photograph have in common.

    Args:
        file: where it is, as a template.
        missing: a photograph without such a file is rejected, or has `empty` labels: nothing to see.
        orientation: what the boxes lie on where EXIF turned the photograph; see `file`.
        max_tokens: of the modality.
    """

    extension: ClassVar[str] = "json"
    reads_input: ClassVar[bool] = True

    file: str
    missing: Literal["reject", "empty"] = "reject"
    orientation: Orientation = "auto"
    max_tokens: int = 256

    @property
    def files(self) -> Sequence[str]:
        return (self.file,)

    def modality(self, source: str) -> Modality:
        return like("det", source, layout={"kind": "sequence", "max_tokens": self.max_tokens})


@dataclass(frozen=True)
class VocConfig(BoxFileConfig):
    """Boxes in XML, as Pascal VOC has them (Everingham et al. 2010).

    Args:
        difficult: also take objects that are marked as difficult.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.voc:Voc"

    file: str = "annotations/{stem}.xml"
    difficult: bool = True


@dataclass(frozen=True)
class YoloConfig(BoxFileConfig):
    """Boxes in text: a line `class x y width height` for each, x and y of the centre, in shares of the picture.

    Lines with more numbers are outlines, whose boxes are taken. No file means nothing to see.

    Args:
        classes: names, in the order of their numbers.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.yolo:Yolo"

    file: str = "labels/{stem}.txt"
    missing: Literal["reject", "empty"] = "empty"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.classes:
            raise ConfigError("classes is empty; expected the names of the classes in the order of their numbers")
