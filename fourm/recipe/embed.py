"""`fourm embed`: what a trained model says of the texts of a data set, stored with it as rows of vectors.

Visual decoders attend to such rows: to those of a text encoder (VL-GPT, Zhu et al. 2023, sec. 3.1), which is the tower
of a contrastive model, or an encoder of 4M that has learned from captions what pictures show; or to those that a model
of documents generates for a picture (Emu, Sun et al. 2023, sec. 2.3).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fourm.data.decode import decode
from fourm.data.encode import npz
from fourm.data.shards import NUM_SHARDS, ShardWriter, read_source_facts, shard_is_complete, write_source_facts
from fourm.data.source import Source, open_source
from fourm.errors import ConfigError, DataError
from fourm.generate.bundle import Bundle, identity
from fourm.machine import choose_device
from fourm.modality import Modality
from fourm.models.contrastive import Contrastive
from fourm.recipe.bundle import load_bundle
from fourm.recipe.imagined import Imagined
from fourm.recipe.schema import TEXT
from fourm.tokens import PADDING
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig

_LOG = logging.getLogger(__name__)


class TextReader:
    """The encoder of a model, or the tower of a contrastive one, reading one modality of text.

    Args:
        bundle: the model and its text tokenizer.
        name: of the modality; None: the only one.
        num_tokens: rows of each text: the vectors of its tokens and its end, then zeros. None: as many as the modality
            has at most.
        device: to compute on.

    Raises:
        ConfigError: if the model has no encoder that reads such texts.
    """

    def __init__(self, bundle: Bundle, name: str | None, num_tokens: int | None, device: str = "auto") -> None:
        self.modality, self.tokenizer = _text(bundle, name), bundle.text
        self.num_tokens = num_tokens or self.modality.num_tokens
        model: Any = bundle.model
        self.towers = isinstance(model, Contrastive)
        if not self.towers:
            model = Backbone.from_model(model, BackboneConfig(modalities=[self.modality.name]))
        self.device = choose_device(device)
        self.encoder: Any = model.eval().to(self.device)

    @property
    def dim(self) -> int:
        """Length of a vector."""
        found: int = self.encoder.towers[self.modality.name].dim if self.towers else self.encoder.num_features
        return found

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """(B, num_tokens, dim).

        Raises:
            DataError: if a text has more tokens.
        """
        assert self.tokenizer is not None
        rows = [[*self.tokenizer.encode(text).tolist(), self.tokenizer.eos_id] for text in texts]
        longest = max(rows, key=len)
        if len(longest) > self.num_tokens:
            raise DataError(
                f"'{texts[rows.index(longest)]}' has {len(longest)} tokens with its end, more than {self.num_tokens}: "
                "raise --num-tokens"
            )
        ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=PADDING)
        hidden = self._read(ids.to(self.device)).cpu() * (ids >= 0)[..., None]
        room = hidden.new_zeros(len(ids), self.num_tokens, self.dim)
        room[:, : ids.shape[1]] = hidden
        return room.numpy().astype(np.float16)

    def _read(self, ids: Tensor) -> Tensor:
        """(B, n, dim) of (B, n) ids."""
        if self.towers:
            return cast(Tensor, self.encoder.features(self.modality.name, ids)[0])
        hidden: Tensor = self.encoder.forward_features({self.modality.name: ids})
        return hidden[:, self.encoder.num_prefix_tokens :]


def embed(
    model: str,
    root: Path,
    *,
    modality: str | None,
    out: str,
    num_tokens: int | None,
    batch_size: int,
    device: str,
    source: str | None = None,
    start: str | None = None,
    phrases: str | None = None,
) -> None:
    """Write `ROOT/<out>`: an npz with `emb` (num_tokens, dim) for each text. Complete shards are skipped.

    Of alternatives the first is taken. A model of documents also writes what follows the empty prompt,
    `ROOT/<out>_empty.safetensors`.

    Args:
        model: as for `fourm generate`.
        root: folder of the shards.
        modality, num_tokens, device: see `TextReader`.
        out: name of the new folder.
        batch_size: texts at a time; equal ones are read once.
        source, start, phrases: of a model of documents; see `Imagined`.

    Raises:
        ConfigError: if the model has no encoder that reads texts, and generates no images.
        DataError: if texts are missing or damaged, too long, or other files are in the way.
    """
    bundle = load_bundle(model)
    reader: TextReader | Imagined
    if any(m.is_slots for m in bundle.model.modalities.values()):
        reader = Imagined(bundle, source, start, phrases, device)
    else:
        reader = TextReader(bundle, modality, num_tokens, device)
    texts = open_source(str(root), [reader.modality.source], "shards")
    facts: dict[str, Any] = {
        "model": identity(bundle),
        "modality": reader.modality.name,
        "source": reader.modality.source,
        "size": [reader.num_tokens, reader.dim],
    }
    facts |= {"start": start, "phrases": phrases} if isinstance(reader, Imagined) else {}
    found = read_source_facts(root, out)
    if ((root / out).exists() and not found) or {**found, **facts} != {**facts, **found}:
        raise DataError(
            f"{root / out} holds other files than the vectors of {reader.num_tokens} tokens that this model makes of "
            f"'{reader.modality.name}': remove that folder, or give another name with --out"
        )
    write_source_facts(root, out, {**facts, NUM_SHARDS: len(texts.shard_sizes)})
    first = 0
    for shard, size in enumerate(texts.shard_sizes):
        if not shard_is_complete(root, [out], shard, texts.keys_digest(shard)):
            numbers = range(first, first + size)
            with ShardWriter(root, shard, {out: "npz"}) as writer:
                for n, data in zip(numbers, _files(reader, texts, numbers, batch_size), strict=True):
                    writer.write(texts.key(n), {out: data})
        first += size
    if isinstance(reader, Imagined):
        reader.write_empty(root / f"{out}_empty.safetensors")
    _LOG.info("%s: %d x %d vectors of each of %d texts", root / out, reader.num_tokens, reader.dim, first)


def _files(reader: TextReader | Imagined, source: Source, numbers: Sequence[int], batch_size: int) -> Iterator[bytes]:
    """The file of each sample."""
    texts = [_first(reader.modality, source, n) for n in numbers]
    different = list(dict.fromkeys(texts))
    made: dict[str, bytes] = {}
    for start in range(0, len(different), batch_size):
        some = different[start : start + batch_size]
        made.update((text, npz(emb=rows)) for text, rows in zip(some, reader(some), strict=True))
    return (made[text] for text in texts)


def _first(modality: Modality, source: Source, n: int) -> str:
    data = source.read_file(n, modality.source)
    value = decode(data, modality, lambda: source.where(n, modality.source))
    return str(value if isinstance(value, str) else value[0])


def _text(bundle: Bundle, name: str | None) -> Modality:
    """The modality of texts that is read.

    Raises:
        ConfigError: if there is none.
    """
    modalities = bundle.model.modalities
    texts = [m for m in modalities.inputs if m.tokenizer == TEXT and m.decode == "text"]
    found = [m for m in texts if name in (None, m.name)]
    if bundle.model.encoder is None or bundle.text is None or len(found) != 1:
        known = ", ".join(m.name for m in texts) or "none"
        raise ConfigError(
            "this is for a model with an encoder that reads texts, and its text tokenizer; "
            f"texts that this one reads: {known}. Name one with --modality, or give another model"
        )
    return found[0]
