"""What a recipe says about texts, pictures and arrays of the user's that lie beside each photograph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from fourm.catalog import resolve
from fourm.errors import ConfigError, did_you_mean
from fourm.modality import Modality, from_dict
from fourm.prepare.labelers.configs import LabelerConfig, like
from fourm.ranges import check_range

PICTURES = ("image", "gray", "normal", "depth16", "labels", "labels_void_first")
"""Decoders of what has the photograph's shape."""
LABEL_MAPS = ("labels", "labels_void_first")
LOSSY = ("jpg", "jpeg")
VOID = "void"
Orientation = Literal["auto", "upright", "file"]


@dataclass(frozen=True)
class TextFileConfig(LabelerConfig):
    """Text of the user's beside each photograph.

    Args:
        file: where it is, within the input: `{path}.txt` is `cats/tom.txt` for `cats/tom.jpg`, and so is
            `{folder}/{stem}.txt`.
        lines: `all`: one text; `first`: only its first line; `alternatives`: every line is a text of its own, one of
            which is drawn in training.
        missing: a photograph without such a file is rejected, or has an `empty` text.
        max_tokens: of the modality.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.text_file:TextFile"
    extension: ClassVar[str] = "json"
    reads_input: ClassVar[bool] = True

    file: str = "{path}.txt"
    lines: Literal["all", "first", "alternatives"] = "all"
    missing: Literal["reject", "empty"] = "reject"
    max_tokens: int = 256

    @property
    def files(self) -> Sequence[str]:
        return (self.file,)

    def modality(self, source: str) -> Modality:
        return like("caption", source, layout={"kind": "sequence", "max_tokens": self.max_tokens})


@dataclass(frozen=True)
class FileConfig(LabelerConfig):
    """Files of the user's beside each photograph, in any form that a modality can have.

    Args:
        file: where they are, as a template; the ending says nothing of the form, but `.npy` and 16-bit tif become png.
        holds: `modality` in a recipe: a name of the catalog, or facts as under `modalities:` of other recipes.
        ids: for label maps, id in the file -> class, by name or id, or `void`; others stay.
        colors: for label maps painted in colours, `"255,0,0"` -> class, by name or id, or `void`; others are errors.
        scale, offset: for numbers of 16 bits, natural units are value * scale + offset. None: a png holds the largest
            value of the modality as 65535, and an array is in natural units.
        clip: put what lies outside the value range at its ends; otherwise it rejects the photograph.
        resize: make pictures that are larger than the stored photograph as large as that.
        orientation: what the label lies on where EXIF turned the photograph: the `upright` picture, or that in the
            `file`; `auto` goes by the shape, and takes it as upright where that does not tell.
    """

    target: ClassVar[str] = "fourm.prepare.labelers.file:File"
    reads_input: ClassVar[bool] = True

    file: str
    holds: Any
    ids: dict[int, int | str] = field(default_factory=dict)
    colors: dict[str, int | str] = field(default_factory=dict)
    scale: float | None = None
    offset: float = 0.0
    clip: bool = False
    resize: bool = True
    orientation: Orientation = "auto"

    @classmethod
    def expand(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """`modality` is a method of every labeler's config, so the field has another name."""
        if "modality" not in values and "holds" not in values:
            raise ConfigError("modality is missing: a name of the catalog, or its facts as under modalities:")
        return {"holds" if key == "modality" else key: value for key, value in values.items()}

    def __post_init__(self) -> None:
        from fourm.data.decode import decoder_of

        modality = self.modality("label")
        decoder_of(modality)
        self._check_options(modality)
        if self._ending in LOSSY and modality.decode in (*LABEL_MAPS, "depth16"):
            raise ConfigError(
                f"file is '{self.file}', but a JPEG changes values at edges, so that ids and measurements are lost: "
                "store them as png (lossless)"
            )
        check_range(self, "scale", above=0)
        for color in self.colors:
            parse_color(color)
        for key, value in [*self.ids.items(), *self.colors.items()]:
            class_id(value, modality, f"{key}")

    def _check_options(self, modality: Modality) -> None:
        allowed = {
            LABEL_MAPS: ("ids", "colors"),
            ("depth16",): ("scale", "offset", "clip"),
            PICTURES: ("resize", "orientation"),
        }
        for decoders, names in allowed.items():
            changed = [name for name in names if getattr(self, name) != _default(name)]
            if changed and modality.decode not in decoders:
                raise ConfigError(f"{changed[0]} is for decode {' or '.join(decoders)}, not '{modality.decode}'")
        if self.ids and self.colors:
            raise ConfigError("ids and colors are two ways to say the same; leave one of them out")
        if modality.decode == "depth16" and not (
            modality.value_range and 0 <= modality.value_range[0] < modality.value_range[1]
        ):
            raise ConfigError(
                f"value_range is {modality.value_range}; decode depth16 holds numbers from 0 up to a largest one, for "
                "instance [0, 120], and offset: shifts others there"
            )

    @property
    def _ending(self) -> str:
        return self.file.removesuffix(".gz").rpartition("}")[2].rpartition(".")[2].lower()

    @property
    def extension(self) -> str:  # type: ignore[override]
        """Of the stored files: pictures are png, or jpg where that is what they are."""
        decode = self.modality("label").decode
        if decode in PICTURES:
            return "jpg" if self._ending in LOSSY else "png"
        return self._ending or "bin"

    @property
    def files(self) -> Sequence[str]:
        return (self.file,)

    def modality(self, source: str) -> Modality:
        if isinstance(self.holds, str):
            return like_named(self.holds, source)
        if not isinstance(self.holds, Mapping) or self.holds.get("source", source) != source:
            raise ConfigError(
                f"modality is {self.holds!r}; expected a name of the catalog, or facts without `source`, which is the "
                "name of the label"
            )
        return resolve({source: {**self.holds, "source": source}})[source]


def _default(name: str) -> Any:
    value = FileConfig.__dataclass_fields__[name]
    return value.default_factory() if callable(value.default_factory) else value.default


def like_named(name: str, source: str) -> Modality:
    """A modality of the catalog, whose files lie in the label's folder.

    Raises:
        ConfigError: if there is none of that name.
    """
    from fourm.catalog import get

    return from_dict(source, {"source": source}, get(name))


def parse_color(text: str) -> tuple[int, int, int]:
    """`255,0,0` or `#ff0000` -> red, green, blue.

    Raises:
        ConfigError: for anything else.
    """
    try:
        if text.startswith("#") and len(text) == 7:
            parts = [int(text[i : i + 2], 16) for i in (1, 3, 5)]
        else:
            parts = [int(part) for part in text.split(",")]
    except ValueError:
        parts = []
    if len(parts) != 3 or not all(0 <= part <= 255 for part in parts):
        raise ConfigError(f'colors has \'{text}\'; expected "255,0,0" or "#ff0000"')
    return parts[0], parts[1], parts[2]


def class_id(value: int | str, modality: Modality, where: str) -> int:
    """The id in a file that stands for a class.

    Args:
        value: name of the class, its id, or `void`.
        modality: names the classes.
        where: what it was given for.

    Raises:
        ConfigError: if there is no such class.
    """
    void = 255
    if value in (VOID, void):
        return void
    names = modality.classes
    number = names.index(value) if isinstance(value, str) and value in names else value
    # The published form keeps one id for void, which no file holds.
    count = modality.vocab_size - (modality.decode == "labels_void_first")
    if isinstance(number, str) or not 0 <= number < count:
        raise ConfigError(
            f"{where} is '{value}', which is no class of the modality: expected 0 to {count - 1}, or "
            f"a name, or {VOID}.{did_you_mean(str(value), [*names, VOID])}"
        )
    return number
