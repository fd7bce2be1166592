"""Asking a trained model: natural units in, natural units and texts out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fourm.errors import ConfigError, did_you_mean
from fourm.evaluate.configs import Decoding
from fourm.evaluate.samples import network_input
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.sampling import expected_embedding
from fourm.modality import Modality, ModalitySet
from fourm.rng import torch_seed
from fourm.tokens import SpecialIds

Given = dict[str, dict[str, Tensor]]


class Bundle(Protocol):
    """A model with the tokenizers it speaks with."""

    model: Any
    tokenizers: dict[str, Any]
    text: Any


class Predictor:
    """A model that is given images and texts and asked for images and texts.

    Modalities go by their keys, such as `tok_depth`.

    Args:
        bundle: the model and its tokenizers.
        device: where it runs.
        seed: of everything that is drawn; sample n has its own draws, whatever the batches.
    """

    def __init__(self, bundle: Bundle, device: torch.device, seed: int = 0) -> None:
        from fourm.generate.sampler import Sampler

        self.model = bundle.model.to(device).eval()
        self.modalities: ModalitySet = bundle.model.modalities
        self.tokenizers = {name: tokenizer.to(device) for name, tokenizer in bundle.tokenizers.items()}
        self.text, self.device, self.seed = bundle.text, device, seed
        self._sampler = Sampler(self.model, bundle.text.special if bundle.text is not None else SpecialIds())

    def find(self, key: str, *, given: bool = False, asked: bool = False) -> Modality | None:
        """The model's modality with this key that can be given or asked, and be read or shown; None without one."""
        for modality in self.modalities.values():
            readable = modality.tokenizer in (None, "text") or modality.name in self.tokenizers
            if modality.key == key and readable and modality.is_input >= given and modality.is_output >= asked:
                return modality
        return None

    def need(self, key: str, *, given: bool = False, asked: bool = False) -> Modality:
        """As `find`.

        Raises:
            ConfigError: if there is none.
        """
        found = self.find(key, given=given, asked=asked)
        if found is None:
            role = "input" if given else "output"
            keys = [m.key for m in self.modalities.values()]
            raise ConfigError(
                f"this model has no {role} modality '{key}' with its tokenizer.{did_you_mean(key, keys)} "
                "Evaluate a model that was trained with it, or choose another `kind`"
            )
        return found

    def raw(self, key: str) -> Modality | None:
        """The raw modality that `key` or `tok_key` shows, if the model knows either; pixels it reads come first."""
        pixels = self.find(key, given=True)
        tokens = self.find(f"tok_{key}")
        return pixels or (self.tokenizers[tokens.name].modality if tokens else None)

    def seeds(self, first: int, count: int, purpose: str) -> Tensor:
        """(count,) int64 seeds of samples `first`, `first + 1`, ... for one purpose."""
        numbers = [torch_seed(self.seed, purpose, n) for n in range(first, first + count)]
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    def give_image(self, key: str, images: Tensor, *, rows: int | None = None) -> Given:
        """Images as inputs: as pixels if the model reads them, else as tokens.

        Args:
            key: such as `rgb`.
            images: (B, C, H, W) natural units, or (B, H, W) labels.
            rows: give only the first so many rows of the token grid; the pixels below are not looked at.

        Raises:
            ConfigError: if the model reads neither.
        """
        images = images.to(self.device)
        pixels = self.find(key, given=True)
        modality = pixels or self.need(f"tok_{key}", given=True)
        height, width = modality.grid.height, modality.grid.width
        count = (height if rows is None else rows) * width
        positions = torch.arange(count, device=self.device).expand(len(images), count)
        if rows is not None:
            images = images.clone()
            # Also from tokens nothing must leak: an encoder looks beyond the borders of its patches.
            images[..., rows * modality.grid.patch_size :, :] = 0
        if pixels is not None:
            return {modality.name: {"values": network_input(images, modality), "positions": positions}}
        tokenizer = self.tokenizers[modality.name]
        ids = tokenizer.encode(network_input(images, tokenizer.modality)).flatten(1)
        return {modality.name: {"ids": ids[:, :count], "positions": positions}}

    def give_texts(self, key: str, texts: Sequence[str]) -> Given:
        """Whole texts as inputs, each with its end token."""
        modality = self.need(key, given=True)
        rows = [[*self.text.encode(text).tolist()[: modality.num_tokens - 1], self.text.eos_id] for text in texts]
        ids = torch.full((len(rows), max(map(len, rows))), -1)
        for row, values in zip(ids, rows, strict=True):
            row[: len(values)] = torch.tensor(values)
        return {modality.name: {"ids": ids.to(self.device)}}

    @torch.inference_mode()
    def run(self, steps: Sequence[Step], given: Given, seeds: Tensor, *, chained: bool = False) -> Any:
        """Generate; see `fourm.generate.sampler.Sampler.run`. Steps do not see one another's answers unless chained."""
        return self._sampler.run(GenerationPlan(list(steps), chained=chained), given, seeds=seeds)

    def images(self, modality: Modality, generated: Any, decoding: Decoding | None = None) -> Tensor:
        """Generated tokens as images.

        Args:
            modality: of the tokens.
            generated: what `run` returned.
            decoding: of one-step answers with probabilities: see `EvaluateConfig.decoding`. None decodes the drawn ids.

        Returns:
            natural units (B, C, H, W), or labels (B, H, W).
        """
        tokenizer = self.tokenizers[modality.name]
        shape = (modality.grid.height, modality.grid.width)
        if decoding is None:
            images: Tensor = tokenizer.decode(generated.ids[modality.name].unflatten(1, shape))
            return images
        probabilities: Tensor = generated.probabilities[modality.name].float()
        if decoding == "argmax" or tokenizer.codebook is None:
            images = tokenizer.decode(probabilities.argmax(-1).unflatten(1, shape))
        else:
            codes = expected_embedding(probabilities, tokenizer.codebook)
            images = tokenizer.decode_embeddings(codes.unflatten(1, shape))
        return images

    def texts(self, modality: Modality, generated: Any) -> list[str]:
        """Generated sequences as texts."""
        return [self.text.decode([i for i in row if i >= 0]) for row in generated.ids[modality.name].tolist()]


def one_step(modality: Modality) -> Step:
    """All tokens of a grid at once, with their probabilities: best where the input decides the answer."""
    return Step(modality.name, scheme="roar", num_steps=1, keep_probabilities=True)


def greedy(modality: Modality) -> Step:
    """The likeliest text, token by token."""
    return Step(modality.name, scheme="autoregressive", temperature=0.0)
