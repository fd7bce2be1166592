"""What generation needs beside the model: the tokenizers that turn its ids into images and text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from fourm.errors import ConfigError, did_you_mean
from fourm.machine import choose_device
from fourm.modality import Modality
from fourm.models.multimodal import Multimodal
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.published_text import TEXT_TOKENIZER_REMEDY

_FIRST = 256
"""Numbers of a weight that tell it from another: training changes all, and a hash of all takes long."""


class Bundle(Protocol):
    """A model and its tokenizers.

    Attributes:
        model: the model.
        tokenizers: token modality -> tokenizer; for a sequence, that of the codes within its text (`generate.codes`).
        text: the text tokenizer; None for a model without text.
        others: name -> further model that steps of a plan may name, with its tokenizers.
        place: where it was found.
    """

    @property
    def model(self) -> Multimodal: ...

    @property
    def tokenizers(self) -> Mapping[str, Any]: ...

    @property
    def text(self) -> Any: ...

    @property
    def others(self) -> Mapping[str, Bundle]: ...

    @property
    def place(self) -> str: ...


_Bundle = TypeVar("_Bundle", bound=Bundle)


def home(bundle: Bundle, model: str | None) -> Bundle:
    """The bundle that makes a step: a further one by its name, or the one that is asked.

    Raises:
        ConfigError: if there is no such model.
    """
    if model is None:
        return bundle
    if model not in bundle.others:
        raise ConfigError(f"there is no model '{model}'.{did_you_mean(model, bundle.others)}")
    return bundle.others[model]


def with_painter(bundle: _Bundle, painter: Path) -> _Bundle:
    """The same model with a saved visual decoder that paints its vectors.

    Raises:
        ConfigError: if the model has no images of vectors.
        CheckpointError: if the decoder cannot be read.
    """
    names = [m.name for m in bundle.model.modalities.values() if m.is_slots]
    if not names:
        raise ConfigError(f"a painter is given ({painter}), but the model has no images of vectors: leave it out")
    own: Any = bundle
    changed: _Bundle = replace(own, tokenizers={**bundle.tokenizers, names[0]: load_tokenizer(painter)})
    return changed


def raw_modality(bundle: Bundle, modality: Modality) -> Modality:
    """What a modality of the model shows: that of its tokenizer if there is one, else itself.

    The tokenizer of a sequence is that of codes within its text, which is what it shows.
    """
    tokenizer = bundle.tokenizers.get(modality.name) if modality.is_grid else None
    return modality if tokenizer is None else tokenizer.modality


def text_tokenizer(bundle: Bundle, modality: Modality) -> Any:
    """The text tokenizer.

    Raises:
        ConfigError: if the model came without one.
    """
    if bundle.text is None:
        raise ConfigError(
            f"'{modality.name}' is text, but this model came without a text tokenizer. A model trained here is to be "
            f"exported again with `tokenizers: {{text: ...}}` in its recipe; {TEXT_TOKENIZER_REMEDY}"
        )
    return bundle.text


def identity(bundle: Bundle) -> str:
    """What tells a model from others: a hash of the name, shape and first numbers of each of its weights."""
    found = hashlib.sha256()
    for name, tensor in bundle.model.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.flatten()[:_FIRST].float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def device_of(module: Any) -> torch.device:
    """Where a tokenizer or model computes."""
    parameter = next(module.parameters(), None) if hasattr(module, "parameters") else None
    return torch.device("cpu") if parameter is None else parameter.device


def move(bundle: Bundle, device: torch.device) -> None:
    """Bring a bundle's models and tokenizers to a device."""
    for network in (bundle.model, *bundle.tokenizers.values()):
        if hasattr(network, "to"):
            network.to(device)
    for other in bundle.others.values():
        move(other, device)


def set_decoding(bundle: Bundle, targets: Mapping[str, str | None], *, sampling: Mapping[str, Any], bf16: bool) -> None:
    """Change how the tokenizers of some targets turn ids into images, from now on.

    Args:
        bundle: model and tokenizers.
        targets: what will be decoded -> the further model that makes it, if one does.
        sampling: keys of `SamplingConfig` for those that decode by diffusion.
        bf16: decode in bfloat16.

    Raises:
        ConfigError: if none of them decodes by diffusion, or not with these settings.
    """
    own = [home(bundle, model).tokenizers.get(name) for name, model in targets.items()]
    tokenizers = [tokenizer for tokenizer in own if tokenizer is not None]
    diffusing = [tokenizer for tokenizer in tokenizers if hasattr(tokenizer, "sampling")]
    if sampling and not diffusing:
        raise ConfigError(
            f"{', '.join(sampling)} can only be set for tokenizers that decode by diffusion, which none of "
            f"{', '.join(targets)} has; leave it out"
        )
    for tokenizer in diffusing if sampling else ():
        tokenizer.use_sampling(**sampling)
    for tokenizer in tokenizers if bf16 else ():
        if hasattr(tokenizer, "for_decoding"):
            tokenizer.for_decoding(precision="bf16")


def get_ready(
    bundle: Bundle,
    targets: Mapping[str, str | None],
    device: str,
    *,
    bf16: bool = False,
    decoder_steps: int | None = None,
    decoder_scheduler: str | None = None,
    local_rank: int = 0,
) -> torch.device:
    """Bring a bundle to its device and set how it decodes.

    Args:
        bundle: model and tokenizers.
        targets: see `set_decoding`.
        device: auto, cuda, mps or cpu.
        bf16: decode in bfloat16.
        decoder_steps, decoder_scheduler: of those that decode by diffusion; None: as each was saved.
        local_rank: which of several GPUs.

    Returns:
        the device.
    """
    sampling = {"num_steps": decoder_steps, "scheduler": decoder_scheduler}
    sampling = {key: value for key, value in sampling.items() if value is not None}
    set_decoding(bundle, targets, sampling=sampling, bf16=bf16)
    chosen = choose_device(device, local_rank)
    move(bundle, chosen)
    return chosen
