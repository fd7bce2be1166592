"""Text tokenizers of language models: which of their tokens begin and end a text, and further tokens for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fourm.errors import ConfigError
from fourm.tokens import SpecialIds

_USUAL = {
    "start": ("[SOS]", "<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>", "[CLS]", "<|endoftext|>"),
    "end": ("[EOS]", "</s>", "<|end_of_text|>", "<eos>", "<|endoftext|>", "[SEP]", "<|im_end|>"),
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>"),
    "unknown": ("[UNK]", "<unk>"),
}
"""Names that they usually have."""


def special_of(backend: Any) -> SpecialIds:
    """The special ids of a tokenizer of any kind, which has no sentinels.

    What its post-processor puts around a text begins and ends it; where that says nothing, the usual names do. Where
    nothing is for padding, the end is; where nothing begins a text, the end does.

    Args:
        backend: a `tokenizers.Tokenizer`.

    Raises:
        ConfigError: if nothing ends a text.
    """
    vocabulary = backend.get_vocab(with_added_tokens=True)
    size = backend.get_vocab_size(with_added_tokens=True)
    facts = json.loads(backend.to_str())
    said = _around(facts.get("post_processor"))
    unknown = facts["model"].get("unk_token")

    def find(kind: str, *first: str | None) -> int | None:
        return next((vocabulary[name] for name in (*first, *_USUAL[kind]) if name in vocabulary), None)

    end = find("end", said.get("end"))
    if end is None:
        raise ConfigError(
            "text tokenizer: nothing ends a text, for it has none of "
            f"{', '.join(_USUAL['end'])}. Name its own with `special: {{end: NAME}}` in a recipe of `fourm "
            "train-wordpiece` with `extend`"
        )
    start, pad = find("start", said.get("start")), find("pad")
    pad = end if pad is None else pad
    unknown_id = find("unknown", unknown)
    return SpecialIds(
        pad=pad,
        unknown=pad if unknown_id is None else unknown_id,
        start=end if start is None else start,
        end=end,
        sentinel_0=size,
        num_sentinels=0,
    )


def add_tokens(backend: Any, tokens: Sequence[str], special: Mapping[str, str]) -> None:
    """Give a tokenizer further special tokens behind its own, and say what begins and ends a text.

    Args:
        backend: a `tokenizers.Tokenizer`; it is changed.
        tokens: names; those that it has already keep their ids.
        special: `start` or `end` -> name of a token.

    Raises:
        ConfigError: if a special token is none of the vocabulary.
    """
    from tokenizers import AddedToken, processors

    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in tokens])
    vocabulary = backend.get_vocab(with_added_tokens=True)
    for kind, name in special.items():
        if kind not in ("start", "end") or name not in vocabulary:
            raise ConfigError(
                f"special.{kind} is '{name}'; expected start or end, and a token of the vocabulary or of `tokens`"
            )
    if special:
        names = [special.get(kind) for kind in ("start", "end")]
        template = [names[0], "$A", names[1]]
        backend.post_processor = processors.TemplateProcessing(
            single=[name for name in template if name is not None],
            special_tokens=[(name, vocabulary[name]) for name in dict.fromkeys(names) if name is not None],
        )


def _around(processor: Mapping[str, Any] | None) -> dict[str, str]:
    """The names that a post-processor puts before and behind a text."""
    found: dict[str, str] = {}
    for step in (processor or {}).get("processors", [processor or {}]):
        if step.get("type") == "TemplateProcessing":
            places = [next(iter(part)) for part in step["single"]]
            text = places.index("Sequence") if "Sequence" in places else 0
            for kind, part in (("start", step["single"][:text][:1]), ("end", step["single"][text + 1 :][-1:])):
                for name in part:
                    found[kind] = name["SpecialToken"]["id"]
        elif step.get("type") in ("BertProcessing", "RobertaProcessing"):
            found |= {"start": step["cls"][0], "end": step["sep"][0]}
    return found


def added_with_spaces(backend: Any) -> list[str] | None:
    """Added words such as "hot dog": in a text without any of them, what stands between spaces is encoded by itself.

    None where that does not hold: with other rules than those of 4M's tokenizer.
    """
    facts = json.loads(backend.to_str())
    kinds = [(facts[part] or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
    if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"] or facts["truncation"] or facts["padding"]:
        return None
    # One that takes the spaces beside it may keep another one from being found.
    if any(token["lstrip"] or token["rstrip"] or not token["content"].strip() for token in facts["added_tokens"]):
        return None
    return [token["content"].lower() for token in facts["added_tokens"] if " " in token["content"]]
