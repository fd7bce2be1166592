"""What people hand over in Python and on the command line: paths, pictures, arrays and texts, whole or in part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from fourm.data import transforms
from fourm.data.geometry import center_box
from fourm.data.images import open_image
from fourm.errors import ConfigError, DataError
from fourm.generate.bundle import Bundle, raw_modality, text_tokenizer
from fourm.generate.context import Facts
from fourm.generate.inputs import GivenValue, as_given, find_given, give, network_input
from fourm.generate.names import means_tokens
from fourm.generate.plan import Step
from fourm.generate.reading import NPY, as_png, is_file, read_bytes, read_given, read_image, read_text
from fourm.generate.tables import pad_columns
from fourm.layouts import Grid
from fourm.modality import Modality
from fourm.tokenizers.structured import KINDS
from fourm.tokens import PADDING, SpecialIds

SOME = "some"
_HALF = 128


def take(bundle: Bundle, name: str, value: Any, known: Any = None) -> GivenValue:
    """A value as people have it at hand. Strings of texts are texts; strings of all else are paths.

    Args:
        bundle: model and tokenizers.
        name: of the modality, as written.
        value: a path, a PIL image, an array (H, W, 3) of bytes, a value of one sample without its first axis, whatever
            `fourm.generate.inputs.give` takes, or a list of paths or images, one per sample.
        known: None: all of it. For images a mask of the same size, white or True where the value counts: a path, a PIL
            image, an array (H, W) or (samples, H, W), or of several images a list of masks. For texts and boxes the
            word `some`: more may be missing before, between and behind them.

    Raises:
        ConfigError: if the model cannot read such a thing.
        DataError: for files and values that do not fit.
    """
    modality, _ = find_given(bundle, name)
    several = isinstance(value, list) and bool(value) and all(_is_file(one, modality) for one in value)
    if known is not None:
        if several and modality.is_grid:
            masks = _masks(known, len(value), name)
            return join([_take_part(bundle, name, modality, *one) for one in zip(value, masks, strict=True)])
        return _take_part(bundle, name, modality, value, known)
    if several:
        return join([take(bundle, name, one) for one in value])
    if isinstance(value, Path) or (isinstance(value, str) and _is_file(value, modality)):
        return read_given(bundle, name, str(value))
    if isinstance(value, Image.Image):
        return read_bytes(bundle, name, _png(value, name), f"given {name}")
    if not modality.is_grid or isinstance(value, Mapping):
        return give(bundle, name, value)
    means_ids = modality.tokenizer is not None and (
        modality.name not in bundle.tokenizers or means_tokens(name, modality)
    )
    return give(bundle, name, _with_samples(value, modality if means_ids else raw_modality(bundle, modality), name))


def take_bytes(bundle: Bundle, name: str, data: bytes, known: bytes | str) -> GivenValue:
    """Part of an image, from the contents of its file and of that of its mask; see `take`."""
    modality, _ = find_given(bundle, name)
    return _take_part(bundle, name, modality, data, known)


def take_text(bundle: Bundle, name: str, text: str, known: str | None = None) -> GivenValue:
    """A value from the command line: the path of a file, or the text itself; see `take`."""
    if known is None:
        return read_given(bundle, name, text)
    modality, _ = find_given(bundle, name)
    is_text = not modality.is_grid and modality.is_discrete
    return take(bundle, name, read_text(Path(text), text, modality) if is_text else text, known)


def held(bundle: Bundle, known: Iterable[str], targets: Sequence[str]) -> dict[str, str]:
    """Targets of which a part is known through the pixels that are given: target -> the given name.

    A model that reads `rgb` as pixels and generates it as tokens is to keep what is known of a photograph: then the
    known tokens are given too.

    Args:
        bundle: model and tokenizers.
        known: names that are given in part.
        targets: full names.
    """
    found = {}
    for name in known:
        modality, key = find_given(bundle, name)
        for target in targets:
            if target not in bundle.model.modalities or target not in bundle.tokenizers:  # another model may make it
                continue
            tokens = bundle.model.modalities[target]
            if tokens.is_input and key == modality.name == tokens.tokenizer:
                found[target] = name
    return found


def check_gaps(values: Sequence[GivenValue], steps: Sequence[Step], bundle: Bundle) -> None:
    """See that no target is given whole, unless its step does not see it and makes it anew.

    Raises:
        ConfigError: if one is, or if one is given in part to a step that does not see it.
        DataError: if the gaps of a text are not [S_1], [S_2], ... in this order.
    """
    making = {step.target: step for step in steps}
    for value in values:
        if value.key not in making:
            continue
        modality = bundle.model.modalities[value.key]
        if modality.is_grid:
            positions = value.facts["positions"]
            missing = torch.tensor([len(row[row >= 0].unique()) for row in positions]) < modality.num_tokens
            remedy = f"give part of it (--known {value.name}=mask.png, or ids with -1 where a token is missing)"
        else:
            ids, special = value.facts["ids"], bundle.text.special if bundle.text else SpecialIds()
            sentinels = (ids >= special.sentinel_0) & (ids < special.sentinel(special.num_sentinels))
            missing = sentinels.any(1) | (ids < 0).all(1)
            remedy = f"write [S_1], [S_2], ... where something is missing, or --known {value.name}={SOME}"
            if making[value.key].can_see(value.key):
                _check_sentinels(value.name, ids, sentinels, special)
        if not making[value.key].can_see(value.key):
            if missing.any():
                raise ConfigError(
                    f"part of '{value.name}' is given, but the step that completes it does not see it: name "
                    f"'{value.key}' among what it sees, or give none of it"
                )
        elif not missing.all():
            raise ConfigError(
                f"'{value.name}' is both given whole and to be generated: leave it out of one of them, or {remedy}"
            )


def _check_sentinels(name: str, ids: Tensor, sentinels: Tensor, special: SpecialIds) -> None:
    """See that gaps are numbered from 1 on, each once: by their numbers, answers find their places."""
    for row, places in zip(ids, sentinels, strict=True):
        numbers = (row[places] - special.sentinel_0).tolist()
        if numbers != list(range(1, len(numbers) + 1)):
            raise DataError(
                f"given {name}: its gaps are {' '.join(f'[S_{number}]' for number in numbers)}; expected "
                f"{' '.join(f'[S_{number}]' for number in range(1, len(numbers) + 1))}, each once and in this order"
            )


def join(values: Sequence[GivenValue]) -> GivenValue:
    """The samples of several values of one modality as one value."""
    if len(values) == 1:
        return values[0]
    pictures = [picture for value in values for picture in value.pictures]
    return replace(values[0], facts=_stack([value.facts for value in values]), pictures=pictures)


def _stack(values: Sequence[Facts]) -> dict[str, Tensor]:
    """The tensors of several values as one, the shorter ones padded."""
    stacked = {}
    for key, first in values[0].items():
        tensors = [value[key] for value in values]
        if first.ndim < 4:  # images have one size
            length = max(tensor.shape[1] for tensor in tensors)
            fill = PADDING if key in ("ids", "positions") else 0
            tensors = [pad_columns(tensor, length, fill) for tensor in tensors]
        stacked[key] = torch.cat(tensors)
    return stacked


def _is_file(value: Any, modality: Modality) -> bool:
    """Whether a value is a path or a picture; strings of texts are no paths, and are never opened."""
    return isinstance(value, Path | Image.Image) or (
        isinstance(value, str) and (modality.is_grid or not modality.is_discrete)
    )


def _png(picture: Image.Image, name: str) -> bytes:
    try:
        return as_png(picture)
    except (ValueError, OSError) as error:
        raise DataError(f"given {name}: a picture of mode {picture.mode}; expected RGB or grey: {error}") from None


def _with_samples(value: Any, shown: Modality, name: str) -> Any:
    """An array with its axis of samples; bytes (H, W, 3) as colours in [0, 1]."""
    if not isinstance(value, np.ndarray | Tensor):
        return value
    tensor = torch.as_tensor(value)
    is_photograph = shown.tokenizer is None and shown.decode == "image"
    if is_photograph and tensor.dtype == torch.uint8:
        if tensor.shape[-1:] == (3,):
            tensor = tensor.movedim(-1, -3)
        tensor = tensor / 255
    return tensor[None] if _is_one(tensor, shown) else tensor


def _is_one(tensor: Tensor, shown: Modality) -> bool:
    """Whether an array lacks the axis of samples."""
    if shown.tokenizer is not None:  # ids, in a row or as a grid
        is_grid = tuple(tensor.shape) == (shown.grid.height, shown.grid.width) and shown.grid.height > 1
        return tensor.ndim == 1 or is_grid
    if shown.decode == "features":
        return tensor.ndim in (1, 3)
    return tensor.ndim == (2 if shown.is_discrete or shown.channels == 1 else 3)


def _take_part(bundle: Bundle, name: str, modality: Modality, value: Any, known: Any) -> GivenValue:
    if not modality.is_grid:
        if not modality.is_discrete or not isinstance(known, str) or known != SOME:
            raise ConfigError(
                f"known {name}: '{modality.name}' is no image; expected the word '{SOME}', for texts and boxes, or "
                "write [S_1], [S_2], ... into the text where something is missing"
            )
        whole = read_text(value, str(value), modality) if isinstance(value, Path) else value
        return give(bundle, name, _with_gaps(bundle, name, modality, whole))
    raw = raw_modality(bundle, modality)
    if not transforms.is_image(raw) or (modality.tokenizer and modality.name not in bundle.tokenizers):
        raise ConfigError(f"known {name}: a mask is for images; of token ids and features leave out what is missing")
    if isinstance(value, bytes) and value.startswith(NPY):
        raise ConfigError(
            f"known {name}: a mask goes with an image file; in an array of ids, -1 stands for one that is missing"
        )
    mask = _read_mask(known, name)
    values, size = _read_pixels(value, raw, name)
    if tuple(mask.shape[-2:]) != size:
        raise DataError(
            f"known {name}: a mask of {mask.shape[-1]} x {mask.shape[-2]} pixels for a value of {size[1]} x {size[0]}; "
            "expected the same size"
        )
    if len(mask) not in (1, len(values)):
        raise DataError(f"known {name}: {len(mask)} masks for {len(values)} samples; expected one, or one of each")
    shown = _fit(mask, raw.grid).expand(len(values), -1, -1)
    # From tokens nothing must leak: an encoder looks beyond the borders of its patches.
    pixels = shown if raw.is_discrete else shown[:, None]
    given = as_given(bundle, name, torch.where(pixels, values, torch.full_like(values, -1 if raw.is_discrete else 0)))
    patches = _whole_patches(shown, modality.grid)
    if not patches.any(1).all():
        raise DataError(
            f"known {name}: the mask shows no whole patch of {modality.grid.patch_size} x {modality.grid.patch_size} "
            f"pixels of the {raw.grid.image_size[1]} x {raw.grid.image_size[0]} that the model sees; leave {name} "
            "out if nothing is known"
        )
    facts = {
        key: tensor if key == "values" else tensor.masked_fill(~patches, PADDING) for key, tensor in given.facts.items()
    }
    return replace(given, facts=facts)


def _masks(known: Any, count: int, name: str) -> Sequence[Any]:
    """A mask for each of several images."""
    is_list = isinstance(known, list | tuple)
    if not is_list and (not isinstance(known, np.ndarray | Tensor) or known.ndim != 3):
        return [known] * count
    if len(known) not in (1, count):
        raise DataError(f"known {name}: {len(known)} masks for {count} samples; expected one, or one of each")
    return list(known) * (count // len(known))


def _read_mask(known: Any, name: str) -> Tensor:
    """(B, H, W) bool."""
    if isinstance(known, str | Path | bytes):
        data, called = (known, "it") if isinstance(known, bytes) else (None, str(known))
        try:
            with open_image(Path(called).read_bytes() if data is None else data) as file:
                known = ImageOps.exif_transpose(file).convert("L")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = "there is no such file" if data is None and not is_file(Path(called)) else str(error)
            raise DataError(f"known {name}: cannot read {called} as a mask: {reason}; expected a grey image") from None
    if isinstance(known, Image.Image):
        try:
            return torch.from_numpy(np.asarray(known.convert("L")) >= _HALF)[None]
        except ValueError as error:
            raise DataError(f"known {name}: a mask of mode {known.mode}; expected a grey image: {error}") from None
    try:
        mask = torch.as_tensor(known)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(
            f"known {name}: {known!r:.60} is no mask; expected a grey image, or an array of True and False"
        ) from None
    if mask.dtype != torch.bool or mask.ndim not in (2, 3):
        raise DataError(
            f"known {name}: an array of shape {tuple(mask.shape)} and type {mask.dtype}; expected (height, width) or "
            "(samples, height, width) of True and False"
        )
    return mask if mask.ndim == 3 else mask[None]


def _read_pixels(value: Any, raw: Modality, name: str) -> tuple[Tensor, tuple[int, int]]:
    """Network inputs, and the size of what they were made of."""
    where = f"given {name}"
    if isinstance(value, str | Path):
        try:
            return read_image(Path(value).read_bytes(), raw, f"{where}: {value}")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"{where}: cannot read {value}: {reason}") from None
    if isinstance(value, bytes):
        return read_image(value, raw, where)
    if isinstance(value, Image.Image):
        return read_image(_png(value, name), raw, where)
    natural = _with_samples(value, raw, name)
    if not isinstance(natural, Tensor):
        raise DataError(f"{where}: a value of type {type(value).__name__}; with a mask, expected one image or an array")
    return network_input(natural, raw, where), (natural.shape[-2], natural.shape[-1])


def _fit(mask: Tensor, grid: Grid) -> Tensor:
    """A mask as its image is cropped and resized; a pixel counts as known if all that it was made of is."""
    height, width = grid.image_size
    top, left, rows, columns = center_box((mask.shape[-2], mask.shape[-1]), width / height)
    unknown = (~mask[:, None, top : top + rows, left : left + columns]).float()
    fitted = F.adaptive_max_pool2d(unknown, (height, width))
    return fitted[:, 0] == 0


def _whole_patches(shown: Tensor, grid: Grid) -> Tensor:
    """(B, N) patches all of whose pixels are known."""
    return F.adaptive_max_pool2d((~shown).float()[:, None], (grid.height, grid.width)).flatten(1) == 0


def _with_gaps(bundle: Bundle, name: str, modality: Modality, value: Any) -> str:
    """A text, or boxes as text, with a sentinel before, between and behind its parts."""
    kind, tokenizer = KINDS.get(modality.decode), text_tokenizer(bundle, modality)
    text = value
    if kind is not None and not isinstance(value, str):
        try:
            text = kind.to_text(value, tokenizer.num_coordinates, None)
        except (ValueError, TypeError, LookupError) as error:
            raise DataError(f"given {name}: {value!r:.80} is not a value of '{modality.name}': {error}") from error
    if not isinstance(text, str) or (kind is not None and modality.decode != "boxes"):
        raise ConfigError(
            f"known {name}: '{SOME}' is for texts and boxes of one sample; give '{modality.name}' as words, with "
            "[S_1], [S_2], ... where something is missing"
        )
    parts = re.split(r"\s+(?=v0=)", text.strip()) if kind is not None else [text.strip()]
    parts = [part for part in parts if part]
    most = tokenizer.num_sentinels - 2
    if len(parts) > most:
        raise DataError(f"known {name}: {len(parts)} boxes; a text has room for gaps between {most} of them")
    gaps = [f"[S_{number}]" for number in range(1, len(parts) + 2)]
    return " ".join(word for pair in zip(gaps, [*parts, ""], strict=True) for word in pair if word)
