"""VL-GPT's image tokenizer and detokenizer (Zhu et al. 2023, sec. 3.1): a frozen diffusion model paints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from fourm.errors import CheckpointError
from fourm.modality import Modality
from fourm.nn.init import initialise
from fourm.nn.poolers import Features, Resampler
from fourm.nn.vision_configs import ResamplerConfig
from fourm.tokenizers import saved
from fourm.tokenizers.base import tokenizer_folder
from fourm.tokenizers.conditions import Conditions
from fourm.tokenizers.detokenizer_configs import DetokenizerConfig
from fourm.tokenizers.module import TokenizerModule
from fourm.tokenizers.visual_decoder import VisualDecoder

_IMAGE = "image"
_ENCODING = f"tokens.encoders.{_IMAGE}."
"""Begins the names of all weights that decide the tokens."""


class Estimates(NamedTuple):
    """What one training pass gives.

    Args:
        outputs: condition -> (B, N, d) what is estimated of the tokens.
        targets: condition -> (B, N, d) what the visual decoder is told of the image itself, and of what is given.
    """

    outputs: dict[str, Tensor]
    targets: dict[str, Tensor]


class Estimator(nn.Module):
    """Learned queries that attend to the tokens of an image, and a linear layer for each condition.

    Args:
        config: of the transformer.
        tokens: (number of tokens, their length).
        sizes: condition -> (number of vectors, their length).
    """

    def __init__(self, config: ResamplerConfig, tokens: tuple[int, int], sizes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.counts = {name: count for name, (count, _) in sizes.items()}
        features = Features(tokens[1], (1, tokens[0]))
        self.transformer = Resampler(features, sum(self.counts.values()), config.dim, config)
        self.transformer.linear = nn.Identity()  # type: ignore[assignment]  # each condition has its own
        self.heads = nn.ModuleDict({name: nn.Linear(config.dim, dim) for name, (_, dim) in sizes.items()})

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """(B, N, d) tokens -> condition -> (B, its number, its length)."""
        hidden = self.transformer(tokens).split(list(self.counts.values()), 1)
        return {name: self.heads[name](part) for name, part in zip(self.counts, hidden, strict=True)}


class Detokenizer(TokenizerModule):
    """A tower and a causal resampler make tokens; a transformer estimates of them what a visual decoder is told.

    The visual decoder is frozen, and not run in training. Its conditions that have an encoder are made of the image;
    those of texts are read from files.

    Args:
        modality: the raw modality, colour images.
        config: of the parts.

    Raises:
        ConfigError: if the parts do not go with one another or the images.
        CheckpointError: if the visual decoder cannot be read, or has other networks.
    """

    kind = "detokenizer"
    config_class = DetokenizerConfig
    config: DetokenizerConfig
    decoder: Estimator

    def __init__(self, modality: Modality, config: DetokenizerConfig) -> None:
        super().__init__(modality, config)
        self.tokens = Conditions(modality, {_IMAGE: config.tokens}, frozen=config.freeze_encoder)
        self.painter = VisualDecoder(modality, config.painter)
        self.decoder = Estimator(config.decoder, self.tokens.sizes[_IMAGE], self.sizes)
        if torch.get_default_device().type != "meta":
            initialise(self.decoder, int(torch.randint(1 << 31, ())))
            if config.painter_from is not None:
                self._take_painter(config.painter_from)
        self.painter.requires_grad_(False)
        if config.freeze_tower:
            self._tower.requires_grad_(False)

    def _take_painter(self, path: Path) -> None:
        source = VisualDecoder.load(tokenizer_folder(path))
        try:
            self.painter.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise CheckpointError(f"the visual decoder in {path} does not fit tokenizer.painter: {error}") from None

    @property
    def encoder(self) -> Any:
        """Tower and resampler, which make the tokens."""
        return self.tokens.encoders[_IMAGE]

    @property
    def _tower(self) -> nn.Module:
        tower: nn.Module = self.encoder.tower
        return tower

    @property
    def num_tokens(self) -> int:
        return self.tokens.sizes[_IMAGE][0]

    @property
    def reads(self) -> dict[str, tuple[int, int]]:
        """(number of tokens, their length) that are painted."""
        return self.tokens.sizes

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Condition -> (number of vectors, their length), of what is estimated."""
        return self.painter.conditions.sizes

    @property
    def given(self) -> tuple[Modality, ...]:
        return self.painter.given

    @property
    def sampling(self) -> Any:
        """How images are sampled for now."""
        return self.painter.sampling

    @sampling.setter
    def sampling(self, value: Any) -> None:
        self.painter.sampling = value

    @property
    def hash(self) -> str:
        state = {name: value for name, value in self.state_dict().items() if name.startswith(_ENCODING)}
        facts = {"modality": saved.modality_facts(self.modality), "tokens": self.tokens.facts()}
        return saved.digest(facts, state)

    def train(self, mode: bool = True) -> Self:
        """Training mode; what is frozen stays as it is."""
        super().train(mode)
        self.painter.eval()
        if self.config.freeze_tower:
            self._tower.eval()
        return self

    def forward(
        self, image: Tensor, seeds: Tensor | None = None, given: Mapping[str, Tensor] | None = None
    ) -> Estimates:
        """Estimate conditions of the tokens of images.

        Args:
            image: (B, C, H, W) normalised values.
            seeds: not used, since nothing is drawn.
            given: condition -> (B, N, d), of those that are made elsewhere, such as of captions.
        """
        with torch.no_grad():
            targets = self.painter.conditions.rows(image, given)
        return Estimates(self.decoder(self.tokens.rows(image)[_IMAGE]), targets)

    @torch.no_grad()
    def encode(self, image: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, N, d) tokens of images (B, C, H, W); vectors beside them are not needed."""
        return self.tokens.rows(image)[_IMAGE]

    @torch.no_grad()
    def decode(
        self, vectors: Tensor, *, seeds: Tensor | None = None, raw: bool = False, null: Tensor | None = None
    ) -> Tensor:
        """Paint.

        Args:
            vectors: (B, N, d) tokens.
            seeds, raw: see `VisualDecoder.decode`.
            null: (N, d) or (B, N, d) tokens that stand for no image in guidance; None: as the visual decoder knows it.
        """
        rows = self.decoder(self.tokens.checked(vectors)[_IMAGE])
        blind = None if null is None else self.decoder(null.expand(1, *null.shape) if null.dim() == 2 else null)
        return self.painter.decode(rows, seeds=seeds, raw=raw, null=blind)

    def for_decoding(self, **options: Any) -> Self:
        self.painter.for_decoding(**options)
        return self.requires_grad_(False).eval()

    def use_sampling(self, **changes: Any) -> Self:
        self.painter.use_sampling(**changes)
        return self

    def adopt(self, source: Detokenizer) -> None:
        """Go on from another one."""
        self.take(source, "")

    def adopt_encoder(self, source: Detokenizer) -> None:
        """Take the tokenizer of another one."""
        self.take(source, _ENCODING)
