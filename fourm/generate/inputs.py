"""Values in natural units, texts and structured values as the model reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.data import transforms
from fourm.data.geometry import center_box
from fourm.errors import DataError
from fourm.generate.bundle import Bundle, device_of, raw_modality, text_tokenizer
from fourm.generate.names import means_tokens, resolve
from fourm.modality import Modality
from fourm.tokenizers.structured import KINDS
from fourm.tokenizers.units import to_natural
from fourm.tokens import PADDING, SpecialIds

_BOUNDED = ("image", "gray", "normal")
"""Decoders of files whose values end at the value range; far outside of it they are in another unit."""


@dataclass(frozen=True)
class GivenValue:
    """One given modality.

    Args:
        name: as it was written.
        key: its name for the sampler: that of the model's modality, with the label of a further value.
        facts: tensors as in `fourm.models.ask`.
        shown: the modality of its picture.
        pictures: one value per sample, in natural units.
    """

    name: str
    key: str
    facts: dict[str, Tensor]
    shown: Modality
    pictures: Sequence[Any]

    @property
    def num_samples(self) -> int:
        return next(iter(self.facts.values())).shape[0]


def find_given(bundle: Bundle, name: str) -> tuple[Modality, str]:
    """The model's modality behind a written name, and its name for the sampler.

    Raises:
        ConfigError: if the model cannot read such a thing.
    """
    modality = resolve(name, bundle.model.modalities.inputs, "read")
    _, label, rest = name.partition("#")
    return modality, modality.name + label + rest


def give(bundle: Bundle, name: str, value: Any, *, as_data: bool = False) -> GivenValue:
    """A value in natural units.

    Args:
        bundle: model and tokenizers.
        name: of the modality; `tok_...` means token ids.
        value: images (B, C, H, W) or label maps (B, H, W) of any size; features (B, C, H, W), or (B, C) of one place;
            token ids (B, n) or (B, h, w), -1 where one is missing; a text or a list of B texts; a value with structure
            as in `fourm.tokenizers.structured` or a list of B; vectors (B, n, dim); or a mapping of tensors as in
            `fourm.models.ask`.
        as_data: it comes from a data set: texts may be empty, and long ones are cut, as in training.

    Raises:
        ConfigError: if the model cannot read such a thing.
        DataError: if the value is not of that kind.
    """
    modality, key = find_given(bundle, name)
    if isinstance(value, Mapping) and value.keys() & {"ids", "values"}:
        facts = {what: torch.as_tensor(tensor) for what, tensor in value.items()}
        return GivenValue(name, key, facts, modality, [None] * len(next(iter(facts.values()))))
    if not modality.is_grid and modality.is_discrete:
        return _give_sequence(bundle, name, modality, key, value, as_data)
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"given {name}: {shown(value)} is no tensor; expected values in natural units. Read a file first, or name "
            "it to `fourm generate`"
        ) from None
    if not tensor.isfinite().all():
        raise DataError(f"given {name}: values that are not finite, NaN or infinity")
    if not modality.is_grid:
        if tensor.ndim != 3:
            raise DataError(f"given {name}: vectors of shape {tuple(tensor.shape)}; expected (samples, n, dim)")
        facts = {"values": tensor.float(), "valid": torch.ones(tensor.shape[:2], dtype=torch.bool)}
        return GivenValue(name, key, facts, modality, [None] * len(tensor))
    if modality.tokenizer is not None and (modality.name not in bundle.tokenizers or means_tokens(name, modality)):
        return _give_ids(name, modality, key, tensor)
    raw = raw_modality(bundle, modality)
    return as_given(bundle, name, network_input(tensor, raw, f"given {name}"))


def network_input(values: Tensor, raw: Modality, where: str) -> Tensor:
    """Natural units of any size, cropped to the centre, resized and normalised as a network reads them.

    Args:
        values: (B, C, H, W) colours in [0, 1], metres, unit vectors ...; or (B, H, W) labels. Features have the size of
            the modality, and may be (B, C) where that is one vector.
        raw: the modality.
        where: named in errors.

    Raises:
        DataError: for another number of dimensions or channels.
    """
    if raw.decode == "features":
        return _features(values, raw, where)
    expected = (1,) if raw.is_discrete else (raw.channels,)
    channels = values.shape[1:2] if values.ndim == 4 else (1,)
    if values.ndim not in (3, 4) or (raw.is_discrete and values.ndim == 4) or tuple(channels) != expected:
        shape = "(samples, height, width)" if raw.is_discrete else f"(samples, {raw.channels}, height, width)"
        raise DataError(f"{where}: a value of shape {tuple(values.shape)} for '{raw.name}'; expected {shape}")
    planes = values if values.ndim == 4 else values[:, None]
    low, high = raw.value_range or (-torch.inf, torch.inf)
    span = high - low
    if not raw.is_discrete and raw.decode in _BOUNDED and bool(((values < low - span) | (values > high + span)).any()):
        raise DataError(
            f"{where}: values from {float(values.min()):.4g} to {float(values.max()):.4g}; '{raw.name}' lies between "
            f"{low:g} and {high:g}. Divide bytes by 255"
        )
    height, width = raw.image_size
    top, left, rows, columns = center_box((planes.shape[-2], planes.shape[-1]), width / height)
    planes = planes[..., top : top + rows, left : left + columns].float()
    if planes.shape[-2:] != (height, width):
        if raw.is_discrete:
            planes = F.interpolate(planes, (height, width), mode="nearest-exact")
        else:
            planes = F.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    if raw.is_discrete:
        return planes[:, 0].long()
    return torch.from_numpy(np.stack([transforms.normalize(image, raw) for image in planes.cpu().numpy()]))


def _features(values: Tensor, raw: Modality, where: str) -> Tensor:
    """Features as a network reads them, (B, C, H, W)."""
    height, width = raw.grid.image_size
    planes = values[..., None, None] if values.ndim == 2 else values
    if tuple(planes.shape[1:]) != (raw.channels, height, width):
        raise DataError(
            f"{where}: a value of shape {tuple(values.shape)} for '{raw.name}'; expected (samples, {raw.channels}, "
            f"{height}, {width})"
        )
    return torch.from_numpy(np.stack([transforms.normalize(v, raw) for v in planes.float().cpu().numpy()]))


def as_given(bundle: Bundle, name: str, values: Tensor) -> GivenValue:
    """Network inputs (B, C, H, W) or label maps (B, H, W) as tokens or patches."""
    modality, key = find_given(bundle, name)
    raw = raw_modality(bundle, modality)
    pictures = values if raw.is_discrete else to_natural(values, raw)
    positions = torch.arange(modality.num_tokens).expand(len(values), -1)
    if modality.tokenizer is not None:
        tokenizer = bundle.tokenizers[modality.name]
        with torch.no_grad():
            ids = tokenizer.encode(values.to(device_of(tokenizer))).flatten(1).cpu()
        facts = {"ids": ids, "positions": positions}
    elif modality.is_discrete:
        facts = {"ids": values.flatten(1), "positions": positions.masked_fill(values.flatten(1) < 0, PADDING)}
    else:
        facts = {"values": values, "positions": positions}
    return GivenValue(name, key, facts, raw, list(pictures))


def _give_ids(name: str, modality: Modality, key: str, ids: Tensor) -> GivenValue:
    if ids.is_floating_point() or ids.flatten(1).shape[1] != modality.num_tokens:
        raise DataError(
            f"given {name}: a value of shape {tuple(ids.shape)} and type {ids.dtype}; expected {modality.num_tokens} "
            f"whole numbers per sample, ids of '{modality.name}', -1 where a token is missing"
        )
    ids = ids.flatten(1).long()
    positions = torch.arange(modality.num_tokens).to(ids.device).expand(len(ids), -1)
    return GivenValue(
        name, key, {"ids": ids, "positions": positions.masked_fill(ids < 0, PADDING)}, modality, list(ids)
    )


def _give_sequence(bundle: Bundle, name: str, modality: Modality, key: str, value: Any, as_data: bool) -> GivenValue:
    """Texts or values with structure as ids, each with its end token."""
    if isinstance(value, Tensor):
        return GivenValue(name, key, {"ids": value.long()}, modality, [None] * len(value))
    tokenizer = text_tokenizer(bundle, modality)
    kind = KINDS.get(modality.decode)
    if kind is not None:
        kind.check_bins(modality.name, tokenizer.num_coordinates)
    several = isinstance(value, list) and value and not _is_one(kind, value)
    values = value if several else [value]
    texts = []
    for one in values:
        text = one
        if kind is not None and not isinstance(one, str):
            try:
                text = kind.to_text(one, tokenizer.num_coordinates, None)
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                raise DataError(f"given {name}: {shown(one)} is not a value of '{modality.name}': {error}") from error
            text = text if isinstance(text, str) else " ".join(text)
        if not isinstance(text, str):
            raise DataError(f"given {name}: a value of type {type(one).__name__}; expected text")
        if kind is None and not text.strip() and not as_data:
            raise DataError(
                f"given {name}: the text is empty; leave {name} out if there is none, or write [S_1] for a text that "
                "is to be generated"
            )
        texts.append(text)
    rows = [sequence_ids(tokenizer, text, modality) for text in texts]
    if as_data:
        rows = [row[: modality.num_tokens] for row in rows]
    for row, text in zip(rows, texts, strict=True):
        _check_length(row, text, modality, tokenizer.special, name)
    length = max(map(len, rows))
    ids = torch.tensor([[*row, *[PADDING] * (length - len(row))] for row in rows], dtype=torch.int64)
    return GivenValue(name, key, {"ids": ids}, modality, list(values))


def shown(value: Any) -> str:
    """The beginning of a value, for errors."""
    try:
        return f"{value!r:.80}"
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"


def _is_one(kind: Any, value: Any) -> bool:
    """Whether a list is one value with structure rather than one per sample."""
    try:
        return kind is not None and bool(kind.is_value(value))
    except (TypeError, ValueError, LookupError, RecursionError):
        return False


def sequence_ids(tokenizer: Any, text: str, modality: Modality) -> list[int]:
    """Ids of a text as models are trained to read them: with the end token, unless the end is missing (`... [S_1]`)."""
    special = tokenizer.special
    ids: list[int] = tokenizer.encode(text).tolist()
    return ids if ids and _is_sentinel(ids[-1], special) else [*ids, special.end]


def _is_sentinel(token: int, special: SpecialIds) -> bool:
    return special.sentinel_0 <= token < special.sentinel(special.num_sentinels)


def _check_length(ids: Sequence[int], text: str, modality: Modality, special: SpecialIds, name: str) -> None:
    """Refuse a text that is longer than any the model has seen."""
    count = sum(not _is_sentinel(token, special) for token in ids)
    if count > modality.num_tokens or len(ids) > modality.layout.num_positions:
        raise DataError(
            f"given {name}: '{text[:40].strip()} ...' has {count} tokens, the end token included; '{modality.name}' "
            f"takes at most {modality.num_tokens}: give a shorter text, or fewer things"
        )
