"""Small text tokenizers with the rules of language models, whose words differ by what they stand behind."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from fourm.tokenizers.text import TextTokenizer

KINDS = ("llama2", "metaspace", "bytes", "wordpiece")
_SPECIAL = ("<s>", "</s>", "[IMG]", "[/IMG]", "[USER]", "[ASSISTANT]", "<|im_start|>", "<|im_end|>")


def vocabulary(kind: str) -> TextTokenizer:
    """A tokenizer whose tokens are characters, and words that begin with a space as one of them and what follows.

    Args:
        kind: `llama2`: a mark before every text and in the place of spaces, by its normalizer; `metaspace`: the same by
            its pre-tokenizer, at the beginning alone; `bytes`: as Qwen and Llama 3; `wordpiece`: as 4M's.
    """
    if kind == "wordpiece":
        letters = [chr(n) for n in range(33, 127)]
        pieces = ["[UNK]", *letters, *(f"##{letter}" for letter in letters)]
        backend = Tokenizer(models.WordPiece({piece: n for n, piece in enumerate(pieces)}, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    else:
        mark = "Ġ" if kind == "bytes" else "▁"
        letters = [chr(n) for n in range(33, 127)] + [mark, "Ċ", "\n"]
        merges = [(mark, letter) for letter in letters if letter.isalpha() and letter not in (mark, "Ċ")]
        pieces = [*letters, *map("".join, merges)]
        backend = Tokenizer(models.BPE({piece: n for n, piece in enumerate(pieces)}, merges))
        if kind == "bytes":
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        elif kind == "metaspace":
            backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        else:
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in _SPECIAL])
    return TextTokenizer(backend)
