"""Emu (Sun et al. 2023) and Emu2 (Sun et al. 2024): tower, resampler or pooling, and language model as one model.

Their image decoders are tokenizers of their own, and not read here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from fourm.convert import checkpoints, llama
from fourm.convert.load import Loaded, naming
from fourm.convert.parts import Merged, prefixed
from fourm.convert.published import CONFIG_FILE, PICKLED_WEIGHTS, Published, local_folder, open_checkpoint
from fourm.convert.rules import Rule, read
from fourm.convert.vila import IMAGE, image_modality, told
from fourm.data.document_form import DocumentForm
from fourm.data.interleaved_configs import ChatConfig
from fourm.errors import CheckpointError
from fourm.modality import ModalitySet
from fourm.models import folder as folders
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.models.vision_configs import VisionFeederConfig
from fourm.nn.init import adopt_weights
from fourm.nn.vision_configs import RESAMPLERS, AveragePoolerConfig, ResamplerConfig, TimmTowerConfig

Version = Literal["emu", "emu2"]
_BESIDE_DECODER = "multimodal_encoder"
"""The folder of a language model that is published with its image decoder."""
_TOWERS = {"emu": ("eva_giant_patch14_clip_224", 88), "emu2": ("eva02_enormous_patch14_clip_224", 112)}
"""Version -> network of timm, and numbers of a head of attention."""
_LLAMA_HEAD = 128
_LONGEST = 2048
_LORA_ALPHA = 16
_FEEDER = f"input_embedder.feeders.{IMAGE}"
_HEAD = f"vector_heads.{IMAGE}.linear.weight"
_SPARE = ("visual.norm.", "visual.fc_norm.", "visual.head.", "visual.mask_token", "cformer.cformer.embed_tokens.")
"""Of the networks that the parts came from: nothing reads them."""
_RENAMED = {
    "emu": {"decoder.lm.stu_regress_head": "stu_regress_head"},
    "emu2": {
        "decoder.lm.stu_regress_head": "project_down",
        "decoder.lm.project_down": "project_down",
        "decoder.lm.project_up": "project_up",
        "vl_adapter.projection": "project_up",
    },
}
_MARKS = {"emu": "cformer.causal_tokens", "emu2": "project_up.weight"}
_LOOKS = {"emu": "cformer.", "emu2": "project_up."}
_WORDS = {"emu": 32_004, "emu2": 32_272}
"""Tokens of the models that have seen no conversations; those that have, know [USER] and [ASSISTANT] too."""
_SYSTEM: Mapping[Version, str] = {
    "emu": (
        "You will be presented with an image: [IMG]ImageContent[/IMG]. You will be able to see the image after I "
        "provide it to you. Please answer my questions based on the given image. "
    ),
    "emu2": "You are a helpful assistant, dedicated to delivering comprehensive and meticulous responses. ",
}
"""What conversations begin with, of the several that each has: that about an image, and that of long answers."""
_T5 = {
    "layer.0.SelfAttention.o": "attn.proj",
    "layer.0.layer_norm": "norm1",
    "layer.1.EncDecAttention.o": "cross_attn.proj",
    "layer.1.layer_norm": "query_norm",
    "layer.2.DenseReluDense.wi": "mlp.fc1",
    "layer.2.DenseReluDense.wo": "mlp.fc2",
    "layer.2.layer_norm": "norm2",
}


def from_emu(
    source: str | Path, out: Path, version: Version, *, num_tokens: int = 64, text_tokenizer: Path | None = None
) -> list[str]:
    """Turn a published model into a model folder of fourm.

    Args:
        source: see `load_emu`.
        out: folder of the model.
        version: `emu` or `emu2`.
        num_tokens: of an image, for Emu2: 64, or 256 of Emu2-Chat.
        text_tokenizer: a `tokenizer.json` to copy along.

    Returns:
        what was done, in lines for people.

    Raises:
        CheckpointError: if it cannot be converted; nothing is written then.
    """
    loaded = load_emu(source, version, num_tokens)
    chats = loaded.network.modalities[llama.TEXT].vocab_size > _WORDS[version]
    chat = ChatConfig(_SYSTEM[version], "[USER]: ", " [ASSISTANT]: ", "</s>") if chats else None
    paints = (local_folder(source) / _BESIDE_DECODER).is_dir()
    phrases = None if chats or version == "emu" else "emu2_gen" if paints else "emu2"
    form = DocumentForm("<s>", "[IMG]", "[/IMG]", chat=chat, phrases=phrases)
    copies = {} if text_tokenizer is None else {llama.TEXT: text_tokenizer}
    folders.save_model(loaded.network, out, copies, form)
    return told(loaded, out, text_tokenizer)


def load_emu(source: str | Path, version: Version, num_tokens: int = 64) -> Loaded:
    """A published model as one of ours, in memory.

    Args:
        source: a file of weights; a folder with `pytorch_model.bin`, or with `config.json` and safetensors; or one with
            the folder `multimodal_encoder` beside those of the image decoder.
        version: `emu` or `emu2`.
        num_tokens: of an image, for Emu2.

    Raises:
        CheckpointError: if weights are missing, left over or of another shape, or it is something else.
    """
    checkpoints.tell_licence(source)
    found = open_checkpoint(_place(local_folder(source)))
    published = replace(found, source=str(source), tensors=_canonical(found.tensors, version))
    tensors = published.tensors
    if _MARKS[version] not in tensors:
        some = ", ".join(list(tensors)[:3]) or "none"
        other = next((name for name, part in _LOOKS.items() if any(part in own for own in tensors)), None)
        raise CheckpointError(
            f"{source} is no model of {version}: it has no tensor {_MARKS[version]}, but tensors such as {some}"
            + (f"; it looks like {other}" if other else "")
        )
    with naming(published.source):
        with torch.device("meta"):
            model = _model(published, version, num_tokens)
        imported = read(list(_rules(model, tensors, version)), tensors, model.state_dict(), keep=True)
        adopt_weights(model, imported.state)
    return Loaded(model.eval(), published, imported)


def _place(path: Path) -> Path:
    """Where the weights are."""
    inner = path / _BESIDE_DECODER
    path = inner if inner.is_dir() else path
    bare = path / PICKLED_WEIGHTS
    return bare if bare.is_file() and not (path / CONFIG_FILE).is_file() else path


def _canonical(tensors: Mapping[str, Tensor], version: Version) -> Mapping[str, Tensor]:
    """The tensors by one set of names, where files of different times have several; LoRA is added to its matrices."""
    names = {}
    for name in tensors:
        own = re.sub(r"^model\.(?=visual\.|decoder\.|project_)", "", name).replace("lm.base_model.model.", "lm.")
        for theirs, ours in _RENAMED[version].items():
            if own.startswith(f"{theirs}."):
                own = ours + own.removeprefix(theirs)
        names[own] = name
    return Merged(tensors, names, _LORA_ALPHA)


def _depth(tensors: Mapping[str, Tensor], before: str) -> int:
    """How many blocks there are whose names begin so."""
    found = [int(m[1]) for name in tensors if (m := re.match(re.escape(before) + r"\.(\d+)\.", name))]
    return 1 + max(found, default=-1)


def _language(published: Published) -> MultimodalConfig:
    """The config of the language model, by its own config where there is one, and by the tensors."""
    tensors, start = published.tensors, "decoder.lm.model.layers"
    dim = tensors["decoder.lm.model.embed_tokens.weight"].shape[1]
    facts = {
        "hidden_size": dim,
        "num_attention_heads": max(dim // _LLAMA_HEAD, 1),
        "num_hidden_layers": _depth(tensors, start),
        "intermediate_size": tensors[f"{start}.0.mlp.gate_proj.weight"].shape[0],
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": _LONGEST,
    }
    own = {key: published.config[key] for key in facts if published.config.get(key) is not None}
    return llama.model_config({**facts, **own})


def _tower(tensors: Mapping[str, Tensor], version: Version) -> tuple[TimmTowerConfig, int]:
    """The config of the tower, and the pixels per side of its images."""
    dim, _, patch, _ = tensors["visual.patch_embed.proj.weight"].shape
    hidden = tensors["visual.blocks.0.mlp.fc1.weight"].shape[0]
    name, head = _TOWERS[version]
    options = {
        "patch_size": patch,
        "embed_dim": dim,
        "depth": _depth(tensors, "visual.blocks"),
        "num_heads": max(dim // head, 1),
        "mlp_ratio": (hidden + 0.5) / dim,  # timm cuts off what is behind the point
    }
    side = math.isqrt(tensors["visual.pos_embed"].shape[1])
    return TimmTowerConfig(name, options=options, class_token=version == "emu"), side * patch


def _resampler(tensors: Mapping[str, Tensor]) -> ResamplerConfig:
    buckets, heads = tensors["cformer.cformer.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].shape
    sizes = {
        "dim": tensors["cformer.causal_tokens"].shape[-1],
        "depth": _depth(tensors, "cformer.cformer.block"),
        "num_heads": heads,
        "mlp_hidden_dim": tensors["cformer.cformer.block.0.layer.2.DenseReluDense.wi.weight"].shape[0],
        "relative_buckets": buckets,
    }
    return ResamplerConfig(**{**RESAMPLERS["c_former"], **sizes})


def _model(published: Published, version: Version, num_tokens: int) -> Multimodal:
    tensors, language = published.tensors, _language(published)
    tower, size = _tower(tensors, version)
    if version == "emu":
        num_tokens, dim = tensors["cformer.causal_tokens"].shape[-2], language.dim
        feeder = VisionFeederConfig(tower, _resampler(tensors))
    else:
        dim = int(tower.options["embed_dim"])
        feeder = VisionFeederConfig(tower, AveragePoolerConfig(), projection=True)
    config = replace(language, feeders={IMAGE: feeder}, vector_head=LinearHeadConfig(bias=False))
    text = llama.text_modality(
        {"max_position_embeddings": _LONGEST}, len(tensors["decoder.lm.model.embed_tokens.weight"])
    )
    return Multimodal(ModalitySet([text, image_modality(size, num_tokens, dim, "clip", predicted=True)]), config)


def _rules(model: Multimodal, tensors: Mapping[str, Tensor], version: Version) -> Iterator[Rule]:
    """What every tensor of a published model is in ours."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    yield from prefixed(llama.rules(model), "decoder.lm")
    yield from prefixed(llama.unread({k[11:]: v for k, v in tensors.items() if k.endswith(".inv_freq")}), "decoder.lm")
    before = f"{_FEEDER}.tower.model."
    for name, shape in own.items():
        if name.startswith(before):
            yield Rule(f"visual.{name.removeprefix(before)}", shape, (name,))
    if version == "emu2":
        yield Rule("project_up.weight", own[f"{_FEEDER}.projection.weight"], (f"{_FEEDER}.projection.weight",))
        yield Rule("project_down.weight", own[_HEAD], (_HEAD,))
    else:
        yield Rule("stu_regress_head.weight", own[_HEAD], (_HEAD,))
        yield from _resampler_rules(own, f"{_FEEDER}.pooler")
    yield from (Rule(name, tuple(tensors[name].shape)) for name in tensors if name.startswith(_SPARE))


def _resampler_rules(own: Mapping[str, tuple[int, ...]], pooler: str) -> Iterator[Rule]:
    """T5's attention does not divide its scores by the root of a head's numbers: its queries are multiplied by it."""
    dim, heads = own[f"{pooler}.queries"][1], own[f"{pooler}.trunk.relative.weight"][1]
    root = math.sqrt(dim // heads)
    plain = {
        "cformer.causal_tokens": "queries",
        "cformer.cformer.final_layer_norm.weight": "trunk.norm.weight",
        "cformer.cformer.block.0.layer.0.SelfAttention.relative_attention_bias.weight": "trunk.relative.weight",
        "cformer.projection.weight": "linear.weight",
        "cformer.projection.bias": "linear.bias",
        "ln_visual.weight": "input_norm.weight",
        "ln_visual.bias": "input_norm.bias",
    }
    depth = _depth(dict.fromkeys(own, torch.empty(0)), f"{pooler}.trunk.blocks")
    for i in range(depth):
        theirs, ours = f"cformer.cformer.block.{i}", f"trunk.blocks.{i}"
        plain |= {f"{theirs}.{key}.weight": f"{ours}.{part}.weight" for key, part in _T5.items()}
        itself, cross = f"{theirs}.layer.0.SelfAttention", f"{theirs}.layer.1.EncDecAttention"
        target = f"{pooler}.{ours}.attn.qkv.weight"
        for number, letter in enumerate("qkv"):
            rows = slice(number * dim, (number + 1) * dim)
            scale = root if letter == "q" else 1.0
            yield Rule(f"{itself}.{letter}.weight", (dim, dim), (target,), rows, scale=scale)
        query, memory = f"{pooler}.{ours}.cross_attn.q.weight", f"{pooler}.{ours}.cross_attn.kv.weight"
        yield Rule(f"{cross}.q.weight", (dim, dim), (query,), scale=root)
        for number, letter in enumerate("kv"):
            rows = slice(number * dim, (number + 1) * dim)
            yield Rule(f"{cross}.{letter}.weight", (dim, own[memory][1]), (memory,), rows)
    for key, part in plain.items():
        yield Rule(key, own[f"{pooler}.{part}"], (f"{pooler}.{part}",))
