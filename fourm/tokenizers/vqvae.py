"""A vector-quantized autoencoder (van den Oord et al. 2017) with a direct decoder, as 4M's (Mizrahi et al. 2023)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fourm.config import build, to_dict
from fourm.errors import CheckpointError, ConfigError
from fourm.modality import Grid, Modality
from fourm.tokenizers import saved
from fourm.tokenizers.configs import VQVAEConfig
from fourm.tokenizers.quantize import Quantized
from fourm.tokenizers.units import to_natural

KIND = "vqvae"


class Reconstruction(NamedTuple):
    """What one pass through an autoencoder gives.

    Args:
        output: (B, C, H, W) normalised values, or class logits for label maps.
        commitment: (B,) distance of the latents to their codes.
        ids: (B, h, w) token ids.
    """

    output: Tensor
    commitment: Tensor
    ids: Tensor


class VQVAE(nn.Module):
    """Encoder, quantizer, decoder.

    Continuous images go in and out as they are; label maps go in as class embeddings and out as logits.

    Args:
        modality: the raw modality, a grid of pixels.
        config: networks and codebook.

    Raises:
        ConfigError: if the modality is not an image, or its size is not a multiple of the patch size.
    """

    def __init__(self, modality: Modality, config: VQVAEConfig) -> None:
        super().__init__()
        self.modality = modality
        self.config = config
        self.grid = token_grid(modality, config.patch_size)
        self.is_labels = modality.is_discrete
        channels = _channels(modality)
        self.class_embedding = nn.Embedding(channels, config.class_dim) if self.is_labels else None
        self.encoder = _network(config.encoder, "Encoder", config.class_dim if self.is_labels else channels, self.grid)
        self.quantizer = _implementation(config.quantizer.target)(config.quantizer)
        self.quant_proj = nn.Conv2d(self.encoder.out_dim, self.quantizer.dim, 1)
        self.decoder = _network(config.decoder, "Decoder", channels, self.grid)
        self.post_quant_proj = nn.Conv2d(self.quantizer.dim, self.decoder.in_dim, 1)

    @property
    def vocab_size(self) -> int:
        return int(self.quantizer.vocab_size)

    @property
    def codebook(self) -> Tensor | None:
        """(V, d) codes."""
        return self.quantizer.codebook

    @property
    def hash(self) -> str:
        """sha256 of config and weights: equal hashes give equal tokens."""
        return saved.weights_hash(KIND, self.modality, to_dict(self.config), self.state_dict())

    def forward(self, image: Tensor) -> Reconstruction:
        """Encode, quantize and decode (B, C, H, W) normalised values or (B, H, W) labels."""
        quantized: Quantized = self.quantizer(self._latents(image))
        return Reconstruction(self._decode_vectors(quantized.vectors), quantized.commitment, quantized.ids)

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Token ids (B, h, w) int64 of (B, C, H, W) normalised values or (B, H, W) labels."""
        return self.quantizer.assign(self._latents(image))

    @torch.no_grad()
    def decode(self, ids: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        """The image of token ids.

        Args:
            ids: (B, h, w) int64.
            seeds: (B,); unused, since this decoder draws nothing.
            raw: return what the network puts out.

        Returns:
            Natural units: colours in [0, 1], metres or unit normals (B, C, H, W), labels (B, H, W) int64. Raw:
            (B, C, H, W) normalised values or logits.
        """
        return self.decode_embeddings(self.quantizer.lookup(ids), raw=raw)

    @torch.no_grad()
    def decode_embeddings(self, vectors: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        """Like `decode`, from (B, h, w, d) codes or mixtures of codes."""
        output = self._decode_vectors(vectors).float()
        if raw:
            return output
        return output.argmax(1) if self.is_labels else to_natural(output, self.modality)

    def save(self, folder: str | Path) -> str:
        """Write config and weights; returns the hash."""
        return saved.write(Path(folder), KIND, self.modality, to_dict(self.config), self.state_dict())

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu") -> VQVAE:
        """Read a saved tokenizer, ready for inference.

        Raises:
            CheckpointError: if files are missing, damaged or do not belong together.
        """
        folder = Path(folder)
        facts = saved.read_facts(folder)
        config = build(VQVAEConfig, facts["config"], where=str(folder / saved.CONFIG_FILE))
        with torch.device("meta"):
            model = cls(saved.read_modality(folder), config)
        try:
            model.load_state_dict(saved.read_weights(folder, str(device)), assign=True)
        except RuntimeError as error:
            raise CheckpointError(f"{folder}: the weights do not fit the config: {error}") from None
        if model.hash != facts["hash"]:
            raise CheckpointError(
                f"{folder}: {saved.WEIGHTS_FILE} and {saved.CONFIG_FILE} do not belong together (hash "
                f"{model.hash[:12]} is not {str(facts['hash'])[:12]}): copy or save the tokenizer again"
            )
        return model.requires_grad_(False).eval()

    def _latents(self, image: Tensor) -> Tensor:
        """(B, h, w, d) before quantization."""
        if self.class_embedding is not None:
            image = _embed_labels(image, self.class_embedding)
        return self.quant_proj(self.encoder(image)).permute(0, 2, 3, 1)

    def _decode_vectors(self, vectors: Tensor) -> Tensor:
        return self.decoder(self.post_quant_proj(vectors.permute(0, 3, 1, 2)))


def token_grid(modality: Modality, patch_size: int) -> Grid:
    """The grid of tokens that cover an image modality.

    Raises:
        ConfigError: if the modality is not an image, or its size is not a multiple of the patch size.
    """
    height, width = modality.grid.image_size
    if height % patch_size or width % patch_size:
        raise ConfigError(
            f"modality '{modality.name}' has {height} x {width} pixels, not a multiple of the tokenizer's "
            f"patch size {patch_size}"
        )
    return Grid(height // patch_size, width // patch_size, patch_size)


def _channels(modality: Modality) -> int:
    """Channels of the decoded image: classes of a label map, colours or features otherwise."""
    if modality.is_discrete:
        return modality.vocab_size
    if modality.channels is None:
        raise ConfigError(f"modality '{modality.name}' needs `channels` to be tokenized as an image")
    return modality.channels


def _embed_labels(labels: Tensor, embedding: nn.Embedding) -> Tensor:
    """(B, H, W) -> (B, class_dim, H, W); a label outside the classes (void) becomes zero."""
    known = (labels >= 0) & (labels < embedding.num_embeddings)
    embedded = embedding(torch.where(known, labels, 0)) * known[..., None]
    return embedded.permute(0, 3, 1, 2)


def _network(config: Any, part: str, channels: int, grid: Grid) -> Any:
    return getattr(importlib.import_module(config.target), part)(config, channels, grid)


def _implementation(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
