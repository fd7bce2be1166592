"""What labelers with networks have in common: weights, precision, and photographs of any sizes in batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn

from fourm.errors import CheckpointError, DataError, MissingExtraError
from fourm.machine import use_bf16
from fourm.nn.pretrained import check_file, fetched, frozen
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.network_configs import NetworkConfig

Inputs = dict[str, Tensor]
_STATISTICS = ("running_mean", "running_var")


class Network:
    """Photographs to files, in batches. Subclasses build `model`, and answer.

    Only photographs whose inputs have the same shapes are computed together. Nothing is padded, so that the other
    photographs of a batch change the result by rounding alone.

    Args:
        config: which network.
        device: where it computes.
    """

    def __init__(self, config: Any, device: str) -> None:
        self.config = config
        self.device = torch.device(device)

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        inputs = [self.prepare(photo) for photo in photos]
        found: dict[int, bytes] = {}
        with torch.inference_mode(), self._precision():
            for rows in self._batches(inputs):
                names = inputs[rows[0]]
                batch = {name: torch.cat([inputs[row][name] for row in rows]).to(self.device) for name in names}
                found |= zip(rows, self.answer([photos[row] for row in rows], batch), strict=True)
        return [found[row] for row in range(len(photos))]

    def prepare(self, photo: Photo) -> Inputs:
        """The inputs of the network for one photograph: tensors with one row. Here its pixels, from 0 to 1."""
        return {"pixels": torch.tensor(photo.image).permute(2, 0, 1)[None] / 255}

    def answer(self, photos: Sequence[Photo], inputs: Inputs) -> list[bytes]:
        """A file for each photograph of a batch."""
        raise NotImplementedError

    def _batches(self, inputs: Sequence[Inputs]) -> Iterator[list[int]]:
        groups: dict[Any, list[int]] = {}
        for row, tensors in enumerate(inputs):
            groups.setdefault(tuple((name, tensor.shape) for name, tensor in tensors.items()), []).append(row)
        for rows in groups.values():
            for start in range(0, len(rows), self.config.batch_size):
                yield rows[start : start + self.config.batch_size]

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        enabled = use_bf16(self.config.precision, self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


class TransformersNetwork(Network):
    """A network of the transformers library, and what prepares its inputs.

    Args:
        config: which one.
        device: where it computes.

    Raises:
        MissingExtraError: if the library is not installed.
        CheckpointError: if the model cannot be loaded.
    """

    what: ClassVar[str]
    """What it is called in errors."""
    model_class: ClassVar[str]
    processor_class: ClassVar[str] = "AutoImageProcessor"
    safetensors: ClassVar[bool] = True
    """Whether no other files are read; otherwise also torch's, of which only tensors are."""

    def __init__(self, config: NetworkConfig, device: str) -> None:
        super().__init__(config, device)
        model = load_model(config, self.model_class, self.what, self.safetensors)
        self.model = model.to(self.device, self.weights_type())
        self.processor = load_processor(config, self.processor_class, self.what)

    def prepare(self, photo: Photo) -> Inputs:
        found = self.processor(images=[Image.fromarray(photo.image)], return_tensors="pt", **self.options())
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def weights_type(self) -> torch.dtype:
        """What weights are kept in; computing in bfloat16 rounds them anyway, but not the sums between layers."""
        return torch.float32

    def options(self) -> dict[str, Any]:
        """What else the processor is told."""
        return {}

    def compute(self, inputs: Inputs) -> Any:
        """The outputs of the network in single precision."""
        outputs = self.model(**inputs)
        for name, value in outputs.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                outputs[name] = value.float()
        return outputs


def load_model(config: NetworkConfig, model_class: str, what: str, safetensors: bool = True) -> Any:
    """A network of the transformers library in inference mode. Only tensors are read, and no code of the model's.

    Args:
        config: which one.
        model_class: of the library.
        what: it is called in errors.
        safetensors: False reads torch's own files too, where there are no others.

    Raises:
        MissingExtraError: if the library is not installed.
        CheckpointError: if it cannot be loaded, or its weights are not complete.
    """
    library = transformers(what)
    check_file(config.weights, f"`weights` of the {what} '{config.name}'")
    loader = getattr(library, model_class)

    def build() -> Any:
        if not config.pretrained:
            make = getattr(loader, "from_config", None) or loader._from_config  # which classes of one network have
            return make(library.AutoConfig.from_pretrained(**_place(config)))
        files = {"use_safetensors": True} if safetensors else {"use_safetensors": None, "weights_only": True}
        model, info = loader.from_pretrained(**_place(config), **files, output_loading_info=True)
        _check_complete(model, info, f"{what} '{config.name}'")
        return model

    return frozen(build, f"{what} '{config.name}'", remedy())


def load_processor(config: NetworkConfig, processor_class: str, what: str) -> Any:
    """What makes the inputs of a network of photographs, as it was trained.

    Raises:
        CheckpointError: if it cannot be loaded.
    """
    loader = getattr(transformers(what), processor_class)
    return fetched(lambda: loader.from_pretrained(**_place(config)), f"{what} '{config.name}'", remedy())


def transformers(what: str) -> Any:
    """The transformers library, which shows no progress of reading weights, but that of downloads.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", "labelers", f"the {what}") from None
    from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars

    shows_downloads = not are_progress_bars_disabled()
    transformers.utils.logging.disable_progress_bar()  # of downloads too
    if shows_downloads:
        enable_progress_bars()
    return transformers


def remedy() -> str:
    """What to do where weights cannot be had, as the end of a sentence."""
    return "`weights` of this label to a local folder with the model, as `save_pretrained` writes it"


def _place(config: NetworkConfig) -> dict[str, Any]:
    """Where a model lies. Asking for its own code, the library would wait for an answer from the keyboard."""
    return {
        "pretrained_model_name_or_path": str(config.weights or config.name),
        "local_files_only": config.weights is not None,
        "trust_remote_code": False,
    }


def _check_complete(model: nn.Module, info: dict[str, Any], what: str) -> None:
    """See that every weight was read: the library draws the others at random."""
    names: dict[int, set[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, nn.Parameter) or name.endswith(_STATISTICS):  # other buffers are tables, or for training
            names.setdefault(id(value), set()).add(name)
    missing = set(info["missing_keys"])
    # Of tied weights, which are one under several names, files have one.
    lacking = sorted(name for tied in names.values() if tied <= missing for name in tied)
    lacking += [str(entry[0] if isinstance(entry, tuple) else entry) for entry in info["mismatched_keys"]]
    if lacking:
        raise CheckpointError(
            f"{what}: its files lack {len(lacking)} weights, or have them in other shapes, for instance {lacking[0]}: "
            "they are those of another model, or not complete. Download them again, or correct `name`"
        )


def check_finite(values: Tensor, what: str) -> Tensor:
    """See that a network computed numbers.

    Raises:
        DataError: if there is NaN or infinity among them.
    """
    if not torch.isfinite(values).all():
        raise DataError(f"the {what} computed values that are not finite; precision: fp32 may help")
    return values
