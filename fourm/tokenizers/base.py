"""What every image tokenizer offers, and how a saved one is found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fourm.errors import CheckpointError, did_you_mean
from fourm.layouts import Grid
from fourm.machine import Precision
from fourm.modality import Modality
from fourm.registry import implementation
from fourm.tokenizers.configs import TOKENIZERS
from fourm.tokenizers.saved import CONFIG_FILE, read_facts

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Tokenizer(Protocol):
    """Turns images, label maps or features into token ids and back.

    Attributes:
        modality: the raw modality it reads and writes.
        grid: tokens per side, and pixels per token side.
        vocab_size: number of ids.
        hash: equal hashes give equal tokens, whatever decodes them.
        codebook: (V, d) vectors behind the ids; None if there is no such table, as where a place has several codes.
    """

    modality: Modality
    grid: Grid

    @property
    def vocab_size(self) -> int: ...

    @property
    def hash(self) -> str: ...

    @property
    def codebook(self) -> Tensor | None: ...

    def encode(self, image: Tensor, /) -> Tensor:
        """Ids (B, h, w) of normalised images (B, C, H, W) or labels (B, H, W)."""
        ...

    def decode(self, ids: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        """Images of ids, in natural units; `raw`: what the network puts out.

        `seeds` (B,) own the randomness of each sample.
        """
        ...

    def decode_embeddings(self, vectors: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        """Images of codes (B, h, w, d) or mixtures of codes, one per place."""
        ...


def load_tokenizer(
    folder: str | Path,
    device: str | torch.device = "cpu",
    *,
    sampling: Mapping[str, Any] | None = None,
    precision: Precision | None = None,
    channels_last: bool | None = None,
) -> Any:
    """Read a saved image tokenizer of any kind.

    Args:
        folder: of the tokenizer, or of the run that trained it.
        device: where to put it.
        sampling: keys of `SamplingConfig` to decode with instead of the saved ones, for instance `{"num_steps": 10}`;
            for diffusion decoders.
        precision: of the decoder: `bf16`, `fp32`, or `auto`, which is bf16 where the device has it; None: float32.
        channels_last: keep the decoder's channels innermost in memory; None: with `precision`.

    Raises:
        CheckpointError: if the folder holds none, or one of an unknown kind.
        ConfigError: if it cannot be decoded so.
    """
    folder = tokenizer_folder(Path(folder))
    kind = str(read_facts(folder)["kind"])
    if kind not in TOKENIZERS:
        raise CheckpointError(
            f"{folder / CONFIG_FILE}: tokenizer kind '{kind}' is not known.{did_you_mean(kind, TOKENIZERS)}"
        )
    tokenizer = implementation(TOKENIZERS.resolve(kind).target).load(folder, device)
    return for_use(tokenizer, sampling=sampling, precision=precision, channels_last=channels_last)


def for_use(
    tokenizer: Any,
    *,
    sampling: Mapping[str, Any] | None = None,
    precision: Precision | None = None,
    channels_last: bool | None = None,
) -> Any:
    """The same tokenizer, set to decode in some way; see `load_tokenizer`."""
    if sampling:
        tokenizer.use_sampling(**sampling)
    if precision is not None or channels_last is not None:
        tokenizer.for_decoding(precision=precision or "fp32", channels_last=channels_last is not False)
    return tokenizer


def tokenizer_folder(path: Path) -> Path:
    """The tokenizer's own folder, also when the output folder of its training is given."""
    return path / "model" if (path / "model" / CONFIG_FILE).is_file() else path
