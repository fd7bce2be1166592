"""Configuration and presets of the models, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fourm.config import fill_preset, slot, slots
from fourm.errors import ConfigError
from fourm.models.presets import PRESETS
from fourm.nn.configs import Activation, Backend, Norm, TrunkConfig
from fourm.ranges import check_range
from fourm.registry import Registry

ContextKind = Literal["full", "ordered"]

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"dim": 384, "encoder_depth": 6, "decoder_depth": 6, "num_heads": 6},
    "small": {"dim": 512, "encoder_depth": 8, "decoder_depth": 8, "num_heads": 8},
    "base": {"dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12},
    "large": {"dim": 1024, "encoder_depth": 24, "decoder_depth": 24, "num_heads": 16},
    "xlarge": {"dim": 2048, "encoder_depth": 24, "decoder_depth": 24, "num_heads": 32},
}
_NO_BIAS = {"qkv_bias": False, "proj_bias": False, "mlp_bias": False, "norm_bias": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "swiglu_nobias": {"activation": "swiglu", **_NO_BIAS},
    "swiglu_qknorm_nobias": {"activation": "swiglu", "qk_norm": True, **_NO_BIAS},
    "gelu": {"activation": "gelu", "qkv_bias": True, "proj_bias": True, "mlp_bias": True, "norm_bias": True},
}
NAMED: dict[str, dict[str, Any]] = {
    **{size: {**SIZES[size], **VARIANTS["swiglu_nobias"]} for size in SIZES},
    **{f"{size}_{variant}": {**SIZES[size], **VARIANTS[variant]} for size in SIZES for variant in VARIANTS},
    **PRESETS,
}
"""What `preset` may name: a size, with a variant or without, or a published model."""


@dataclass
class LinearHeadConfig:
    """Vectors predicted by one linear layer.

    Args:
        bias: whether it has one.
    """

    target: ClassVar[str] = "fourm.models.heads:LinearHead"

    bias: bool = True


@dataclass
class MlpHeadConfig:
    """Vectors predicted by a stack of MLPs, token by token (AIM, El-Nouby et al. 2024, sec. 3.2).

    Args:
        dim, depth, mlp_ratio: sizes.
        norm_eps: of its layer norms.
        residual_norm: each block adds the normalised features before its MLP, as the published training does.
    """

    target: ClassVar[str] = "fourm.models.heads:MlpHead"

    dim: int = 2048
    depth: int = 12
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-5
    residual_norm: bool = True

    def __post_init__(self) -> None:
        check_range(self, "dim", "depth", least=1)
        check_range(self, "mlp_ratio", "norm_eps", above=0)
        if self.dim % 4:
            raise ConfigError(f"dim is {self.dim}; two-dimensional sine-cosine positions need a multiple of 4")


VECTOR_HEADS = Registry(
    "vector_head",
    {"linear": "fourm.models.configs:LinearHeadConfig", "mlp": "fourm.models.configs:MlpHeadConfig"},
)
"""A config's `target(modality, dim, config)` maps (n, dim) hidden states and (n,) positions to (n, content.dim)."""


MODELS = Registry(
    "model",
    {
        "multimodal": "fourm.models.configs:MultimodalConfig",
        "contrastive": "fourm.models.contrastive_configs:ContrastiveConfig",
    },
)
"""A config's `target(modalities, config, seed)` is a module that an objective can score, and keeps both as
attributes."""


FEEDERS = Registry(
    "feeder",
    {
        "multimodal": "fourm.models.configs:MultimodalConfig",
        "vision": "fourm.models.vision_configs:VisionFeederConfig",
    },
)
"""A config's `feeder(modality, config, dim)` makes tokens of a model of width dim: of patches (`fourm.models.feeders`),
or, where `reads_slots`, of whole images (`fourm.models.vision`)."""


@dataclass
class MultimodalConfig:
    """An encoder-decoder over any set of modalities (4M, Mizrahi et al. 2023, sec. 3), or a decoder alone.

    Without an encoder (`encoder_depth: 0`) the decoder reads and predicts one table, as language models do (LVM, Bai et
    al. 2023; AIM, El-Nouby et al. 2024).

    `preset: base` (tiny, small, base, large, xlarge), optionally with `_gelu`, `_swiglu_nobias` (the default) or
    `_swiglu_qknorm_nobias` appended, fills the sizes and options of the published models; other keys override it. So do
    those of `fourm.models.presets`, such as `aim_600m` and `lvm_7b`.

    Args:
        dim, encoder_depth, decoder_depth, num_heads: sizes.
        num_kv_heads, head_dim, mlp_ratio, mlp_hidden_dim, activation, rope_theta, norm, norm_eps, qk_norm and the
            biases: see `TrunkConfig`.
        num_register_tokens: learned tokens the encoder sees beside its inputs (Darcet et al. 2024).
        patch_bias, patch_norm: whether the projection of patches has a bias, and is normalised before their positions
            are added (AIM).
        drop_path: stochastic depth of both trunks.
        activation_checkpointing: recompute activations in the backward pass.
        tie_heads: sequence heads share their weights with the decoder's token embeddings; without an encoder, all heads
            with all token embeddings.
        share_modality_embeddings: encoder and decoder use the same modality embeddings.
        position_tables: tokens carry embeddings of their position in their modality. Language models with `rope_theta`
            have none.
        modality_embeddings: tokens carry an embedding of their modality.
        code_dim: without an encoder, ids are embedded by their tokenizer's codes of so many numbers, which stay as they
            are, and one learned matrix (DeLVM); None: each id has a learned row.
        vector_head: how continuous modalities are predicted whose direction is not `input`; None: they are not.
        feeders: modality of pixels -> what reads it first, and whose outputs are its tokens, without embeddings of
            ours: `kind: multimodal` with `encoder_depth: 0`, a trunk over its patches (AIMv2, Fini et al. 2024); of a
            modality with slots, `kind: vision`, a tower and a pooler (Emu, VL-GPT, VILA).
        init_std: standard deviation of new linear layers (LLaMA: .02); None: Xavier-uniform.
        head_std: the same of heads that are not tied to embeddings.
        embedding_std: standard deviation of new embeddings. .02 as published; about .4, near the amplitude of the
            position table, learns far sooner in short runs.
        codebook_init: start token embeddings and heads from the tokenizers' codebooks, mapped by a random matrix.
        context: who sees whom in the encoder. `full`: all that is given sees all. `ordered`: modality after modality,
            and of a generated grid the tokens of one step after those of another; tokens see their own block and those
            before it. What is encoded then stays so while more is generated.
        backend: attention kernel.
    """

    target: ClassVar[str] = "fourm.models.multimodal:Multimodal"
    feeder: ClassVar[str] = "fourm.models.feeders:Feeder"
    reads_slots: ClassVar[bool] = False

    dim: int
    encoder_depth: int
    decoder_depth: int
    num_heads: int
    num_kv_heads: int | None = None
    mlp_ratio: float = 4.0
    mlp_hidden_dim: int | None = None
    activation: Activation = "swiglu"
    rope_theta: float | None = None
    qkv_bias: bool = False
    proj_bias: bool = False
    mlp_bias: bool = False
    norm: Norm = "layernorm"
    norm_bias: bool = False
    norm_eps: float = 1e-6
    qk_norm: bool = False
    patch_bias: bool = False
    patch_norm: bool = False
    num_register_tokens: int = 0
    drop_path: float = 0.0
    activation_checkpointing: bool = False
    tie_heads: bool = True
    share_modality_embeddings: bool = False
    position_tables: bool = True
    modality_embeddings: bool = True
    code_dim: int | None = None
    vector_head: Any = slot(VECTOR_HEADS, optional=True)
    feeders: dict[str, Any] = slots(FEEDERS)
    embedding_std: float = 0.02
    init_std: float | None = None
    head_std: float | None = None
    codebook_init: bool = False
    context: ContextKind = "full"
    backend: Backend = "auto"
    head_dim: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "dim", "decoder_depth", "num_heads", least=1)
        check_range(self, "encoder_depth", "num_register_tokens", least=0)
        check_range(self, "code_dim", least=1)
        check_range(self, "embedding_std", "init_std", "head_std", above=0)
        self.trunk(self.encoder_depth, cross_attention=False)
        if not self.encoder_depth and (self.num_register_tokens or self.context != "full"):
            raise ConfigError(
                "num_register_tokens and context are options of the encoder, and with encoder_depth 0 there is none: "
                "leave them out"
            )
        if self.code_dim is not None and (self.encoder_depth or self.tie_heads or self.codebook_init):
            raise ConfigError(
                "code_dim embeds ids by frozen codes: it goes with encoder_depth 0 and tie_heads false, and without "
                "codebook_init"
            )
        if self.dim % 4 and self.position_tables:
            raise ConfigError(f"dim is {self.dim}; two-dimensional sine-cosine positions need a multiple of 4")

    @staticmethod
    def expand(values: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in `preset`."""
        return fill_preset(values, NAMED)

    @property
    def reading_depth(self) -> int:
        """Blocks of the trunk that reads the inputs: the encoder, or the decoder of a model without one."""
        return self.encoder_depth or self.decoder_depth

    def trunk(self, depth: int, *, cross_attention: bool) -> TrunkConfig:
        """The config of the encoder (no cross-attention) or decoder trunk."""
        return TrunkConfig(
            dim=self.dim,
            depth=depth,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            mlp_ratio=self.mlp_ratio,
            mlp_hidden_dim=self.mlp_hidden_dim,
            activation=self.activation,
            rope_theta=self.rope_theta,
            qkv_bias=self.qkv_bias,
            proj_bias=self.proj_bias,
            mlp_bias=self.mlp_bias,
            norm=self.norm,
            norm_bias=self.norm_bias,
            norm_eps=self.norm_eps,
            qk_norm=self.qk_norm,
            cross_attention=cross_attention,
            drop_path=self.drop_path,
            activation_checkpointing=self.activation_checkpointing,
            backend=self.backend,
        )
