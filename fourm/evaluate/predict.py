"""Asking a trained model many questions of one kind: `fourm.generate` with a seed for each sample and purpose."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fourm.errors import ConfigError, did_you_mean
from fourm.evaluate.configs import Decoding
from fourm.generate import outputs
from fourm.generate.bundle import Bundle, move
from fourm.generate.inputs import find_given, give
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.sampler import Generated, Sampler
from fourm.modality import Modality
from fourm.rng import torch_seed
from fourm.tokens import SpecialIds

Given = dict[str, dict[str, Tensor]]


class Predictor:
    """A model that is given images and texts and asked for images and texts.

    Modalities go by their keys, such as `tok_depth`.

    Args:
        bundle: the model and its tokenizers.
        device: where it runs.
        seed: of everything that is drawn; sample n has its own draws, whatever the batches.
    """

    def __init__(self, bundle: Bundle, device: torch.device, seed: int = 0) -> None:
        move(bundle, device)
        bundle.model.eval()
        self.bundle, self.device, self.seed = bundle, device, seed
        self.modalities, self.tokenizers, self.text = bundle.model.modalities, bundle.tokenizers, bundle.text
        self._sampler = Sampler(bundle.model, bundle.text.special if bundle.text is not None else SpecialIds())

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

    def give_image(self, key: str, images: Tensor, *, patches: int | None = None) -> Given:
        """Images as inputs: as pixels if the model reads them, else as tokens.

        Args:
            key: such as `rgb`.
            images: (B, C, H, W) natural units, or (B, H, W) labels.
            patches: give only the first so many patches, row by row; the pixels of the others are not looked at.

        Raises:
            ConfigError: if the model reads neither.
        """
        if patches is None:
            return self._give(key, images)
        grid = find_given(self.bundle, key)[0].grid
        # Also from tokens nothing must leak: an encoder looks beyond the borders of its patches.
        shown = (torch.arange(grid.num_tokens) < patches).view(grid.height, grid.width)
        mask = shown.repeat_interleave(grid.patch_size, 0).repeat_interleave(grid.patch_size, 1)
        return {
            name: {what: values if what == "values" else values[:, :patches] for what, values in facts.items()}
            for name, facts in self._give(key, images * mask.to(images)).items()
        }

    def give_texts(self, key: str, texts: Sequence[str]) -> Given:
        """Whole texts as inputs, each with its end token."""
        return self._give(key, list(texts))

    def give_generated(self, modalities: Sequence[Modality], generated: Generated) -> Given:
        """Generated grids as inputs of what comes next: the likeliest tokens where their probabilities are known."""
        given = {}
        for modality in modalities:
            belief = generated.probabilities.get(modality.name)
            ids = generated.ids[modality.name] if belief is None else belief.argmax(-1)
            given[modality.name] = {
                "ids": ids,
                "positions": torch.arange(ids.shape[1], device=ids.device).expand_as(ids),
            }
        return given

    def _give(self, key: str, value: Tensor | list[str]) -> Given:
        given = give(self.bundle, key, value, as_data=True)
        return {given.key: {what: values.to(self.device) for what, values in given.facts.items()}}

    @torch.inference_mode()
    def run(self, steps: Sequence[Step], given: Given, seeds: Tensor, *, chained: bool = False) -> Generated:
        """Generate; see `fourm.generate.sampler.Sampler.run`. Steps do not see one another's answers unless chained."""
        return self._sampler.run(GenerationPlan(list(steps), chained=chained), given, seeds=seeds)

    def images(self, modality: Modality, generated: Generated, decoding: Decoding | None = None) -> Tensor:
        """Generated tokens as images.

        Args:
            modality: of the tokens.
            generated: what `run` returned.
            decoding: of one-step answers with probabilities: see `EvaluateConfig.decoding`. None decodes the drawn ids.

        Returns:
            natural units (B, C, H, W), or labels (B, H, W), on the CPU.
        """
        if decoding == "argmax" or (decoding and self.tokenizers[modality.name].codebook is None):
            likeliest = generated.probabilities[modality.name].argmax(-1)
            generated = Generated({modality.name: likeliest}, {})
        images: Tensor = outputs.decode(self.bundle, modality.name, generated, expected=decoding == "expected")
        return images

    def texts(self, modality: Modality, generated: Generated) -> list[str]:
        """Generated sequences as texts; also boxes, as the model writes them."""
        return [self.text.decode([i for i in row if i >= 0]) for row in generated.ids[modality.name].tolist()]


def one_step(modality: Modality) -> Step:
    """All tokens of a grid at once, with their probabilities: best where the input decides the answer."""
    return Step(modality.name, scheme="roar", num_steps=1, keep_probabilities=True)


def greedy(modality: Modality) -> Step:
    """The likeliest text, token by token."""
    return Step(modality.name, scheme="autoregressive", temperature=0.0)
