"""New tokens in the vocabulary of a language model, such as those around images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fourm.errors import CheckpointError
from fourm.layouts import Discrete
from fourm.modality import ModalitySet
from fourm.models.multimodal import Multimodal
from fourm.nn.init import adopt_weights
from fourm.tokenizers import foreign_text


def read_tokenizer(path: Path) -> Any:
    """A `tokenizer.json`.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    from tokenizers import Tokenizer

    if not path.is_file():
        raise CheckpointError(
            f"{path} is missing, which new tokens are added to: give the tokenizer.json of the model with "
            "--text-tokenizer; AutoTokenizer of transformers writes one of older forms"
        )
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # what the library raises
        raise CheckpointError(f"{path} is no tokenizer.json: {error}. Download or copy it again") from None


@torch.no_grad()
def add_tokens(model: Multimodal, tokenizer: Any, tokens: Mapping[str, str | None]) -> Multimodal:
    """The model with rows for new tokens. Without words they begin as the mean of all rows, as in Emu (Sun et al.
    2023); else as the mean of those of the words, as its `[USER]` and `[ASSISTANT]`.

    Args:
        model: a decoder of one modality, the text.
        tokenizer: of the model; the tokens are added to it.
        tokens: name of a token -> words that it begins as; None: the mean of all, as those begin that the tokenizer has
            beyond the model.

    Returns:
        a new model with the vocabulary of the tokenizer, or the old one where that is larger.

    Raises:
        CheckpointError: if a token is there already, or words are none of the vocabulary.
    """
    (modality,) = model.modalities.values()
    old = modality.vocab_size
    known = [token for token in tokens if (number := tokenizer.token_to_id(token)) is not None and number < old]
    if known:
        raise CheckpointError(f"the tokenizer has the token {known[0]} already: leave it out of those that are added")
    words = {
        token: tokenizer.encode(text, add_special_tokens=False).ids if text else [] for token, text in tokens.items()
    }
    empty = [token for token, text in tokens.items() if text and not words[token]]
    if empty:
        raise CheckpointError(f"{empty[0]} cannot begin as '{tokens[empty[0]]}', of which the tokenizer knows nothing")
    foreign_text.add_tokens(tokenizer, list(tokens), {})
    ids = {token: int(tokenizer.token_to_id(token)) for token in tokens}
    larger = replace(modality, content=Discrete(max(old, tokenizer.get_vocab_size())))
    with torch.device("meta"):
        grown = Multimodal(ModalitySet([larger]), model.config)
    state = dict(model.state_dict())
    for name in ("input_embedder.table.weight", "heads.weight"):
        rows = state[name]
        new = rows.new_empty(larger.vocab_size, rows.shape[1])
        new[:old], new[old:] = rows, rows.mean(0)
        for token, number in ids.items():
            new[number] = (rows[words[token]] if words[token] else rows).mean(0)
        state[name] = new
    adopt_weights(grown, state)
    return grown.eval()
