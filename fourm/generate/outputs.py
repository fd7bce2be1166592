"""What the model answers: ids as images, labels, texts, boxes and the like, and these as files of the usual formats."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fourm.files import publish
from fourm.generate.bundle import Bundle, device_of, raw_modality, text_tokenizer
from fourm.generate.sampler import Generated
from fourm.generate.sampling import expected_embedding
from fourm.modality import Modality
from fourm.tokenizers.structured import KINDS

_FULL_SCALE = 65535
_VOID = 255
_LABELS = ("labels", "labels_void_first")


def decode(
    bundle: Bundle, name: str, generated: Generated, seeds: Tensor | None = None, *, expected: bool = False
) -> Any:
    """One target in natural units.

    Args:
        bundle: model and tokenizers.
        name: of the target.
        generated: what the sampler returned.
        seeds: (B,), for decoders that draw; None: as they draw by themselves.
        expected: decode the mean code under the kept probabilities instead of the drawn ids.

    Returns:
        images (B, C, H, W) on the CPU, labels (B, H, W), a list of B texts or values with structure (boxes, facts ...);
        (B, N) ids if there is no tokenizer.
    """
    modality = bundle.model.modalities[name]
    ids = generated.ids[name]
    if not modality.is_grid:
        return decode_sequences(bundle, modality, ids)
    shape = (modality.grid.height, modality.grid.width)
    tokenizer = bundle.tokenizers.get(name)
    if tokenizer is None:
        return ids.cpu() if modality.tokenizer else ids.unflatten(1, shape).cpu()
    device = device_of(tokenizer)
    seeds = seeds if seeds is None else seeds.to(device)
    with torch.no_grad():
        if expected and name in generated.probabilities and tokenizer.codebook is not None:
            vectors = expected_embedding(generated.probabilities[name].to(device), tokenizer.codebook)
            values = tokenizer.decode_embeddings(vectors.unflatten(1, shape), seeds=seeds)
        else:
            values = tokenizer.decode(ids.unflatten(1, shape).to(device), seeds=seeds)
    return values.cpu()


def decode_sequences(bundle: Bundle, modality: Modality, ids: Tensor) -> list[Any]:
    """Texts, or values with structure, of (B, n) ids padded with -1."""
    tokenizer = text_tokenizer(bundle, modality)
    texts = [tokenizer.decode(i for i in row if i >= 0) for row in ids.tolist()]
    kind = KINDS.get(modality.decode)
    if kind is None:
        return texts
    return [kind.from_text(text, tokenizer.num_coordinates, modality.classes) for text in texts]


def write(bundle: Bundle, modality: Modality, value: Any, folder: Path, stem: str) -> list[Path]:
    """Write one answer.

    Args:
        bundle: model and tokenizers.
        modality: of the model.
        value: of one sample, in natural units.
        folder: where to.
        stem: name of the file without extension; characters that could lead elsewhere are replaced.

    Returns:
        the files written, the main one first.
    """
    files = _encode(raw_modality(bundle, modality), value)
    paths = []
    for extension, data in files.items():
        path = folder / f"{safe_name(stem)}.{extension}"
        publish(path, data)
        paths.append(path)
    return paths


def _encode(raw: Modality, value: Any) -> dict[str, bytes]:
    """Extension -> content."""
    if isinstance(value, str):
        return {"txt": (value + "\n").encode()}
    if raw.decode in KINDS:
        plain = {"instances": list(value)} if raw.decode == "boxes" else value
        return {"json": (json.dumps(plain, indent=1) + "\n").encode()}
    array = value.numpy()
    if raw.is_discrete:
        in_png = raw.decode in _LABELS and array.ndim == 2 and raw.vocab_size <= _VOID
        return {"png": _png(_label_bytes(array, raw))} if in_png else {"npy": _npy(array)}
    if raw.decode == "depth16":
        return _depth_files(array[0], raw)
    if raw.map_channels in (1, 3) and raw.decode != "features":
        low, high = raw.value_range or (0.0, 1.0)
        pixels = np.clip(np.rint((array - low) * (255 / (high - low))), 0, 255).astype(np.uint8)
        return {"png": _png(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))}
    return {"npy": _npy(array)}


def _label_bytes(ids: NDArray[np.int64], raw: Modality) -> NDArray[np.uint8]:
    """Class ids as the modality's decoder reads them; void is 255."""
    if raw.decode == "labels_void_first":
        ids = ids - 1
    return np.where(ids < 0, _VOID, ids).astype(np.uint8)


def _depth_files(metres: NDArray[np.float32], raw: Modality) -> dict[str, bytes]:
    """A 16-bit png whose full scale is the modality's largest value; depth without units also as it is."""
    if raw.normalization == "standardize" or raw.value_range is None:
        low, high = float(metres.min()), float(metres.max())
        share = (metres - low) / max(high - low, 1e-6)
        return {"png": _png(np.rint(share * _FULL_SCALE).astype(np.uint16)), "npy": _npy(metres)}
    share = np.clip(metres / raw.value_range[1], 0, 1)
    return {"png": _png(np.rint(share * _FULL_SCALE).astype(np.uint16))}


def _png(pixels: NDArray[Any]) -> bytes:
    return png(Image.fromarray(np.ascontiguousarray(pixels)))


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a png file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def safe_name(name: str) -> str:
    """A name that stays in its folder: letters, digits, `@ # . _ -`, not starting with a dot."""
    return re.sub(r"[^\w@#.-]", "_", name, flags=re.ASCII).lstrip(".")[:100] or "output"
