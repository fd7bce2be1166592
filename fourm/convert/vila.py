"""VILA (Lin et al. 2024) and LLaVA in its layout: folders `llm`, `vision_tower` and `mm_projector` as one model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fourm.convert import checkpoints, llama
from fourm.convert.llama import TEXT, TOKENIZER_FILE
from fourm.convert.load import Loaded, naming, summary
from fourm.convert.parts import Prefixed, prefixed, tower_config, tower_rules
from fourm.convert.published import CONFIG_FILE, Published, local_folder, open_checkpoint, read_table
from fourm.convert.rules import Rule, read
from fourm.data.document_form import DocumentForm
from fourm.data.interleaved_configs import ChatConfig
from fourm.errors import CheckpointError
from fourm.layouts import Continuous, Slots
from fourm.modality import Modality, ModalitySet
from fourm.models import folder as folders
from fourm.models.multimodal import Multimodal
from fourm.models.vision_configs import VisionFeederConfig
from fourm.nn.init import adopt_weights
from fourm.nn.vision_configs import LinearPoolerConfig, MlpPoolerConfig, ShufflePoolerConfig
from fourm.tokenizers.text import TextTokenizer

PARTS = ("llm", "vision_tower", "mm_projector")
IMAGE = "image"
_FEEDER = f"input_embedder.feeders.{IMAGE}"
_MLP = re.compile(r"mlp(\d+)x_gelu")
_SHUFFLES = {
    "mlp_downsample": ShufflePoolerConfig(2, order="columns"),
    "mlp_downsample_2x2_fix": ShufflePoolerConfig(2),
    "mlp_downsample_3x3_fix": ShufflePoolerConfig(3, squeeze=True),
}

_POLITE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. "
)
_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
CHATS = {
    "<|start_header_id|>": ChatConfig(
        _HEADER.format("system") + "You are a helpful assistant.<|eot_id|>",
        _HEADER.format("user"), f"<|eot_id|>{_HEADER.format('assistant')}", "<|eot_id|>",
    ),
    "<|im_start|>": ChatConfig(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n",
    ),
    "</s>": ChatConfig(_POLITE, "USER: ", " ASSISTANT: ", "</s>"),
}  # fmt: skip
"""Token of a vocabulary -> the turns of models that have it: of Llama 3, of Qwen, of Vicuna."""


def from_vila(source: str | Path, out: Path, *, text_tokenizer: Path | None = None) -> list[str]:
    """Turn a published model into a model folder of fourm.

    Args:
        source: folder with the parts, or a repository on the Hub.
        out: folder of the model.
        text_tokenizer: a `tokenizer.json` to copy along; None: that of `llm`, if it has one.

    Returns:
        what was done, in lines for people.

    Raises:
        CheckpointError: if it cannot be converted; nothing is written then.
    """
    folder = local_folder(source)
    loaded = load_vila(source)
    found = folder / "llm" / TOKENIZER_FILE
    text = text_tokenizer or (found if found.is_file() else None)
    folders.save_model(loaded.network, out, {} if text is None else {TEXT: text}, _form(text))
    return told(loaded, out, text)


def _form(text: Path | None) -> DocumentForm | None:
    """How documents are written around the model, as far as its vocabulary tells; None without one that is known."""
    try:
        words = None if text is None else TextTokenizer.load(text)
    except CheckpointError:
        words = None
    if words is None:
        return None
    names = {words.token(n) for n in range(words.vocab_size)}
    chat = next((chat for token, chat in CHATS.items() if token in names), None)
    start = words.token(words.special.start) if words.special.start != words.special.end else None
    return DocumentForm(start, after_image="\n", chat=chat)


def told(loaded: Loaded, out: Path, text: Path | None) -> list[str]:
    """What was done, in lines for people."""
    model, image = loaded.network, loaded.network.modalities[IMAGE]
    height, width = image.image_size
    lines = [
        *summary(loaded.published, model, out),
        f"reads images of {height} x {width} pixels as {image.num_tokens} tokens, and text of "
        f"{model.modalities[TEXT].vocab_size:,} ids",
    ]
    if loaded.imported.kept:
        lines.append(f"{len(loaded.imported.kept)} tensors are not read, such as {next(iter(loaded.imported.kept))}")
    if text is None:
        lines.append(f"without a text tokenizer: give its {TOKENIZER_FILE} with --text-tokenizer")
    return lines


def load_vila(source: str | Path) -> Loaded:
    """A published model as one of ours, in memory.

    Raises:
        CheckpointError: if a part is missing or of another kind, or weights are missing, left over or of another shape.
    """
    folder = local_folder(source)
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise CheckpointError(
            f"{source} has no folder {missing[0]}; VILA's layout is the folders {', '.join(PARTS)}, each with "
            f"{CONFIG_FILE} and its weights"
        )
    checkpoints.tell_licence(source)
    parts = {part: open_checkpoint(folder / part) for part in PARTS}
    config = read_table(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    published = Published(str(source), config, Prefixed({name: part.tensors for name, part in parts.items()}))
    with naming(published.source):
        with torch.device("meta"):
            model = _model(config, parts)
        found = read(_rules(model, parts), published.tensors, llama.stored(model), keep=True)
        adopt_weights(model, found.state)
    return Loaded(model.eval(), published, found)


def image_modality(size: int, num_tokens: int, dim: int, normalization: Any, *, predicted: bool) -> Modality:
    """Square images of a language model."""
    return Modality(
        IMAGE, Slots(num_tokens, size, size), Continuous(dim), "rgb", "image", channels=3, value_range=(0.0, 1.0),
        direction="both" if predicted else "input", normalization=normalization,
    )  # fmt: skip


def _model(config: Mapping[str, Any], parts: Mapping[str, Published]) -> Multimodal:
    _check_one_scale(config)
    language, seen = parts["llm"].config, parts["vision_tower"].config
    seen = seen.get("vision_config") or seen
    tower = tower_config(
        seen,
        layer=int(config.get("mm_vision_select_layer", -2)),
        class_token=config.get("mm_vision_select_feature") == "cls_patch" and "clip" in str(seen.get("model_type")),
    )
    size = int(seen["image_size"])
    side = size // int(seen["patch_size"])
    pooler, num_tokens = _pooler(parts["mm_projector"].config, side, side * side + tower.class_token)
    own = replace(llama.model_config(language), feeders={IMAGE: VisionFeederConfig(tower, pooler)})
    embedded = parts["llm"].tensors["model.embed_tokens.weight"]
    normalization = "clip" if seen["model_type"] == "clip_vision_model" else "half"
    image = image_modality(size, num_tokens, own.dim, normalization, predicted=False)
    return Multimodal(ModalitySet([llama.text_modality(language, len(embedded)), image]), own)


def _check_one_scale(config: Mapping[str, Any]) -> None:
    """Beside such a tower, vectors are longer than its config says, and of more pixels."""
    asked = next((key for key in ("s2", "dynamic_s2") if config.get(key)), None)
    if asked is not None:
        raise CheckpointError(
            f"{asked} is true in {CONFIG_FILE}: the tower reads an image at several scales (S2), which cannot be "
            "converted. Take a model that reads one, such as VILA1.5-3b"
        )


def _pooler(config: Mapping[str, Any], side: int, num_tokens: int) -> tuple[Any, int]:
    """Our config of a published projector, and the tokens that it makes."""
    kind = str(config.get("mm_projector_type"))
    if kind == "linear":
        return LinearPoolerConfig(), num_tokens
    if match := _MLP.fullmatch(kind):
        return MlpPoolerConfig(int(match[1])), num_tokens
    if kind in _SHUFFLES:
        pooler = _SHUFFLES[kind]
        return pooler, (-(-side // pooler.factor)) ** 2
    raise CheckpointError(
        f"mm_projector_type is {kind}, which cannot be converted; known: linear, mlp2x_gelu, {', '.join(_SHUFFLES)}"
    )


def _rules(model: Multimodal, parts: Mapping[str, Published]) -> list[Rule]:
    """What every published tensor is in ours."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    language, tower = parts["llm"].tensors, parts["vision_tower"].tensors
    return [
        *prefixed([*llama.rules(model), *llama.unread(language)], "llm"),
        *prefixed(tower_rules(f"{_FEEDER}.tower.model", own, tower), "vision_tower"),
        *prefixed(_projector_rules(model, own), "mm_projector"),
    ]


def _projector_rules(model: Multimodal, own: Mapping[str, tuple[int, ...]]) -> list[Rule]:
    """Layers are numbered with what is between them: the shuffling, norms and GELUs."""
    prefix, pooler = f"{_FEEDER}.pooler", model.config.feeders[IMAGE].pooler
    if isinstance(pooler, LinearPoolerConfig):
        named = {"layers": "linear"}
    elif isinstance(pooler, MlpPoolerConfig):
        named = {f"layers.{2 * i}": f"layers.{i}" for i in range(pooler.depth)}
    elif pooler.squeeze:
        named = {
            "layers.1": "norm", "layers.2": "squeeze", "layers.4": "squeeze_norm", "layers.5": "layers.0",
            "layers.7": "layers.1",
        }  # fmt: skip
    else:
        named = {"layers.1": "norm", "layers.2": "layers.0", "layers.4": "layers.1"}
    return [
        Rule(f"{theirs}.{leaf}", own[f"{prefix}.{ours}.{leaf}"], (f"{prefix}.{ours}.{leaf}",))
        for theirs, ours in named.items()
        for leaf in ("weight", "bias")
    ]
