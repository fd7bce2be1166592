"""What a tokenizer gives back of what it encodes: images, depth, normals, label maps or features, beside the truth."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fourm.data.configs import DatasetConfig
from fourm.data.dataset import AlignedDataset, build_dataset
from fourm.data.loader import evaluate_batches
from fourm.errors import CheckpointError, ConfigError
from fourm.evaluate import metrics
from fourm.evaluate.baselines import one_pixel_per_token
from fourm.evaluate.configs import DecodingConfig, TokenizerEvaluation
from fourm.evaluate.networks import NETWORKS
from fourm.evaluate.outcome import Cell, Outcome, PictureTable
from fourm.evaluate.scores import CodeUsage, ExplainedScore, IoUScore, MeanScore, PsnrScore, RatioScore, Score
from fourm.modality import Modality, ModalitySet
from fourm.report.pictures import draw
from fourm.rng import torch_seed
from fourm.tokenizers.base import Tokenizer
from fourm.tokenizers.units import to_natural

Content = Literal["labels", "depth", "normals", "image", "features"]
_BICUBIC = "bicubic_"
_WHY_NOT_A_NUMBER = {
    "miou": "no pixel of the data has a label",
    "high_frequency_ratio": "the originals are smooth, without any fine detail to compare with",
    "explained_variance": "all vectors of the data are the same",
}


def evaluate_reconstruction(config: TokenizerEvaluation, tokenizer: Tokenizer, device: torch.device) -> Outcome:
    """Encode and decode a data set, and compare in natural units.

    Args:
        config: what to measure, and on what.
        tokenizer: of any family, in inference mode, on `device`.
        device: where tensors for it go.

    Raises:
        CheckpointError: if it decodes to what is no value of its modality.
        ConfigError: if it cannot be run as asked.
        DataError: if data is missing, empty or damaged.
    """
    modality = tokenizer.modality
    if modality.normalization == "standardize" and modality.decode != "depth16":
        raise ConfigError(
            f"the tokenizer of '{modality.name}' reads values standardised per image, which have no scale to compare; "
            "only depth is aligned before it is compared. Measure a tokenizer of a modality with normalization: half"
        )
    use_decoding(tokenizer, config.decoding)
    batches, count = read_pairs(config, modality)
    scores = ReconstructionScores(tokenizer, config.networks, device)
    encoding, decoding = Speed(device), Speed(device)
    scored_on = device if device.type == "cuda" else torch.device("cpu")  # sums are in float64, which mps has not
    shown: list[list[Cell]] = []
    start = 0
    with torch.inference_mode():
        for pair in _progress(batches, -(-count // config.batch_size)):
            size = len(pair.inputs)
            numbers = range(start, start + size)
            seeds = torch.tensor([torch_seed(config.seed, "reconstruct", n) for n in numbers]).to(device)
            inputs, truth = pair.inputs.to(device), pair.truth
            if scores.content == "features" and hasattr(tokenizer, "features"):
                inputs = tokenizer.features(inputs)  # made of images by another network
                truth = to_natural(inputs, modality)
            ids = encoding.of(lambda: tokenizer.encode(inputs), size)  # noqa: B023
            images = decoding.of(lambda: tokenizer.decode(ids, seeds=seeds), size)  # noqa: B023
            images, truth = images.to(scored_on), truth.to(scored_on)
            scores.add(ids, images, truth)
            rest = max(0, config.num_pictures - start)
            shown += [scores.pictures(one, true) for one, true in zip(images[:rest], truth[:rest], strict=True)]
            start += size
    found, missing = scores.values()
    found |= {"encode_images_per_second": encoding.per_second, "decode_images_per_second": decoding.per_second}
    table = PictureTable(
        "reconstruction",
        "Originals beside their reconstructions",
        f"Each original became {tokenizer.grid.num_tokens} tokens, and these alone the picture beside it.",
        scores.columns,
        shown,
    )
    facts = {
        "data": f"{config.data}, {count} samples",
        "tokens": f"{scores.usage.num_tokens:,}",
        **({"decoding": decoding_in_words(tokenizer)} if hasattr(tokenizer, "sampling") else {}),
    }
    task = f"{modality.key}_reconstruction"
    return Outcome({task: found}, [table], facts, modality.classes, missing)


def content_of(modality: Modality) -> Content:
    """What is compared: it decides the metrics."""
    if modality.is_discrete:
        return "labels"
    if modality.teacher is not None:
        return "features"
    if modality.decode == "depth16":
        return "depth"
    if modality.decode == "normal":
        return "normals"
    return "image" if modality.decode in ("image", "gray") and modality.channels in (1, 3) else "features"


class Pair(NamedTuple):
    """A batch of samples.

    Args:
        inputs: (B, C, H, W) normalised values or (B, H, W) labels, as in training.
        truth: the same in natural units; labels without a class are negative.
    """

    inputs: Tensor
    truth: Tensor


@dataclass(frozen=True)
class _Pairs:
    """Samples to batches, in loader processes.

    Args:
        modality: what the tokenizer reads.
        natural: where the truth is; None: it follows from what the tokenizer reads.
    """

    modality: Modality
    natural: str | None

    def prepare(self, sample: Mapping[str, Any], rng: np.random.Generator) -> tuple[Any, Any]:
        return sample[self.modality.name], sample[self.natural or self.modality.name]

    def collate(self, items: Sequence[tuple[Any, Any]]) -> Pair:
        inputs, truth = (torch.from_numpy(np.stack(values)) for values in zip(*items, strict=True))
        if self.natural is not None:
            return Pair(inputs, truth)
        if not self.modality.is_discrete:
            return Pair(inputs, to_natural(inputs, self.modality))
        # What stands for "no label" among the classes is not a class to get right.
        return Pair(inputs, truth.masked_fill(truth == 0, -1) if self.modality.decode == "labels_void_first" else truth)


def read_pairs(config: TokenizerEvaluation, modality: Modality) -> tuple[Iterator[Pair], int]:
    """The samples of an evaluation batch by batch, and their number.

    Raises:
        DataError: if data is missing, empty or damaged.
    """
    wanted, natural = [modality], None
    if modality.normalization in ("standardize", "log"):
        # These lose the scale, or what is out of range: the truth is read a second time, as it is.
        natural = f"{modality.name}+natural"
        wanted.append(replace(modality, name=natural, normalization="none"))
    data = DatasetConfig(
        path=config.data,
        crop=config.crop,
        max_samples=config.num_samples,
        modality_name_map={config.source: modality.source} if config.source else {},
    )
    dataset: AlignedDataset = build_dataset("data", data, ModalitySet(wanted))
    pairs = _Pairs(modality, natural)
    batches = evaluate_batches(
        dataset,
        pairs.prepare,
        pairs.collate,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        seed=config.seed,
    )
    return batches, len(dataset)


class ReconstructionScores:
    """All scores of a tokenizer, and the pictures of single samples.

    Args:
        tokenizer: which modality it has decides what is measured.
        networks: names of the metrics that colour images are also given; see `NETWORKS`.
        device: where those run.
    """

    def __init__(self, tokenizer: Tokenizer, networks: Sequence[str], device: torch.device) -> None:
        self.modality, self.grid = tokenizer.modality, tokenizer.grid
        self.content = content_of(self.modality)
        self.usage = CodeUsage(tokenizer.vocab_size)
        self.scores = scores_of(self.modality)
        self.bicubic = scores_of(self.modality) if self.content == "image" else {}
        colours = self.content == "image" and self.modality.channels == 3
        self.networks = {name: NETWORKS[name](device) for name in networks} if colours else {}
        self.columns = ["original", "reconstruction", *(["one pixel per token"] if self.bicubic else [])]

    def add(self, ids: Tensor, images: Tensor, truth: Tensor) -> None:
        """Add a batch.

        Args:
            ids: (B, h, w) tokens.
            images: what became of them, in natural units.
            truth: the same shape.

        Raises:
            CheckpointError: if ids or images are not what the tokenizer promises.
        """
        self._check(ids, images, truth)
        self.usage.add(ids)
        images, truth = self._comparable(images), self._comparable(truth)
        for score in (*self.scores.values(), *self.networks.values()):
            score.add(images, truth)
        for score in self.bicubic.values():
            score.add(one_pixel_per_token(truth, self.grid), truth)

    def values(self) -> tuple[dict[str, float], dict[str, str]]:
        """Metric -> value, and metric -> reason for those that have none."""
        found, missing = {}, {}
        for name, score in (*self.scores.items(), *self.networks.items()):
            found[name] = score.value()
            if name in self.bicubic:
                found[_BICUBIC + name] = self.bicubic[name].value()
            if name == "psnr" and self.bicubic:
                found["psnr_gain"] = found[name] - found[_BICUBIC + name]
            if found[name] != found[name]:
                reason = getattr(score, "reason", "") or _WHY_NOT_A_NUMBER.get(name, "it is not a number")
                missing[name] = reason
        return {name: value for name, value in found.items() if value == value} | self.usage.values(), missing

    def pictures(self, image: Tensor, truth: Tensor) -> list[Cell]:
        """The original, its reconstruction, and what is in one pixel per token."""
        cells: list[Cell] = [draw(self.modality, truth), draw(self.modality, image, like=truth)]
        if self.bicubic:
            reduced = one_pixel_per_token(self._comparable(truth[None]), self.grid)[0]
            cells.append(draw(replace(self.modality, decode="image"), reduced))
        return cells

    def _comparable(self, values: Tensor) -> Tensor:
        """Images in [0, 1]; others as they are."""
        if self.content != "image":
            return values
        low, high = self.modality.value_range or (0.0, 1.0)
        return ((values.float() - low) / (high - low)).clamp(0, 1)

    def _check(self, ids: Tensor, images: Tensor, truth: Tensor) -> None:
        name, vocab_size = self.modality.name, self.usage.counts.numel()
        if ids.is_floating_point() or not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
            raise CheckpointError(
                f"the tokenizer of '{name}' encodes to {ids.dtype} from {ids.min()} to {ids.max()}; expected whole "
                f"numbers from 0 to {vocab_size - 1}. Its weights are damaged, or its vocab_size is wrong"
            )
        if images.shape != truth.shape:
            raise CheckpointError(
                f"the tokenizer of '{name}' decodes to shape {tuple(images.shape)}; expected {tuple(truth.shape)}, "
                "as it was encoded. `decode` has to give natural units in the size of the input"
            )
        if images.is_floating_point() and not bool(torch.isfinite(images).all()):
            raise CheckpointError(
                f"the tokenizer of '{name}' decodes to values that are not finite: its weights are damaged, or its "
                "training diverged. Train it again with a smaller learning rate"
            )
        if self.content == "labels" and not 0 <= int(images.min()) <= int(images.max()) < self.modality.vocab_size:
            raise CheckpointError(
                f"the tokenizer of '{name}' decodes to labels from {images.min()} to {images.max()}; expected 0 to "
                f"{self.modality.vocab_size - 1}"
            )


def scores_of(modality: Modality) -> dict[str, Score]:
    """Fresh sums of the metrics of a modality, by their names in `metrics.json`."""
    match content_of(modality):
        case "labels":
            return {"miou": IoUScore(modality.vocab_size)}
        case "depth":
            return {"abs_rel": MeanScore(metrics.abs_rel), "delta1": MeanScore(metrics.delta1)}
        case "normals":
            return {"mean_angle": MeanScore(metrics.mean_angle)}
        case "image":
            return {
                "psnr": PsnrScore(),
                "ssim": MeanScore(metrics.ssim),
                "high_frequency_ratio": RatioScore(metrics.high_frequency_energy),
            }
        case "features":
            return {"cosine_similarity": MeanScore(metrics.cosine_similarity), "explained_variance": ExplainedScore()}


def use_decoding(tokenizer: Any, decoding: DecodingConfig) -> None:
    """Decode as a recipe says from now on.

    Raises:
        ConfigError: if the tokenizer decodes without sampling, or not so.
    """
    given = {name: value for name, value in asdict(decoding).items() if value is not None}
    if not given:
        return
    if not hasattr(tokenizer, "sampling"):
        raise ConfigError(
            f"decoding.{next(iter(given))} is for diffusion decoders, but the tokenizer of '{tokenizer.modality.name}' "
            "decodes directly: leave `decoding` out"
        )
    tokenizer.use_sampling(**given)


def decoding_in_words(tokenizer: Any) -> str:
    """How a diffusion decoder is run."""
    sampling = tokenizer.sampling
    return f"{sampling.scheduler}, {sampling.num_steps} steps, guidance {sampling.guidance:g}"


class Speed:
    """Images per second of one kind of work.

    Args:
        device: where it is done; its queue is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spent: list[tuple[int, float]] = []

    def of(self, work: Callable[[], Tensor], count: int) -> Tensor:
        """Do the work on `count` images."""
        self._wait()
        start = time.perf_counter()
        result = work()
        self._wait()
        self._spent.append((count, time.perf_counter() - start))
        return result

    @property
    def per_second(self) -> float:
        """Over all batches but the first, in which kernels are chosen and memory is set aside, if there are more."""
        spent = self._spent[1:] or self._spent
        return sum(count for count, _ in spent) / max(sum(seconds for _, seconds in spent), 1e-9)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()


def _progress(batches: Iterator[Pair], total: int) -> Iterator[Pair]:
    from rich.progress import track

    yield from track(batches, "encode and decode", total=total, transient=True)
