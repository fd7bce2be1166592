"""What the page asks for and offers: one field per modality the model reads, one name per modality it generates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fourm.data import transforms
from fourm.errors import ConfigError
from fourm.generate.bundle import Bundle, raw_modality
from fourm.generate.names import means_tokens, resolve, short_name
from fourm.modality import Modality
from fourm.report.legend import class_names
from fourm.tokenizers.structured import KINDS

_MOST_COLORS = 32
"""Classes that a palette of pencils can hold."""
_EXAMPLES = {
    "boxes": '{"instances": [{"boxes": [0.1, 0.4, 0.6, 0.9], "class_name": "sofa", "score": 1}]}',
    "palette": "[[184, 146, 104], [104, 184, 236]]",
    "metadata": '{"brightness": 0.6}',
}


@dataclass(frozen=True)
class Field:
    """One modality as the page asks for it.

    Args:
        name: by which `fourm generate --given` knows it.
        raw: what its files hold.
        is_text: written, not uploaded.
    """

    name: str
    raw: Modality
    is_text: bool

    @property
    def is_image(self) -> bool:
        return not self.is_text and transforms.is_image(self.raw)

    @property
    def is_partial(self) -> bool:
        """Whether part of it can be given: of images by a mask, of texts and boxes by saying that there is more."""
        return self.is_image or (self.is_text and self.raw.decode in ("text", "boxes"))

    @property
    def is_photograph(self) -> bool:
        return self.is_image and self.raw.decode == "image"

    @property
    def is_label_map(self) -> bool:
        return self.is_image and self.raw.is_discrete

    @property
    def is_drawn(self) -> bool:
        """Whether a person can draw it: colours, lines, and maps of few classes; nobody draws metres."""
        if self.is_label_map:
            return len(class_names(self.raw)) <= _MOST_COLORS
        return self.is_image and self.raw.decode in ("image", "gray")

    @property
    def hint(self) -> str:
        """What to give."""
        if self.is_text:
            example = _EXAMPLES.get(self.raw.decode)
            return f"JSON, for instance {example}" if example else "JSON" if self.raw.decode in KINDS else ""
        if not self.is_image:
            return "a .npz file" if self.raw.decode == "vectors" else "a .npy file"
        kinds = {
            "depth16": f"16-bit PNG, full scale = {(self.raw.value_range or (0, 1))[1]:g}",
            "labels": "PNG of class ids, 255 void",
            "labels_void_first": "PNG of class ids, 255 void",
            "normal": "RGB PNG of unit vectors",
        }
        return kinds.get(self.raw.decode, "an image; its centre is cropped and resized")


def input_fields(bundle: Bundle) -> list[Field]:
    """What can be given: pictures first, then texts, then what only files hold."""
    modalities = bundle.model.modalities.inputs
    fields = []
    for modality in modalities:
        is_text = not modality.is_grid and modality.is_discrete
        has_network = modality.tokenizer is not None and modality.name in bundle.tokenizers
        name = _name(modality, modalities, as_tokens=modality.is_grid and not has_network)
        means_ids = modality.is_grid and modality.tokenizer is not None and means_tokens(name, modality)
        fields.append(Field(name, modality if means_ids else raw_modality(bundle, modality), is_text))
    return sorted(fields, key=lambda field: (not field.is_image, not field.is_text))


def target_names(bundle: Bundle) -> list[str]:
    """What can be generated, by the names `fourm generate --to` takes."""
    outputs = bundle.model.modalities.outputs
    return [_name(modality, outputs, as_tokens=None) for modality in outputs]


def _name(modality: Modality, among: Iterable[Modality], *, as_tokens: bool | None) -> str:
    """The shortest name that means this modality and no other.

    Args:
        modality: of the model.
        among: those in question.
        as_tokens: whether the name has to stand for token ids; None: either will do.
    """
    candidates = list(among)
    for name in (short_name(modality), modality.key, modality.tokenizer or modality.name, modality.name):
        try:
            found = resolve(name, candidates, "name")
        except ConfigError:
            continue
        ids = modality.is_grid and modality.tokenizer is not None and means_tokens(name, modality)
        fits = as_tokens is None or modality.tokenizer is None or not modality.is_grid or ids == as_tokens
        if found is modality and fits:
            return name
    return modality.name
