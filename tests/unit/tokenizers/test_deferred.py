from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fourm import catalog
from fourm.tokenizers.deferred import Deferred


class Named(nn.Linear):
    vocab_size = 7


def deferred() -> tuple[Deferred, list[Any]]:
    fetched: list[Any] = []

    def fetch() -> Any:
        fetched.append(Named(2, 2))
        return fetched[-1]

    return Deferred(catalog.get("depth@64"), fetch), fetched


def test_its_modality_is_known_before_it_is_fetched():
    tokenizer, fetched = deferred()
    assert tokenizer.modality.name == "depth@64"
    tokenizer.to("cpu")
    assert not hasattr(tokenizer, "_private")
    assert fetched == []


def test_it_is_fetched_once_and_goes_where_it_was_sent():
    tokenizer, fetched = deferred()
    tokenizer.to("meta")
    assert tokenizer.vocab_size == 7
    assert next(iter(tokenizer.parameters())).device == torch.device("meta")
    assert len(fetched) == 1
