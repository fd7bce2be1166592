"""A vector-quantized autoencoder (van den Oord et al. 2017) with a direct decoder, as 4M's (Mizrahi et al. 2023)."""

from __future__ import annotations

from torch import Tensor, nn

from fourm.modality import Modality
from fourm.tokenizers.autoencoder import Autoencoder, Reconstruction, network
from fourm.tokenizers.configs import VQVAEConfig


class VQVAE(Autoencoder):
    """Encoder, quantizer, decoder. Label maps come out as logits.

    Args:
        modality: the raw modality, a grid of pixels or of vectors.
        config: networks and codebook.

    Raises:
        ConfigError: if the modality is not an image, or its size is not a multiple of the patch size.
    """

    kind = "vqvae"
    config_class = VQVAEConfig

    def __init__(self, modality: Modality, config: VQVAEConfig) -> None:
        super().__init__(modality, config)
        self.decoder = network(config.decoder, "Decoder", self.channels, self.latent_grid)
        self.post_quant_proj = nn.Conv2d(self.quantizer.dim, self.decoder.in_dim, 1)

    def forward(self, image: Tensor, seeds: Tensor | None = None) -> Reconstruction:
        """Encode, quantize and decode (B, C, H, W) normalised values or (B, H, W) labels; only a quantizer may draw."""
        quantized = self._quantize(image, seeds)
        return Reconstruction(self._generate(quantized.vectors), quantized.commitment, quantized.ids)

    def _generate(self, vectors: Tensor, seeds: Tensor | None = None) -> Tensor:
        features = self.post_quant_proj(vectors.permute(0, 3, 1, 2))
        return self.decoder(features.to(self._decoder_weight.dtype))
