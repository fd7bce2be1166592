"""Frozen networks of timm, with weights from the Hub, from a file, or drawn from a fixed seed; and weight files."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fourm.errors import CheckpointError, ConfigError, FourmError

T = TypeVar("T")
_RANDOM_SEED = 0
"""Of networks without weights, which are the same in every process and job."""


def timm_model(
    name: str, *, key: str, pretrained: bool = True, weights: Path | None = None, **options: Any
) -> nn.Module:
    """A network of timm in inference mode, without gradients for its weights.

    Args:
        name: as timm knows it, for instance `vit_base_patch14_dinov2.lvd142m`, or `hf-hub:ORGANISATION/REPOSITORY`.
        key: place in the recipe, for errors.
        pretrained: False draws random weights, for tests.
        weights: file to read instead of the Hub.
        options: of the network.

    Raises:
        ConfigError: if timm has no such network, or it does not know the options.
        CheckpointError: if the weights cannot be had.
    """
    import timm

    if not name.startswith(("hf-hub:", "hf_hub:")) and not timm.is_model(name):
        close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"{key}.name is '{name}', which timm does not have (timm.list_models() lists all).{hint}")
    check_file(weights, f"{key}.weights")
    overlay = {"file": str(weights), "hf_hub_id": None, "url": ""} if weights is not None else None

    def build() -> nn.Module:
        try:
            return timm.create_model(
                name, pretrained=pretrained or weights is not None, pretrained_cfg_overlay=overlay, **options
            )
        except TypeError as error:
            raise ConfigError(f"{key}.name is '{name}', which cannot be used here: {error}") from error

    return frozen(build, f"{key} '{name}'", f"{key}.weights to a file with the weights of {name}")


def frozen(build: Callable[[], Any], what: str, remedy: str) -> Any:
    """A network in inference mode, its weights without gradients; random ones are drawn from a fixed seed.

    Args:
        build, what, remedy: see `fetched`.

    Raises:
        CheckpointError: if it cannot be made.
    """
    return fetched(build, what, remedy).requires_grad_(False).eval()


def fetched(build: Callable[[], T], what: str, remedy: str) -> T:
    """What comes with the weights of a published model, or these themselves.

    Args:
        build: makes it, downloading what it needs.
        what: name of it, for errors.
        remedy: what to set so that nothing is downloaded.

    Raises:
        CheckpointError: if it cannot be made.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_RANDOM_SEED)
            return build()
    except FourmError:
        raise
    except Exception as error:  # downloads, files and state dicts fail in many ways
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{what}: its weights cannot be loaded: {reason}. Run once with access to the internet, or set {remedy}"
        ) from error


def check_file(path: Path | None, key: str) -> None:
    """Whether a path that is given leads somewhere.

    Raises:
        CheckpointError: if not.
    """
    if path is not None and not Path(path).exists():
        raise CheckpointError(f"{key} is '{path}', which does not exist; correct the path")


def read_tensors(path: Path, key: str) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or torch file, of which nothing else is loaded.

    Raises:
        CheckpointError: if it is missing, damaged, or holds something else.
    """
    check_file(path, key)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise anything
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{key}: {path} cannot be read as weights: {reason}. Download it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{key}: {path} holds no table of tensors; expected a state dict")
    return state
