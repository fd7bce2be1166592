"""How good predictions are, as pure functions of tensors and sets. All sums are in double precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple

import torch
from torch import Tensor, nn

_ROWS_AT_ONCE = 1024


def align_depth(depth: Tensor, truth: Tensor) -> Tensor:
    """The scale and shift of each image that bring `depth` closest to `truth` in least squares, applied.

    A constant prediction becomes the mean of the truth.

    Args:
        depth: (B, 1, H, W) or (B, H, W), in any unit.
        truth: the same shape, metres; pixels at or below 0 are unknown.

    Returns:
        (B, P) float64, metres.
    """
    predicted, true = depth.flatten(1).double(), truth.flatten(1).double()
    known = (true > 0).double()
    count = known.sum(1, keepdim=True).clamp(min=1)
    mean_p, mean_t = ((values * known).sum(1, keepdim=True) / count for values in (predicted, true))
    centred = (predicted - mean_p) * known
    spread = centred.square().sum(1, keepdim=True)
    scale = (centred * (true - mean_t)).sum(1, keepdim=True) / spread.clamp(min=1e-12)
    return torch.where(spread > 1e-9, (predicted - mean_p) * scale, 0.0) + mean_t


def align_median(depth: Tensor, truth: Tensor) -> Tensor:
    """The scale of each image that gives `depth` the median of `truth`, applied (Zhou et al. 2017).

    Args:
        depth: (B, 1, H, W) or (B, H, W), in any unit.
        truth: the same shape, metres; pixels at or below 0 are unknown.

    Returns:
        (B, P) float64, metres.
    """
    predicted, true = depth.flatten(1).double(), truth.flatten(1).double()
    known = true > 0
    medians = [
        torch.where(known, values, torch.nan).nanmedian(1, keepdim=True).values.nan_to_num(1.0)
        for values in (predicted, true)
    ]
    return predicted * (medians[1] / medians[0].clamp(min=1e-9))


def abs_rel(depth: Tensor, truth: Tensor) -> Tensor:
    """Mean of |d - t| / t after one least-squares scale and shift per image.

    Args:
        depth: (B, 1, H, W) or (B, H, W), in any unit.
        truth: the same shape, metres; pixels at or below 0 are unknown and left out.

    Returns:
        (B,) float64.
    """
    true = truth.flatten(1).double()
    known = true > 0
    errors = torch.where(known, (align_depth(depth, truth) - true).abs() / true.clamp(min=1e-9), 0.0)
    return errors.sum(1) / known.sum(1).clamp(min=1)


def delta1(depth: Tensor, truth: Tensor) -> Tensor:
    """Share of pixels whose depth is off by less than a factor of 1.25, after one scale and shift per image.

    Args:
        depth: (B, 1, H, W) or (B, H, W), in any unit.
        truth: the same shape, metres; pixels at or below 0 are unknown and left out.

    Returns:
        (B,) float64 in [0, 1].
    """
    aligned, true = align_depth(depth, truth), truth.flatten(1).double()
    known = true > 0
    close = (aligned < 1.25 * true) & (true < 1.25 * aligned) & known
    return close.sum(1).double() / known.sum(1).clamp(min=1)


def depth_errors(depth: Tensor, truth: Tensor, low: float = 1e-3, high: float = float("inf")) -> Tensor:
    """Errors of metric depth, as the benchmarks of NYUv2 count them (Eigen et al. 2014), without fitting a scale.

    Args:
        depth: (B, 1, H, W) or (B, H, W) metres.
        truth: the same shape; pixels outside `low` to `high` are left out, and images without others too.

    Returns:
        (images with a known pixel, 4) float64: share of pixels that are off by less than a factor of 1.25, mean of
        |d - t| / t, root of the mean of (d - t)^2, mean of |log10 d - log10 t|.
    """
    predicted, true = depth.flatten(1).double().clamp(min=1e-6), truth.flatten(1).double()
    known = (true >= low) & (true <= high)
    predicted, true, known = (values[known.any(1)] for values in (predicted, true, known))
    safe = torch.where(known, true, 1.0)
    error = (predicted - safe).abs()
    close = torch.maximum(predicted / safe, safe / predicted) < 1.25
    columns = [close.double(), error / safe, error.square(), (predicted.log10() - safe.log10()).abs()]
    means = torch.stack([(column * known).sum(1) / known.sum(1) for column in columns], 1)
    means[:, 2] = means[:, 2].sqrt()
    return means


def mean_angle(normals: Tensor, truth: Tensor) -> Tensor:
    """Mean angle between directions, in degrees.

    Args:
        normals: (B, 3, H, W) of any length above 0.
        truth: the same.

    Returns:
        (B,) float64, each in [0, 180].
    """
    return angles(normals, truth).flatten(1).mean(1)


def angles(normals: Tensor, truth: Tensor) -> Tensor:
    """(B, H, W) float64 degrees between directions (B, 3, H, W) of any length above 0."""
    # Exact also for tiny angles, where the arc cosine of a rounded product is not.
    sine = torch.linalg.cross(normals, truth, dim=1).square().sum(1).sqrt()
    return torch.rad2deg(torch.atan2(sine, (normals * truth).sum(1)).double())


def confusion(labels: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """How often each true class (rows) was labelled as each class (columns).

    Args:
        labels: class ids of any shape.
        truth: the same shape; ids outside [0, num_classes) are void and left out.
        num_classes: number of classes.

    Returns:
        (num_classes, num_classes) int64; confusion matrices of batches add up.
    """
    known = (truth >= 0) & (truth < num_classes)
    pairs = truth[known].long() * num_classes + labels[known].long()
    return torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def mean_iou(matrix: Tensor) -> float:
    """Intersection over union, averaged over the classes that occur in the truth.

    Args:
        matrix: (C, C) as `confusion` gives it, summed over a data set.
    """
    matrix = matrix.double()
    hits, true, labelled = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    occurs = true > 0
    return float((hits / (true + labelled - hits).clamp(min=1))[occurs].mean()) if bool(occurs.any()) else float("nan")


class SetCounts(NamedTuple):
    """Agreement of named with true sets, summed over a data set.

    Args:
        hits: true things that were named.
        named: things named.
        true: true things.
    """

    hits: int
    named: int
    true: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall of the sums (micro-average); 1 if there was nothing to name."""
        return 2 * self.hits / (self.named + self.true) if self.named + self.true else 1.0


def set_counts(named: Iterable[Set[str]], true: Iterable[Set[str]]) -> SetCounts:
    """Compare the sets named for each sample with the true ones."""
    pairs = list(zip(named, true, strict=True))
    return SetCounts(sum(len(a & b) for a, b in pairs), sum(len(a) for a, _ in pairs), sum(len(b) for _, b in pairs))


def psnr(images: Tensor, truth: Tensor, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB of the mean squared error over all values given.

    Args:
        images: any shape, in [0, peak].
        truth: the same shape.
        peak: largest possible value.
    """
    error = (images.double() - truth.double()).square().mean()
    return float(10 * torch.log10(peak**2 / error.clamp(min=1e-20)))


def ssim(images: Tensor, truth: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): Gaussian windows of deviation 1.5, constants .01 and .03.

    Args:
        images: (B, C, H, W) in [0, 1], at least 6 pixels per side.
        truth: the same shape.

    Returns:
        (B,) float64, at most 1.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    # In float32, as float64 takes thirty times as long on a CPU. It is off by less than 1e-4 where there is texture,
    # and by up to 1e-3 on images of a single colour, whose variance is what rounding leaves.
    values = structural_similarity_index_measure(images.float(), truth.float(), data_range=1.0, reduction="none")
    assert isinstance(values, Tensor)
    return values.double()


def high_frequency_energy(images: Tensor) -> Tensor:
    """Energy of the frequencies above half the Nyquist frequency (0.25 cycles per pixel, in any direction).

    Images are weighed by a Hann window first: otherwise the jumps between opposite borders would count as detail.

    Args:
        images: (B, C, H, W).

    Returns:
        (B,) float64, in no particular unit.
    """
    height, width = images.shape[-2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width))
    power = torch.fft.fft2(images.double() * window.to(images.device)).abs().square()
    return power[..., (radius > 0.25).to(images.device)].flatten(1).sum(1)


def cosine_similarity(vectors: Tensor, truth: Tensor) -> Tensor:
    """Mean cosine of the angle between vectors at the same place.

    Args:
        vectors: (B, C, ...) features; dimensions after the second are places.
        truth: the same shape.

    Returns:
        (B,) float64 in [-1, 1].
    """
    return torch.cosine_similarity(vectors.double(), truth.double(), dim=1).flatten(1).mean(1)


def recall_at(queries: Tensor, things: Tensor, counts: Sequence[int]) -> list[float]:
    """Share of queries whose own thing is among the nearest ones by cosine, for several numbers of these.

    Args:
        queries: (N, D).
        things: (N, D); thing i is what query i is for. Of things that are equally near, the own one counts as last.
        counts: how many of the nearest are looked at.
    """
    return recall_among(queries, things, torch.eye(len(queries), dtype=torch.bool, device=queries.device), counts)


def recall_among(queries: Tensor, things: Tensor, fits: Tensor, counts: Sequence[int]) -> list[float]:
    """Share of queries with something that fits among the nearest by cosine, for several numbers of these.

    Args:
        queries: (Q, D).
        things: (T, D). Of those that are equally near, what fits counts as last.
        fits: (Q, T) bool, at least one of a row.
        counts: how many of the nearest are looked at.
    """
    normed = [nn.functional.normalize(vectors.double(), dim=1) for vectors in (queries, things)]
    before = []
    for some, own in zip(normed[0].split(_ROWS_AT_ONCE), fits.split(_ROWS_AT_ONCE)):
        nearness = some @ normed[1].T
        best = nearness.masked_fill(~own, -torch.inf).amax(1, keepdim=True)
        before.append(((nearness >= best) & ~own).sum(1))
    return [float((torch.cat(before) < count).double().mean()) for count in counts]


def recall_by_chance(fits: Tensor, counts: Sequence[int]) -> list[float]:
    """What `recall_among` is on average if things are drawn at random: 1 - C(T - m, k) / C(T, k) where m of T fit."""
    total, found = fits.shape[1], []
    missing = total - fits.sum(1).double()
    for count in counts:
        left = [((missing - n) / (total - n)).clamp(min=0) for n in range(min(count, total))]
        found.append(float((1 - torch.stack(left).prod(0)).mean()))
    return found


def accuracy(labels: Tensor, truth: Tensor) -> float:
    """Share of equal entries of (N,) labels; -1 stands for no answer."""
    return float((labels == truth).double().mean())
