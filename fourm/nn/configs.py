"""Configuration of the network parts, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from fourm.config import fill_preset
from fourm.errors import ConfigError
from fourm.ranges import check_range, check_widths

Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "swiglu"]
Backend = Literal["auto", "math", "sdpa", "flex", "runs", "packed"]
Norm = Literal["layernorm", "rmsnorm"]


@dataclass
class TrunkConfig:
    """A stack of transformer blocks.

    Args:
        dim: width.
        depth: number of blocks.
        num_heads: attention heads.
        num_kv_heads: heads of keys and values (grouped-query attention); None: as many as `num_heads`.
        head_dim: channels of a head; None: dim / num_heads.
        mlp_ratio: hidden width of the MLP over `dim`; gated MLPs take two thirds of it (4M, sec. A.1).
        mlp_hidden_dim: hidden width of the MLP itself; None: by `mlp_ratio`.
        activation: of the MLP; `swiglu` is gated.
        rope_theta: base of rotary position embeddings in self-attention, by place in the row (Su et al. 2021); channel
            i of a head turns with channel i + head_dim / 2. 10000 in LLaMA; None: none.
        qkv_bias, proj_bias, mlp_bias, norm_bias: which layers have biases.
        norm: kind of normalisation.
        norm_eps: its epsilon.
        qk_norm: normalise queries and keys per head.
        cross_attention: blocks also attend to a context.
        context_dim: width of the context; None: `dim`.
        context_norm: every block normalises the context before it attends to it.
        relative_buckets: learned biases of self-attention by how far back a token lies, so many of them for each head,
            which all blocks share: half of them for single steps, the others for stretches that grow (T5, Raffel et
            al. 2020, sec. 2.1, as in its decoder); None: none.
        relative_distance: from this far on, all tokens share the last bucket.
        drop_path: stochastic depth; grows linearly over the blocks up to this rate.
        activation_checkpointing: recompute activations in the backward pass.
        backend: attention kernel; `auto` takes plain matrix products on CPU, `scaled_dot_product_attention` elsewhere.
            `runs` leaves padding out of every product and attends within each run of tokens that see one another; on
            CPU, `auto` does so with tables of 256 tokens and more. Where the runs are not known it is `auto`. `packed`
            leaves it out too, with one FlexAttention over the tokens of all rows; with CUDA, `auto` does so in training
            where there is padding enough. Where the number of tokens is not known it is `auto`. On CPU it is for tests:
            one dense attention over all rows, whose memory grows with the square of their tokens.
    """

    dim: int
    depth: int
    num_heads: int
    num_kv_heads: int | None = None
    mlp_ratio: float = 4.0
    mlp_hidden_dim: int | None = None
    activation: Activation = "gelu"
    rope_theta: float | None = None
    qkv_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    norm: Norm = "layernorm"
    norm_bias: bool = True
    norm_eps: float = 1e-6
    qk_norm: bool = False
    cross_attention: bool = False
    context_dim: int | None = None
    context_norm: bool = True
    relative_buckets: int | None = None
    relative_distance: int = 128
    drop_path: float = 0.0
    activation_checkpointing: bool = False
    backend: Backend = "auto"
    head_dim: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "dim", "num_heads", "num_kv_heads", "head_dim", "context_dim", least=1)
        check_range(self, "relative_buckets", least=2)
        check_range(self, "relative_distance", least=(self.relative_buckets or 2))
        check_range(self, "depth", least=0)
        check_range(self, "mlp_ratio", "norm_eps", "rope_theta", above=0)
        check_range(self, "mlp_hidden_dim", "mlp_dim", least=1)
        check_range(self, "drop_path", least=0, below=1)
        if self.head_dim is None and self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} is not a multiple of num_heads {self.num_heads}")
        if self.rope_theta is not None and self.head_width % 2:
            raise ConfigError(
                f"rope_theta turns pairs of channels, but a head has {self.head_width}: choose an even number"
            )
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ConfigError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")

    @property
    def head_width(self) -> int:
        """Channels of a head: `dim / num_heads` when not given."""
        return self.head_dim or self.dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """Hidden width of the MLP: `int(2/3 * ratio * dim)` when gated and not given."""
        if self.mlp_hidden_dim is not None:
            return self.mlp_hidden_dim
        full = self.mlp_ratio * self.dim
        return int(2 * full / 3) if self.activation == "swiglu" else int(full)


@dataclass(frozen=True)
class NoiseConfig:
    """The noise process of a diffusion model (Ho et al. 2020).

    Args:
        num_timesteps: length of the process.
        schedule: `linear` in beta, `scaled_linear` in its root; `cosine` (Nichol and Dhariwal 2021); `shifted_cosine`
            moves the log signal-to-noise ratio of a cosine by 2 log(shift) (Hoogeboom et al. 2023, simple diffusion).
        shift: of `shifted_cosine`; below 1 is more noise.
        prediction: what the network puts out: the noise (`epsilon`), the clean image (`sample`), or `v`
            (Salimans and Ho 2022).
        zero_terminal_snr: the last timestep is pure noise (Lin et al. 2023).
        betas: first and last beta of `linear` and `scaled_linear`.
    """

    num_timesteps: int = 1000
    schedule: Literal["linear", "scaled_linear", "cosine", "shifted_cosine"] = "linear"
    shift: float = 1.0
    prediction: Literal["epsilon", "sample", "v"] = "sample"
    zero_terminal_snr: bool = False
    betas: tuple[float, float] = (1e-4, 2e-2)

    def __post_init__(self) -> None:
        check_range(self, "num_timesteps", least=2)
        if self.shift <= 0 or (self.shift != 1.0 and self.schedule != "shifted_cosine"):
            raise ConfigError(
                f"shift is {self.shift} with schedule {self.schedule}; it is a number above 0 that only shifted_cosine "
                "takes"
            )
        if not 0 < self.betas[0] <= self.betas[1] < 1:
            raise ConfigError(f"betas is {list(self.betas)}; expected two numbers between 0 and 1, the smaller first")
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ConfigError(
                "zero_terminal_snr does not go with prediction epsilon: from pure noise, the noise says nothing about "
                "the image. Use prediction v or sample"
            )


@dataclass(frozen=True)
class SamplingConfig:
    """How a diffusion model is run backwards.

    Args:
        scheduler: `ddim` (Song et al. 2021), `dpm` (DPM-Solver++, Lu et al. 2022), `unipc` (Zhao et al. 2023), `pndm`
            (Liu et al. 2022; Emu) or `euler` (Karras et al. 2022; Emu2).
        num_steps: calls of the network.
        spacing: which timesteps: `trailing` ends each stretch of them, `leading` begins it, `linspace` takes both ends.
        guidance: weight of classifier-free guidance (Ho and Salimans 2022); 1 is none.
        clip: keep predictions of the clean image within [-1, 1]; `pndm` and `euler` cannot.
    """

    scheduler: Literal["ddim", "dpm", "unipc", "pndm", "euler"] = "ddim"
    num_steps: int = 25
    spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    guidance: float = 1.0
    clip: bool = True

    def __post_init__(self) -> None:
        check_range(self, "num_steps", least=1)
        if self.clip and self.scheduler in ("pndm", "euler"):
            raise ConfigError(f"scheduler {self.scheduler} clips nothing: set clip to false, or use ddim, dpm or unipc")


def check_sampling(noise: NoiseConfig, sampling: SamplingConfig) -> None:
    """Whether a noise process can be run backwards so.

    Raises:
        ConfigError: if there are more steps than timesteps, or the scheduler does not know the process.
    """
    if sampling.num_steps > noise.num_timesteps:
        raise ConfigError(
            f"sampling.num_steps is {sampling.num_steps}; the process has {noise.num_timesteps} timesteps"
        )
    if noise.zero_terminal_snr and sampling.spacing != "trailing":
        raise ConfigError(
            f"sampling.spacing is {sampling.spacing}, but with zero_terminal_snr sampling has to begin at the last "
            "timestep (Lin et al. 2023): use trailing"
        )
    if sampling.scheduler == "pndm" and (noise.prediction == "sample" or noise.zero_terminal_snr):
        what = "zero_terminal_snr" if noise.zero_terminal_snr else f"prediction {noise.prediction}"
        raise ConfigError(
            f"sampling.scheduler is pndm, which does not go with noise.{what}: use ddim, or a process of prediction "
            "epsilon or v that ends before pure noise"
        )


@dataclass(frozen=True)
class UNetConfig:
    """A U-Net on patches, conditioned on a map of vectors: 4M's image decoder (Mizrahi et al. 2023, sec. A.2).

    Args:
        patch_size: pixels per side that are folded into channels before the network.
        width: channels of the finest level.
        multipliers: channels of each level over `width`, finest first; every level halves the resolution.
        num_blocks: residual blocks per level.
        attention_levels: levels with self-attention, counted from 0, the finest.
        groups: of the group norms.
        dropout: in the residual blocks.
    """

    target: ClassVar[str] = "fourm.nn.unet:UNet"

    patch_size: int = 4
    width: int = 256
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_blocks: int = 3
    attention_levels: tuple[int, ...] = (2, 3)
    groups: int = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_range(self, "patch_size", "width", "multipliers", "num_blocks", "groups", least=1)
        check_range(self, "dropout", least=0, below=1)
        check_widths([m * self.width for m in self.multipliers], self.groups)
        wrong = [level for level in self.attention_levels if not 0 <= level < len(self.multipliers)]
        if wrong:
            raise ConfigError(f"attention_levels {wrong} are not levels; there are {len(self.multipliers)}, from 0")

    @property
    def stride(self) -> int:
        """Image sides have to be multiples of this."""
        return int(self.patch_size * 2 ** (len(self.multipliers) - 1))


UVIT_SIZES: dict[str, dict[str, int]] = {
    "base": {"dim": 768, "depth": 12, "num_heads": 12},
    "large": {"dim": 1024, "depth": 24, "num_heads": 16},
    "huge": {"dim": 1280, "depth": 32, "num_heads": 16},
}


@dataclass(frozen=True)
class UViTConfig:
    """A U-Net with a transformer at its coarsest level (Hoogeboom et al. 2023, simple diffusion).

    `preset: base | large | huge` fills dim, depth and num_heads; other keys override it.

    Args:
        dim, depth, num_heads: of the transformer.
        patch_size: pixels per side that the first convolution folds.
        widths: channels of each convolutional level, finest first; every level after the first halves the resolution.
        num_blocks: residual blocks per level.
        halve_again: halve the resolution once more before the transformer.
        conditioning: `add` the projected condition to the transformer's tokens (published as `concat`), or let them
            attend to it by `cross` attention (published as `xattn`).
        grid_size: tokens per side of the stored position table, which is resized to those of the image.
        mlp_ratio: of the transformer.
        long_skips: the second half of the blocks also reads the outputs of the first, in reverse (Bao et al. 2023).
        dropout: of the transformer's branches.
        groups: of the group norms.
    """

    target: ClassVar[str] = "fourm.nn.uvit:UViT"

    dim: int
    depth: int
    num_heads: int
    patch_size: int = 4
    widths: tuple[int, ...] = (128, 256)
    num_blocks: int = 2
    halve_again: bool = True
    conditioning: Literal["add", "cross"] = "add"
    grid_size: int = 32
    mlp_ratio: float = 4.0
    long_skips: bool = False
    dropout: float = 0.0
    groups: int = 32

    def __post_init__(self) -> None:
        check_range(self, "dim", "num_heads", "patch_size", "widths", "grid_size", "groups", least=1)
        check_range(self, "depth", "num_blocks", least=0)
        check_range(self, "mlp_ratio", above=0)
        check_range(self, "dropout", least=0, below=1)
        if self.dim % 4 or self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} must be a multiple of 4 and of num_heads {self.num_heads}")
        check_widths(self.widths, self.groups)
        if self.long_skips and self.depth % 2 == 0:
            raise ConfigError(
                f"depth is {self.depth}; with long_skips it has to be odd, so that one block is the middle"
            )

    @staticmethod
    def expand(values: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in `preset`."""
        return fill_preset(values, UVIT_SIZES)

    @property
    def stride(self) -> int:
        """Image sides have to be multiples of this: the pixels per side of one token."""
        return int(self.patch_size * 2 ** (len(self.widths) - 1 + self.halve_again))


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank changes of linear layers, while their own weights stay (Hu et al. 2022).

    Args:
        rank: of the change.
        alpha: the change counts alpha / rank; None: as much as the rank, so that it counts once.
        match: patterns of the names of the layers within the encoder or model.
        dropout: of what the change reads, in training.
        fused: which of queries, keys and values change in layers that hold all three (`qkv`), each by a change of its
            own: `qv` for AIM (El-Nouby et al. 2024, sec. 5). None: one change of the whole layer.
    """

    rank: int = 8
    alpha: float | None = None
    match: list[str] = field(default_factory=lambda: ["encoder.blocks.*.attn.qkv", "encoder.blocks.*.attn.proj"])
    fused: str | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.fused is not None and (not self.fused or set(self.fused) - set("qkv")):
            raise ConfigError(f"fused is '{self.fused}'; expected letters of q, k and v, such as qv")
        check_range(self, "rank", least=1)
        check_range(self, "alpha", above=0)
        check_range(self, "dropout", least=0, below=1)
