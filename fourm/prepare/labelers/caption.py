"""Captions by networks of the transformers library (BLIP, Li et al. 2022)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fourm.errors import DataError
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.network import Inputs, TransformersNetwork
from fourm.rng import torch_seed, uniform


class Caption(TransformersNetwork):
    """Photographs to JSON: one caption, or a list of several."""

    what = "caption network"
    model_class = "AutoModelForImageTextToText"
    processor_class = "AutoProcessor"

    def options(self) -> dict[str, Any]:
        return {"text": [self.config.prompt]} if self.config.prompt else {}

    def answer(self, photos: Sequence[Photo], inputs: Inputs) -> list[bytes]:
        c = self.config
        if c.temperature:
            inputs = {name: value.repeat_interleave(c.num_captions, 0) for name, value in inputs.items()}
            how: dict[str, Any] = {"num_beams": 1, "logits_processor": [self._draws(photos)]}
        else:
            how = {"num_beams": c.num_beams, "num_return_sequences": c.num_captions}
        ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=c.max_new_tokens, **how)
        texts = [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]
        return [self._file(texts[row * c.num_captions :][: c.num_captions]) for row in range(len(photos))]

    def _draws(self, photos: Sequence[Photo]) -> Draws:
        c = self.config
        keys = [(photo.key, number) for photo in photos for number in range(c.num_captions)]
        seeds = torch.tensor([torch_seed(c.seed, "caption", *key) for key in keys], device=self.device)
        return Draws(seeds, c.temperature, c.top_p)

    def _file(self, texts: list[str]) -> bytes:
        distinct = list(dict.fromkeys(text for text in texts if text))
        if not distinct:
            raise DataError("the caption network said nothing")
        return json.dumps(distinct[0] if self.config.num_captions == 1 else distinct).encode()


class Draws:
    """Makes the largest score a draw from the distribution (Gumbel), each row by numbers of its own.

    Args:
        seeds: (B,) one per row.
        temperature: above 0.
        top_p: share of the probability of the likeliest words that are drawn from.
    """

    def __init__(self, seeds: Tensor, temperature: float, top_p: float) -> None:
        self.seeds = seeds
        self.temperature = temperature
        self.top_p = top_p

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (B, vocabulary) after the words (B, n) so far -> scores whose largest is the next word."""
        logs = torch.log_softmax(scores.float() / self.temperature, -1)
        if self.top_p < 1:
            ordered, order = logs.sort(dim=-1, descending=True, stable=True)
            likelier = ordered.exp().cumsum(-1) - ordered.exp()
            logs = ordered.masked_fill(likelier >= self.top_p, -torch.inf).gather(-1, order.argsort(-1))
        words = torch.arange(logs.shape[-1], device=logs.device)
        draws = uniform(self.seeds[:, None], input_ids.shape[1], words)
        return logs - torch.log(-torch.log(draws))
