"""What all image tokenizers have in common: an encoder and a quantizer. How codes become images is up to the family."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from fourm.config import to_dict
from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.layouts import Grid
from fourm.modality import Modality
from fourm.nn.position import resize_table
from fourm.registry import implementation
from fourm.tokenizers import saved
from fourm.tokenizers.configs import AutoencoderConfig
from fourm.tokenizers.module import TokenizerModule
from fourm.tokenizers.quantize import Quantized
from fourm.tokenizers.teacher_configs import identity, teacher_of
from fourm.tokenizers.units import to_natural

_ENCODING = ("class_embedding.", "encoder.", "quantizer.", "quant_proj.")
"""Prefixes of the names of all weights that decide the tokens."""


class Reconstruction(NamedTuple):
    """What one training pass through a tokenizer gives.

    Args:
        output: (B, C, H, W) what the decoder says: normalised values, class logits, or a denoiser's prediction.
        commitment: (B,) distance of the latents to their codes.
        ids: (B, h, w) token ids, in the tokenizer's `grid`.
        target: what `output` should be; None: the image itself.
    """

    output: Tensor
    commitment: Tensor
    ids: Tensor
    target: Tensor | None = None


class Autoencoder(TokenizerModule):
    """Encoder and quantizer. Subclasses decode: directly, or by diffusion.

    Continuous images go in as they are, label maps as class embeddings.

    Args:
        modality: the raw modality, a grid of pixels or of vectors.
        config: networks and codebook.

    Attributes:
        latent_grid: places that the networks see, and pixels per side of a place.

    Raises:
        ConfigError: if the modality is not an image, or its size is not a multiple of the patch size.
    """

    has_codes = True
    config: AutoencoderConfig

    def __init__(self, modality: Modality, config: AutoencoderConfig) -> None:
        super().__init__(modality, config)
        self.teacher_config = teacher_of(modality, config.teacher)
        self._teacher: tuple[nn.Module, ...] = ()  # in a tuple, as it is no part of the tokenizer's weights
        self.latent_grid = token_grid(modality, config.encoder.patch_size)
        self.is_labels = modality.is_discrete
        self.channels = num_channels(modality)
        self.class_embedding = nn.Embedding(self.channels, config.class_dim) if self.is_labels else None
        read = config.class_dim if self.is_labels else self.channels
        self.encoder = network(config.encoder, "Encoder", read, self.latent_grid)
        self.quantizer = implementation(config.quantizer.target)(config.quantizer)
        self.quant_proj = nn.Conv2d(self.encoder.out_dim, self.quantizer.dim, 1)
        if config.freeze_encoder:
            for part in self._encoding_parts():
                part.requires_grad_(False)

    @property
    def grid(self) -> Grid:
        """Tokens per side, and pixels per token side: 1 where several tokens share a place of the image."""
        rows, columns = self.quantizer.block
        if rows == columns == 1:
            return self.latent_grid
        return Grid(self.latent_grid.height * rows, self.latent_grid.width * columns)

    @property
    def num_tokens(self) -> int:
        return self.grid.num_tokens

    @property
    def vocab_size(self) -> int:
        return int(self.quantizer.vocab_size)

    @property
    def codebook(self) -> Tensor | None:
        """(V, d) codes; None if ids are not numbers of codes in one table."""
        return self.quantizer.codebook

    @property
    def hash(self) -> str:
        """sha256 of all that decides which ids come out: equal hashes give equal tokens, whatever the decoder."""
        own = to_dict(self.config)
        facts: dict[str, Any] = {"class_dim": own["class_dim"]}
        for name in ("encoder", "quantizer"):
            part = getattr(self.config, name)
            left_out = {*getattr(part, "training_keys", ())}
            left_out |= {key for key in getattr(part, "later_keys", ()) if own[name][key] is None}
            facts[name] = {key: value for key, value in own[name].items() if key not in left_out}
        if self.teacher_config is not None:
            facts["teacher"] = identity(self.teacher_config)
        state = {name: value for name, value in self.state_dict().items() if name.startswith(_ENCODING)}
        return saved.digest({"modality": saved.modality_facts(self.modality), "config": facts}, state)

    def forward(self, image: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        """A training pass.

        Args:
            image: (B, C, H, W) normalised values or features, or (B, H, W) labels.
            seeds: (B,) int64, of what a family draws in training.
        """
        raise NotImplementedError

    def usage(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.quantizer.usage().items()}

    def train(self, mode: bool = True) -> Self:
        """Training mode; a frozen encoder and its codebook stay as they are."""
        super().train(mode)
        if self.config.freeze_encoder:
            for part in self._encoding_parts():
                part.eval()
        return self

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Token ids (B, h, w) int64 of what the data holds: (B, C, H, W) normalised values or (B, H, W) labels.

        Features that a teacher makes may be given as they are, or as the images (B, 3, H, W) that it reads.
        """
        return self.quantizer.assign(self._latents(self.features(image)))

    @torch.no_grad()
    def features(self, image: Tensor) -> Tensor:
        """What the networks read, and rebuild: the features that the modality's teacher makes of images (B, 3, H, W).

        All else stays as it is. The teacher is loaded when it is first needed; see `load_teacher`.
        """
        if self.teacher_config is None or image.shape[1] == self.channels:
            return image
        if not self._teacher:
            self.load_teacher()
        return self._teacher[0].to(image.device)(image)

    def load_teacher(self, weights: Path | None = None) -> None:
        """Make ready to encode images, for a modality with a teacher.

        Args:
            weights: file to read its weights from; None: as the tokenizer was trained with.

        Raises:
            ConfigError: if its features are not those the modality declares.
            CheckpointError: if its weights cannot be loaded.
        """
        from fourm.tokenizers.teachers import build_teacher

        teacher = build_teacher(self.modality, self.config.teacher, weights)
        self._teacher = () if teacher is None else (teacher,)

    @torch.no_grad()
    def decode(self, ids: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        """The image of token ids.

        Args:
            ids: (B, h, w) int64.
            seeds: (B,) int64, of what a family draws; None: 0, 1, 2, ...
            raw: return what the network puts out.

        Returns:
            Natural units: colours in [0, 1], metres, unit normals, probabilities of a mask or features (B, C, H, W),
            labels (B, H, W) int64. Raw: (B, C, H, W) normalised values or logits.

        Raises:
            DataError: if the ids are no grids.
        """
        if ids.dim() != 3:
            size = f"{self.grid.height}, {self.grid.width}"
            raise DataError(
                f"token ids have shape {tuple(ids.shape)}; expected (batch, rows, columns), as `encode` gives them: "
                f"(batch, {size}) for images of '{self.modality.name}'. Rows of ids become grids by "
                f"ids.view(-1, {size})"
            )
        return self.decode_embeddings(self.quantizer.lookup(ids), seeds=seeds, raw=raw)

    @torch.no_grad()
    def decode_embeddings(self, vectors: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        """Like `decode`, from (B, h, w, d) codes or mixtures of codes, one vector per place of `latent_grid`."""
        output = self._generate(vectors, seeds).float()
        if raw:
            return output
        if self.is_labels:
            return output.argmax(1)
        return torch.sigmoid(output) if self.modality.normalization == "mask" else to_natural(output, self.modality)

    @torch.no_grad()
    def adopt(self, source: Autoencoder) -> None:
        """Go on from another tokenizer, decoder included. Position tables of another size are resized.

        Raises:
            CheckpointError: if it is of another kind, has other networks, or reads other numbers.
        """
        for fact in ("decode", "channels", "value_range", "normalization", "is_discrete", "teacher"):
            mine, other = getattr(self.modality, fact), getattr(source.modality, fact)
            if mine != other:
                raise CheckpointError(
                    f"the tokenizer to start from is for '{source.modality.name}' with {fact} {other}, this one for "
                    f"'{self.modality.name}' with {mine}: its networks know other numbers"
                )
        ours, theirs = self.state_dict(), source.state_dict()
        if ours.keys() != theirs.keys():
            raise CheckpointError(
                f"of this tokenizer and the one to start from, only one has {min(ours.keys() ^ theirs.keys())}: give "
                "both recipes the same networks, or take encoder and codebook alone, with encoder_from"
            )
        self._copy(ours, theirs)

    @torch.no_grad()
    def adopt_encoder(self, source: Autoencoder) -> None:
        """Take encoder and codebook of another tokenizer, so that both give the same tokens.

        Raises:
            CheckpointError: if it encodes another modality or has another encoder or codebook.
        """
        self._copy(
            {name: t for name, t in self.state_dict().items() if name.startswith(_ENCODING)}, source.state_dict()
        )
        if self.hash != source.hash:
            raise CheckpointError(
                "encoder and codebook were copied but would give other tokens: modality, encoder, quantizer and "
                "class_dim must be those of the tokenizer to start from"
            )

    def _copy(self, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
        for name, value in ours.items():
            given = theirs.get(name)
            if given is not None and name.endswith("pos_emb") and given.shape[:2] == value.shape[:2]:
                given = resize_table(given, value.shape[-2], value.shape[-1])
            if given is None or given.shape != value.shape:
                found = "no counterpart" if given is None else tuple(given.shape)
                raise CheckpointError(
                    f"{name} has shape {tuple(value.shape)} here and {found} in the tokenizer to start from: give "
                    "both recipes the same encoder and quantizer, and for init_from the same decoder"
                )
            value.copy_(given)

    def _encoding_parts(self) -> Iterator[nn.Module]:
        parts = (self.class_embedding, self.encoder, self.quantizer, self.quant_proj)
        return (part for part in parts if part is not None)

    def _quantize(self, image: Tensor, seeds: Tensor | None) -> Quantized:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_encoder):
            return self.quantizer(self._latents(image), seeds)

    def _latents(self, image: Tensor) -> Tensor:
        """(B, h, w, d) before quantization."""
        if self.class_embedding is not None:
            image = _embed_labels(image, self.class_embedding)
        return self.quant_proj(self.encoder(image)).permute(0, 2, 3, 1)

    def _generate(self, vectors: Tensor, seeds: Tensor | None) -> Tensor:
        """(B, C, H, W) of (B, h, w, d) codes."""
        raise NotImplementedError


def token_grid(modality: Modality, patch_size: int) -> Grid:
    """The grid of tokens that cover an image modality.

    Raises:
        ConfigError: if the modality is not an image, or its size is not a multiple of the patch size.
    """
    height, width = modality.map_size()
    if height % patch_size or width % patch_size:
        what = "pixels" if modality.teacher is None else "places in the map of its teacher"
        raise ConfigError(
            f"modality '{modality.name}' has {height} x {width} {what}, not a multiple of the tokenizer's "
            f"patch size {patch_size}"
        )
    return Grid(height // patch_size, width // patch_size, patch_size)


def num_channels(modality: Modality) -> int:
    """Channels of the decoded image: classes of a label map, colours or features otherwise.

    Raises:
        ConfigError: if the modality does not say.
    """
    if modality.is_discrete:
        return modality.vocab_size
    if modality.map_channels is None:
        raise ConfigError(f"modality '{modality.name}' needs `channels` to be tokenized as an image")
    return modality.map_channels


def network(config: Any, part: str, channels: int, grid: Grid) -> Any:
    """The encoder or decoder that a config names: class `part` of the module in its `target`."""
    return implementation(f"{config.target}:{part}")(config, channels, grid)


def _embed_labels(labels: Tensor, embedding: nn.Embedding) -> Tensor:
    """(B, H, W) -> (B, class_dim, H, W); a label outside the classes (void) becomes zero."""
    known = (labels >= 0) & (labels < embedding.num_embeddings)
    embedded = embedding(torch.where(known, labels, 0)) * known[..., None]
    return embedded.permute(0, 3, 1, 2)
