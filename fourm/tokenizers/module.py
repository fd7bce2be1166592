"""What the networks of all tokenizers have in common: how they are saved, loaded and sped up."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fourm.config import build, to_dict
from fourm.errors import CheckpointError, ConfigError
from fourm.machine import Precision, use_bf16
from fourm.modality import Modality
from fourm.nn.init import fill_tables
from fourm.tokenizers import saved


class TokenizerModule(nn.Module):
    """A tokenizer's networks. Subclasses encode and decode.

    Args:
        modality: the raw modality.
        config: of the networks.

    Attributes:
        has_codes: whether tokens are ids of codes.
    """

    kind: ClassVar[str]
    has_codes: ClassVar[bool] = False
    config_class: ClassVar[type[Any]]
    decoder: Any

    def __init__(self, modality: Modality, config: Any) -> None:
        super().__init__()
        self.modality, self.config = modality, config

    @property
    def num_tokens(self) -> int:
        """Tokens of an image of the modality's size."""
        raise NotImplementedError

    @property
    def hash(self) -> str:
        """Equal hashes give equal tokens, whatever decodes them."""
        raise NotImplementedError

    @property
    def codebook(self) -> Tensor | None:
        """(V, d) vectors behind ids; None if there is no such table."""
        return None

    @property
    def given(self) -> tuple[Modality, ...]:
        """Vectors that it reads beside images, in training."""
        return ()

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Rows of vectors that it estimates in training, by name: how many, and their length."""
        return {}

    def usage(self) -> dict[str, float]:
        """How well a codebook is used, by name; empty where there is none."""
        return {}

    def for_decoding(self, *, precision: Precision = "auto", channels_last: bool = True) -> Self:
        """The same tokenizer, changed for fast decoding; for inference only. Tokens stay as they are.

        Args:
            precision: of the decoder's weights and computation; what lies around it stays in float32.
            channels_last: keep channels innermost in memory, which convolutions prefer.
        """
        dtype = torch.bfloat16 if use_bf16(precision, self._decoder_weight.device) else torch.float32
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.decoder.to(dtype=dtype, memory_format=layout)
        return self.requires_grad_(False).eval()

    def use_sampling(self, **changes: Any) -> Self:
        """Decode by diffusion with other settings from now on.

        Args:
            changes: keys of `SamplingConfig`, for instance `num_steps=10`; the others stay.

        Raises:
            ConfigError: if this tokenizer decodes otherwise, or does not know the settings.
        """
        raise ConfigError(
            f"this tokenizer (kind {self.kind}) decodes in one pass: {', '.join(changes)} can only be set for kinds "
            "that decode by diffusion"
        )

    def save(self, folder: str | Path) -> str:
        """Write config and weights; returns the hash."""
        return saved.write(
            Path(folder), self.kind, self.modality, to_dict(self.config), self.state_dict(), token_hash=self.hash
        )

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> Self:
        """Read a saved tokenizer, ready for inference.

        Raises:
            CheckpointError: if files are missing, damaged or do not belong together.
        """
        folder = Path(folder)
        facts = saved.read_facts(folder)
        config = build(cls.config_class, facts["config"], where=str(folder / saved.CONFIG_FILE))
        with torch.device("meta"):
            model = cls(saved.read_modality(folder), config)
        state = saved.read_weights(folder, str(device))
        try:
            model.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: the weights do not fit the config: {error}") from None
        fill_tables(model)
        return model.to(device).requires_grad_(False).eval()

    @torch.no_grad()
    def take(self, source: TokenizerModule, prefix: str) -> None:
        """Copy the weights whose names begin so from another tokenizer.

        Raises:
            CheckpointError: if it has other networks.
        """
        ours = {name: value for name, value in self.state_dict().items() if name.startswith(prefix)}
        theirs = source.state_dict()
        wrong = [name for name, value in ours.items() if name not in theirs or theirs[name].shape != value.shape]
        if wrong or not ours:
            raise CheckpointError(
                f"of this tokenizer and the one to start from, only one has {wrong[0] if wrong else 'an encoder'} of "
                "this shape: give both recipes the same networks"
            )
        for name, value in ours.items():
            value.copy_(theirs[name])

    @property
    def _decoder_weight(self) -> Tensor:
        """A parameter that shows the decoder's device, precision and memory layout."""
        weight: Tensor = next(self.decoder.parameters())
        return weight
