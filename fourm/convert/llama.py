"""Language models of Hugging Face's Llama layout as decoders of one modality, both ways: LVM, DeLVM and their like.

Weights are those of `LlamaForCausalLM`, with biases of queries, keys, values and outputs where the config has them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fourm.convert import checkpoints
from fourm.convert.job import check_codes
from fourm.convert.load import Loaded, naming, summary
from fourm.convert.published import open_checkpoint
from fourm.convert.rules import Rule, read, write
from fourm.convert.vocabulary import add_tokens, read_tokenizer
from fourm.convert.write import own_folder, write_checkpoint
from fourm.errors import CheckpointError
from fourm.layouts import Discrete, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models import folder as folders
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.models.presets import LLAMA
from fourm.models.tables import CodeTable
from fourm.nn.init import adopt_weights

NAME = "visual"
"""Of the modality, unless it is given another one."""
_TOKENIZER = "rgb_unit@256"


TEXT = "text"
"""A modality of this name is read as text."""
TOKENIZER_FILE = "tokenizer.json"


def from_llama(
    source: str | Path,
    out: Path,
    *,
    modality: str = NAME,
    tokenizer: Path | None = None,
    tokens: Mapping[str, str | None] | None = None,
) -> list[str]:
    """Turn a language model into a model folder of fourm.

    Args:
        source: folder with `config.json` and `model.safetensors` (or its parts and their index), or a repository on
            the Hub.
        out: folder of the model.
        modality: what its ids are called here.
        tokenizer: folder of the converted tokenizer of its images, or file of that of its text, to be copied along;
            None: `tokenizer.json` of the source, if it is text.
        tokens: of text, tokens to add, see `add_tokens`.

    Returns:
        what was done, in lines for people.

    Raises:
        CheckpointError: if it cannot be converted, or the tokenizer is of another one; nothing is written then.
    """
    if tokens and modality != TEXT:
        raise CheckpointError(f"tokens are added to text, but the ids are called '{modality}': add --modality {TEXT}")
    loaded = load_llama(source, modality)
    if tokenizer is not None and modality != TEXT:
        check_codes(tokenizer, loaded.network.modalities[modality])
    model, found = loaded.network, Path(source) / TOKENIZER_FILE
    if tokenizer is None and modality == TEXT and (found.is_file() or tokens):
        tokenizer = found
    with tempfile.TemporaryDirectory() as scratch:
        if tokenizer is not None and modality == TEXT:
            vocabulary = read_tokenizer(tokenizer)
            model = add_tokens(model, vocabulary, tokens or {})
            tokenizer = Path(scratch) / TOKENIZER_FILE
            vocabulary.save(str(tokenizer))
        folders.save_model(model, out, {} if tokenizer is None else {modality: tokenizer})
    return [
        *summary(loaded.published, model, out),
        f"reads and predicts {modality}, of {model.modalities[modality].vocab_size:,} ids",
    ]


def to_llama(source: Path, out: Path) -> list[str]:
    """Write a decoder of one modality as `LlamaForCausalLM` reads it.

    Args:
        source: folder of a model, or the output folder of its training.
        out: folder for `config.json` and `model.safetensors`.

    Returns:
        what was done, in lines for people.

    Raises:
        CheckpointError: if Llama has no place for a part of the model.
    """
    model = folders.load_model(own_folder(source, "no model"))
    return [write_checkpoint(out, published_config(model), write(rules(model), stored(model)))]


def load_llama(source: str | Path, modality: str = NAME) -> Loaded:
    """A language model as a model of ours, in memory; see `from_llama`.

    Raises:
        CheckpointError: if weights are missing, left over or of another shape, or its config asks for what a trunk has
            not.
    """
    published = open_checkpoint(source)
    if "model.embed_tokens.weight" not in published.tensors:
        some = ", ".join(list(published.tensors)[:3])
        raise CheckpointError(f"{source} is no language model of the Llama layout; it has tensors such as {some}")
    checkpoints.tell_licence(published.source)
    with naming(published.source):
        with torch.device("meta"):
            model = Multimodal(modalities(published.config, modality), model_config(published.config))
        found = read([*rules(model), *unread(published.tensors)], published.tensors, stored(model))
        adopt_weights(model, found.state)
    return Loaded(model.eval(), published, found)


def modalities(config: Mapping[str, Any], name: str = NAME) -> ModalitySet:
    """The one modality of a language model: rows of ids, one more than are read at once; or text."""
    if name == TEXT:
        return ModalitySet([text_modality(config, int(config["vocab_size"]))])
    longest = int(config.get("max_sequence_length") or config["max_position_embeddings"]) + 1
    layout = Sequence(longest, longest)
    return ModalitySet(
        [Modality(name, layout, Discrete(int(config["vocab_size"])), name, "tokens", tokenizer=_TOKENIZER)]
    )


def text_modality(config: Mapping[str, Any], vocab_size: int) -> Modality:
    """Text of a language model."""
    longest = int(config.get("max_position_embeddings", 2048))
    return Modality(TEXT, Sequence(longest, longest), Discrete(vocab_size), TEXT, "text", tokenizer=TEXT)


def model_config(config: Mapping[str, Any]) -> MultimodalConfig:
    """The config of our model.

    Raises:
        CheckpointError: for what a trunk has not, such as other rotary positions than the plain ones.
    """
    dim, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or dim // heads)
    rope = {**(config.get("rope_parameters") or {}), **(config.get("rope_scaling") or {})}
    odd = {
        "hidden_act": (config.get("hidden_act", "silu"), "silu"),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
        "use_sliding_window": (bool(config.get("use_sliding_window", False)), False),
    }
    for key, (given, known) in odd.items():
        if given != known:
            raise CheckpointError(f"its config has {key} {given}; only {known} can be converted")
    is_qwen = config.get("model_type") == "qwen2"  # whose queries, keys and values have biases, and whose outputs none
    bias = bool(config.get("attention_bias", config.get("bias", False)))
    return MultimodalConfig(
        dim=dim,
        encoder_depth=0,
        decoder_depth=int(config["num_hidden_layers"]),
        num_heads=heads,
        num_kv_heads=_if_other(int(config.get("num_key_value_heads") or heads), heads),
        head_dim=None if dim % heads == 0 and head_dim == dim // heads else head_dim,
        mlp_hidden_dim=int(config["intermediate_size"]),
        qkv_bias=bias or is_qwen,
        proj_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        norm_eps=float(config["rms_norm_eps"]),
        rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10_000.0))),
        tie_heads=bool(config.get("tie_word_embeddings", False)),
        init_std=float(config.get("initializer_range", 0.02)),
        head_std=float(config.get("initializer_range", 0.02)),
        **LLAMA,
    )


def _if_other(value: int, default: int) -> int | None:
    return None if value == default else value


def published_config(model: Any) -> dict[str, Any]:
    """The config of our model as transformers reads it.

    Raises:
        CheckpointError: if Llama has no place for a part of it.
    """
    c = getattr(model, "config", None)
    odd = [f"{key} {getattr(c, key)}" for key, value in LLAMA.items() if getattr(c, key, None) != value]
    if isinstance(model, Multimodal) and len(model.modalities) != 1:
        odd.append(f"modalities {', '.join(model.modalities)}")
    if not isinstance(model, Multimodal) or c is None or odd or c.encoder_depth or c.rope_theta is None:
        raise CheckpointError(
            "Llama is a decoder of one discrete modality with rotary positions and gated MLPs; this model has "
            f"{', '.join(odd) or 'an encoder, or no rope_theta'}"
        )
    if c.qkv_bias != c.proj_bias:
        raise CheckpointError("Llama has biases of queries, keys, values and outputs together, or none of them")
    if c.dim % c.num_heads:
        raise CheckpointError(
            f"transformers reads no Llama whose width, {c.dim}, is no multiple of its {c.num_heads} heads"
        )
    (modality,) = model.modalities.values()
    trunk = c.trunk(1, cross_attention=False)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": modality.vocab_size,
        "hidden_size": c.dim,
        "intermediate_size": trunk.mlp_dim,
        "num_hidden_layers": c.decoder_depth,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads or c.num_heads,
        "head_dim": trunk.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": max(modality.num_tokens - 1, 1),
        "initializer_range": c.init_std or 0.02,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_theta,
        "attention_bias": c.qkv_bias,
        "mlp_bias": c.mlp_bias,
        "tie_word_embeddings": c.tie_heads,
        # Else transformers takes the ids 1 and 2 for the ends of a text.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "torch_dtype": "float32",
    }


def rules(model: Multimodal) -> list[Rule]:
    """What every tensor of the Llama layout is in a model, which may lie on any device."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    embedded, scored = ("model.embed_tokens.weight", "lm_head.weight")
    if model.config.code_dim is not None:
        own["input_embedder.table.weight"] = own["heads.weight"]
    found = [Rule("model.norm.weight", own["decoder.norm.weight"], ("decoder.norm.weight",))]
    if model.config.tie_heads:
        found.append(Rule(embedded, own["heads.weight"], ("heads.weight",)))
    else:
        found.append(Rule(embedded, own["input_embedder.table.weight"], ("input_embedder.table.weight",)))
        found.append(Rule(scored, own["heads.weight"], ("heads.weight",)))
    for block in range(model.config.decoder_depth):
        found += _block_rules(model.config, own, f"model.layers.{block}", f"decoder.blocks.{block}")
    return found


def unread(published: Mapping[str, Tensor]) -> list[Rule]:
    """Old files also hold the frequencies of the rotary positions, which follow from the config."""
    return [Rule(key, tuple(published[key].shape)) for key in published if key.endswith(".inv_freq")]


def _block_rules(
    config: MultimodalConfig, own: Mapping[str, tuple[int, ...]], theirs: str, ours: str
) -> Iterator[Rule]:
    width = config.trunk(1, cross_attention=False).head_width
    queries, kv = config.num_heads * width, (config.num_kv_heads or config.num_heads) * width
    edges = (0, queries, queries + kv, queries + 2 * kv)
    plain = {
        "self_attn.o_proj": "attn.proj",
        "mlp.gate_proj": "mlp.fc1",
        "mlp.up_proj": "mlp.fc3",
        "mlp.down_proj": "mlp.fc2",
        "input_layernorm": "norm1",
        "post_attention_layernorm": "norm2",
    }
    for leaf in ("weight", "bias"):
        for name, part in plain.items():
            if (target := f"{ours}.{part}.{leaf}") in own:
                yield Rule(f"{theirs}.{name}.{leaf}", own[target], (target,))
        if (target := f"{ours}.attn.qkv.{leaf}") in own:
            for letter, start, stop in zip("qkv", edges, edges[1:]):
                shape = (stop - start, *own[target][1:])
                yield Rule(f"{theirs}.self_attn.{letter}_proj.{leaf}", shape, (target,), slice(start, stop))


def stored(model: Multimodal) -> dict[str, Tensor]:
    """The tensors of a model: those that heads and embeddings share once, frozen codes multiplied out."""
    table = model.input_embedder.table
    if isinstance(table, CodeTable):
        return {k: v for k, v in model.state_dict().items() if ".table." not in k} | {
            "input_embedder.table.weight": table.folded()
        }
    return {
        k: v for k, v in model.state_dict().items() if k != "input_embedder.table.weight" or not model.config.tie_heads
    }
