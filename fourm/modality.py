"""What a modality is: a layout times a content, plus a few declared facts, from which all else follows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from fourm.config import build
from fourm.errors import ConfigError, did_you_mean
from fourm.layouts import Continuous, Discrete, Grid, Sequence, Slots

Direction = Literal["both", "input", "output"]
Positions = Literal["sincos", "sincos_xy", "learned"]
Unit = Literal["token", "chunk"]
Normalization = Literal["imagenet", "clip", "half", "standardize", "log", "mask", "none"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
COLOUR_STATISTICS = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
"""Normalization -> mean and deviation of each colour; those of CLIP's training images (Radford et al. 2021)."""
_NAME = re.compile(r"[\w@+-]+")


@dataclass(frozen=True)
class Modality:
    """One modality.

    Args:
        name: unique name; the part before `@` is its key for transforms, the part after it its resolution.
        layout: `Grid`, `Sequence` or `Slots`.
        content: `Discrete` or `Continuous`.
        source: folder that holds its files or shards.
        decode: name of the function in `fourm.data.decode` that reads one file.
        tokenizer: for tokens of an image-like modality, the raw modality its tokenizer encodes; `text` for WordPiece
            sequences.
        direction: whether a model may read it, predict it, or both.
        positions: fixed sine-cosine or learned position embeddings; `sincos_xy` encodes the column of a grid before its
            row, as MAE and AIM do.
        unit: what span masking hides: single tokens, or whole chunks such as `v1=3 v0=10`.
        teacher: name of the frozen network that makes its values of RGB images while they are used; files, `channels`
            and `normalization` are then those of the images, `content.dim` is the length of the network's vectors, and
            the layout its map: places, and pixels per place. None: the files hold the values.
        channels: image channels of a raw modality.
        value_range: smallest and largest value in natural units.
        normalization: how natural units become network inputs.
        classes: names of the classes of a label map or of the boxes.
        aliases: other names under which it is found.
    """

    name: str
    layout: Grid | Sequence | Slots
    content: Discrete | Continuous
    source: str
    decode: str
    tokenizer: str | None = None
    direction: Direction = "both"
    positions: Positions = "sincos"
    unit: Unit = "token"
    teacher: str | None = None
    channels: int | None = None
    value_range: tuple[float, float] | None = None
    normalization: Normalization = "none"
    classes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"a modality is called '{self.name}'; expected letters, digits, _ @ + or -, since names are parts of "
                "keys such as modalities.NAME.layout, of file names and of parameters"
            )
        if self.teacher is not None:
            self._check_teacher()
        elif isinstance(self.layout, Grid) and isinstance(self.content, Continuous) and self.channels is not None:
            expected = self.channels * self.layout.patch_size**2
            if self.content.dim != expected:
                raise ConfigError(
                    f"modality '{self.name}': content.dim is {self.content.dim}, but {self.channels} channels in "
                    f"patches of {self.layout.patch_size} x {self.layout.patch_size} pixels make {expected}"
                )
        if self.direction != "input" and isinstance(self.content, Continuous) and isinstance(self.layout, Sequence):
            raise ConfigError(
                f"modality '{self.name}' is a sequence of vectors, which can only be an input: set direction: input"
            )
        if self.is_slots and (isinstance(self.content, Discrete) or self.channels is None or self.teacher is not None):
            raise ConfigError(
                f"modality '{self.name}': slots hold vectors that the model makes of an image; expected content.kind "
                "continuous, channels, and no teacher"
            )

    def _check_teacher(self) -> None:
        if not isinstance(self.layout, Grid) or isinstance(self.content, Discrete):
            raise ConfigError(
                f"modality '{self.name}': its teacher '{self.teacher}' makes vectors on a grid; expected layout.kind "
                "grid and content.kind continuous"
            )
        if self.channels != 3 or self.decode != "image":
            raise ConfigError(
                f"modality '{self.name}': its teacher '{self.teacher}' reads RGB images; expected decode: image and "
                f"channels: 3, found {self.decode} and {self.channels}"
            )
        if self.content.dim == self.channels:
            raise ConfigError(
                f"modality '{self.name}': vectors of {self.content.dim} numbers could not be told from the images that "
                f"its teacher '{self.teacher}' reads"
            )

    @property
    def key(self) -> str:
        """The name without its resolution, `tok_rgb` for `tok_rgb@224`."""
        return self.name.split("@")[0]

    @property
    def is_grid(self) -> bool:
        return isinstance(self.layout, Grid)

    @property
    def is_slots(self) -> bool:
        """Whether its tokens are vectors that the model itself makes of a whole image."""
        return isinstance(self.layout, Slots)

    @property
    def is_discrete(self) -> bool:
        return isinstance(self.content, Discrete)

    @property
    def is_spatial(self) -> bool:
        """Whether its tokens have places in the image: codes of a single vector have not, though they lie on a grid."""
        return self.is_grid and self.num_tokens > 1 and (self.positions != "learned" or not self.is_discrete)

    @property
    def grid(self) -> Grid:
        """The layout of a grid modality.

        Raises:
            ConfigError: if the modality is a sequence.
        """
        if not isinstance(self.layout, Grid):
            kind = "has slots" if self.is_slots else "is a sequence"
            raise ConfigError(f"modality '{self.name}' {kind} where a grid is needed")
        return self.layout

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels of the image it is, or is made of.

        Raises:
            ConfigError: if the modality is a sequence.
        """
        return self.layout.image_size if isinstance(self.layout, Slots) else self.grid.image_size

    @property
    def map_channels(self) -> int | None:
        """Channels of what a tokenizer reads: vectors of the teacher, or of the image."""
        if self.teacher is not None and isinstance(self.content, Continuous):
            return self.content.dim
        return self.channels

    def map_size(self, image_size: tuple[int, int] | None = None) -> tuple[int, int]:
        """(height, width) of what a tokenizer reads: places of the teacher's map, or pixels.

        Args:
            image_size: of the image; None: the modality's own. A single vector per image stays single.
        """
        height, width = image_size or self.image_size
        if self.teacher is None:
            return height, width
        return (1, 1) if self.num_tokens == 1 else (height // self.grid.patch_size, width // self.grid.patch_size)

    @property
    def vocab_size(self) -> int:
        """Number of token ids of a discrete modality.

        Raises:
            ConfigError: if the modality is continuous.
        """
        if not isinstance(self.content, Discrete):
            raise ConfigError(f"modality '{self.name}' is continuous where a discrete one is needed")
        return self.content.vocab_size

    @property
    def num_tokens(self) -> int:
        """Most tokens one sample of it can have."""
        return self.layout.num_tokens

    @property
    def is_input(self) -> bool:
        return self.direction in ("both", "input")

    @property
    def is_predicted(self) -> bool:
        """Whether its direction lets a model predict it; vectors are only by models with a head for them."""
        return self.direction in ("both", "output")

    @property
    def is_output(self) -> bool:
        return self.is_predicted and self.is_discrete


class ModalitySet(Mapping[str, Modality]):
    """An ordered set of modalities; their order numbers them in token tables.

    Raises:
        ConfigError: if two modalities share a name.
    """

    def __init__(self, modalities: Iterable[Modality]) -> None:
        self._modalities: dict[str, Modality] = {}
        for modality in modalities:
            if modality.name in self._modalities:
                raise ConfigError(f"modality '{modality.name}' is listed twice")
            self._modalities[modality.name] = modality
        self._index = {name: i for i, name in enumerate(self._modalities)}

    def __getitem__(self, name: str) -> Modality:
        try:
            return self._modalities[name]
        except KeyError:
            raise ConfigError(
                f"modality '{name}' is not part of this set.{did_you_mean(name, self._modalities)}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._modalities

    def __iter__(self) -> Iterator[str]:
        return iter(self._modalities)

    def __len__(self) -> int:
        return len(self._modalities)

    def __repr__(self) -> str:
        return f"ModalitySet({', '.join(self)})"

    def index(self, name: str) -> int:
        """The number of `name` in token tables."""
        self[name]
        return self._index[name]

    @property
    def inputs(self) -> tuple[Modality, ...]:
        return tuple(m for m in self.values() if m.is_input)

    @property
    def outputs(self) -> tuple[Modality, ...]:
        return tuple(m for m in self.values() if m.is_output)

    def subset(self, names: Iterable[str]) -> ModalitySet:
        """The modalities called `names`, in that order."""
        return ModalitySet(self[name] for name in names)


def from_dict(name: str, facts: Mapping[str, object], base: Modality | None = None) -> Modality:
    """A modality from plain values, as written in YAML or `config.json`.

    Args:
        name: its name.
        facts: the fields of `Modality`; `layout` is a mapping with `kind: grid | sequence | slots`, `content` with
            `kind: discrete | continuous`.
        base: a modality whose fields are the defaults.

    Raises:
        ConfigError: for unknown or missing fields.
    """
    where = f"modality '{name}'"
    if not isinstance(facts, Mapping):
        raise ConfigError(f"{where} is {facts!r}; expected its facts as keys and values, or {{}} for the catalog's")
    values = to_dict(base) if base is not None else {}
    for key, value in facts.items():
        nested = values.get(key)
        if (
            isinstance(value, Mapping)
            and isinstance(nested, dict)
            and value.get("kind", nested["kind"]) == nested["kind"]
        ):
            nested.update(value)
        else:
            values[key] = dict(value) if isinstance(value, Mapping) else value
    values.pop("name", None)
    values["layout"] = _variant(
        where, "layout", values.get("layout"), {"grid": Grid, "sequence": Sequence, "slots": Slots}
    )
    contents = {"discrete": Discrete, "continuous": Continuous}
    values["content"] = _variant(where, "content", values.get("content"), contents)
    values.setdefault("source", name.split("@")[0])
    return build(Modality, {"name": name, **values}, where=where)


def to_dict(modality: Modality) -> dict[str, Any]:
    """The plain values `from_dict` reads; fields at their defaults are left out."""
    facts: dict[str, Any] = {}
    for field in fields(Modality):
        value = getattr(modality, field.name)
        if field.name in ("layout", "content"):
            facts[field.name] = {"kind": type(value).__name__.lower(), **asdict(value)}
        elif field.name != "name" and value != field.default:
            facts[field.name] = list(value) if isinstance(value, tuple) else value
    return facts


def _variant(where: str, slot: str, facts: Any, kinds: Mapping[str, type]) -> Any:
    if not isinstance(facts, Mapping) or "kind" not in facts:
        raise ConfigError(f"{where}: '{slot}' is missing; write {slot}: {{kind: {' | '.join(kinds)}, ...}}")
    kind = str(facts["kind"])
    if kind not in kinds:
        raise ConfigError(f"{where}: {slot}.kind is '{kind}'.{did_you_mean(kind, kinds)}")
    return build(kinds[kind], {key: value for key, value in facts.items() if key != "kind"}, where=where, key=slot)
