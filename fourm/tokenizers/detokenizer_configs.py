"""VL-GPT's image tokenizer and detokenizer, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fourm.errors import ConfigError
from fourm.nn.vision_configs import RESAMPLERS, ResamplerConfig, VisionConfig
from fourm.tokenizers.saved import CONFIG_FILE, read_facts
from fourm.tokenizers.visual_decoder_configs import ConditionConfig, VisualDecoderConfig


@dataclass(frozen=True)
class DetokenizerConfig:
    """Continuous tokens of an image, and a transformer that estimates of them what a visual decoder is to be told
    (VL-GPT, Zhu et al. 2023, sec. 3.1).

    The paper leaves open how the estimates come about, and their shapes. Here learned queries, as many as the visual
    decoder has vectors of all its conditions, attend to the tokens in one transformer, and each condition has a linear
    layer of its own. At paper scale the conditions are 77 vectors of 768 numbers of the text and 16 of the image.

    Args:
        tokens: the tokenizer, a tower and a causal resampler: `encoder` of kind vision, `num_tokens` and `dim`.
        freeze_encoder: the tokenizer stays as it is.
        freeze_tower: of the tokenizer, the tower stays as it is.
        decoder: the transformer.
        painter: the visual decoder, which is never trained; its conditions are what is estimated.
        painter_from: folder of the visual decoder; its config and weights are taken. None: random weights.
    """

    target: ClassVar[str] = "fourm.tokenizers.detokenizer:Detokenizer"
    teacher: ClassVar[None] = None

    tokens: ConditionConfig
    painter: VisualDecoderConfig
    painter_from: Path | None = None
    freeze_encoder: bool = False
    freeze_tower: bool = True
    decoder: ResamplerConfig = field(default_factory=lambda: ResamplerConfig(**RESAMPLERS["vl_gpt"], causal=False))

    def __post_init__(self) -> None:
        if not isinstance(self.tokens.encoder, VisionConfig):
            raise ConfigError(
                "tokens are made by a tower and a resampler: expected tokens.encoder.kind vision, with "
                "tokens.num_tokens and tokens.dim"
            )

    @staticmethod
    def expand(values: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in the painter of `painter_from`, if it is there already; a saved config has it."""
        own = dict(values)
        path = Path(str(own["painter_from"])) if own.get("painter_from") else None
        if path is None or own.get("painter") is not None:
            return own
        folder = path / "model" if (path / "model" / CONFIG_FILE).is_file() else path
        facts = read_facts(folder)
        if facts["kind"] != "visual_decoder":
            raise ConfigError(f"painter_from {path} holds a tokenizer of kind {facts['kind']}; expected visual_decoder")
        return {**own, "painter": facts["config"]}

    @property
    def stride(self) -> int:
        """Image sides have to be multiples of this."""
        return self.painter.stride
