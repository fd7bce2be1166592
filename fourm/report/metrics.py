"""What the numbers in a `metrics.json` mean, in plain words, and how they compare with their baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Better = Literal["lower", "higher", "near 1"]


@dataclass(frozen=True)
class Meaning:
    """How a metric reads.

    Args:
        title: its name in tables.
        sentence: what it measures, for a reader who has never seen it.
        better: whether a lower or a higher value is better, or one near 1.
        unit: `%` (the value is a share), `dB`, `degrees` or nothing.
    """

    title: str
    sentence: str
    better: Better
    unit: str = ""


@dataclass(frozen=True)
class MetricRow:
    """One line of a metrics table.

    Args:
        task: what was predicted from what, as in `RGB to depth`.
        meaning: how the metric reads.
        value: the result.
        references: name -> value of what it is compared with (`baseline`, `linear`, `direct`, `bicubic`); they should
            be beaten.
        bounds: name -> value of what it cannot or need not exceed (`upper bound`); shown, not compared.
    """

    task: str
    meaning: Meaning
    value: float
    references: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)

    def beats(self, reference: float) -> bool:
        """Whether the result is better than `reference`."""
        if self.meaning.better == "near 1":
            return abs(self.value - 1) < abs(reference - 1)
        return self.value < reference if self.meaning.better == "lower" else self.value > reference

    @property
    def beats_all(self) -> bool | None:
        """Whether the result is better than every reference; None without references."""
        return all(self.beats(value) for value in self.references.values()) if self.references else None


MEANINGS: dict[str, Meaning] = {
    "abs_rel": Meaning(
        "relative depth error",
        "Mean distance to the true depth as a share of it, after one scale and shift per image: 0.1 is off by 10 %.",
        "lower",
    ),
    "mean_angle": Meaning(
        "normal error", "Mean angle between the predicted and the true surface direction.", "lower", "degrees"
    ),
    "miou": Meaning(
        "mean IoU",
        "Overlap of predicted and true regions, as intersection over union, averaged over the classes: 1 is perfect.",
        "higher",
    ),
    "object_f1": Meaning(
        "object F1",
        "Agreement of the objects a caption names with those in the scene: 1 names exactly what is visible.",
        "higher",
    ),
    "accuracy": Meaning("accuracy", "Share of what is asked that is answered rightly.", "higher", "%"),
    "word_accuracy": Meaning(
        "words that are there", "Share of the named words that are in the picture.", "higher", "%"
    ),
    "psnr": Meaning(
        "PSNR",
        "Closeness to the true pixels on a logarithmic scale: 6 dB more halves the typical error.",
        "higher",
        "dB",
    ),
    "loss": Meaning("loss", "Mean surprise per predicted token in nats: 0 is certainty.", "lower"),
    "perplexity": Meaning(
        "perplexity of the codes",
        "Number of equally frequent codes that would say as much as the codes do; at most the size of the codebook.",
        "higher",
    ),
    "codes_used": Meaning("codes used", "Share of the codebook's entries that occur in the data.", "higher", "%"),
    "delta1": Meaning(
        "delta 1",
        "Share of pixels whose depth is off by less than a factor of 1.25, after one scale and shift per image.",
        "higher",
        "%",
    ),
    "cosine_similarity": Meaning(
        "cosine similarity",
        "Mean cosine of the angle between features and their reconstruction: 1 is perfect.",
        "higher",
    ),
    "explained_variance": Meaning(
        "explained variance",
        "One minus squared error over variance: 100 % is perfect, always giving the mean vector is 0.",
        "higher",
        "%",
    ),
    "ssim": Meaning(
        "SSIM", "Likeness of brightness, contrast and structure in small windows: 1 is a perfect copy.", "higher"
    ),
    "lpips": Meaning(
        "LPIPS", "Distance between the features that a trained network sees in both images: 0 is the same.", "lower"
    ),
    "fid": Meaning(
        "FID",
        "Distance between the distributions of true and reconstructed images, as features of a trained network. "
        "It falls with the number of images; compare values of the same number only.",
        "lower",
    ),
    "psnr_gain": Meaning(
        "gain over bicubic",
        "PSNR above that of the image reduced to one pixel per token and enlarged again.",
        "higher",
        "dB",
    ),
    "high_frequency_ratio": Meaning(
        "fine detail",
        "Energy above half of the largest frequency, as a share of the original's: below 1 is blur, above 1 noise.",
        "near 1",
    ),
    "encode_images_per_second": Meaning("images encoded per second", "Without reading them from disk.", "higher"),
    "decode_images_per_second": Meaning("images decoded per second", "All steps of the decoder together.", "higher"),
    "joint_angle": Meaning("turn of the joints", "Mean angle by which joints are turned wrongly.", "lower", "degrees"),
    "body_angle": Meaning("turn of the body", "Mean angle by which bodies are turned wrongly.", "lower", "degrees"),
    "mpjpe": Meaning("MPJPE", "Mean distance of joints to the true ones in mm, counted from the pelvis.", "lower"),
    "pa_mpjpe": Meaning("PA-MPJPE", "The same after bodies are moved, turned and scaled to fit best.", "lower"),
    "found": Meaning("people found", "Share of the people of whom a box overlaps by half or more.", "higher", "%"),
    "point_iou": Meaning(
        "IoU at points", "Best overlap of the masks that are written at a point of each instance, on average.", "higher"
    ),
    "choice_accuracy": Meaning(
        "right of two",
        "How often the name that is asked is likelier than the other one: half the time by chance.",
        "higher",
        "%",
    ),
    **{
        f"recall_at_{n}": Meaning(
            f"found among {n}", f"Share of queries with what belongs to them among the nearest {n}.", "higher", "%"
        )
        for n in (1, 5, 10)
    },
    "map": Meaning("mAP", "Mean average precision of the predicted boxes over IoU thresholds .5 to .95.", "higher"),
}

_REFERENCE_PREFIXES = {
    "baseline_": "baseline",
    "linear_": "linear",
    "direct_": "direct",
    "bicubic_": "bicubic",
    "blind_": "without pictures",
    "chance_": "chance",
}
_BOUNDS = {"upper_bound": "upper bound", "classifier_accuracy": "classifier on real images"}
_NAMES = {"rgb": "RGB", "semseg": "segmentation", "normal": "normals", "canny": "edges", "det": "boxes", "sam": "SAM"}


def rows(metrics: Mapping[str, Mapping[str, float]]) -> list[MetricRow]:
    """Table lines of a `metrics.json`.

    Args:
        metrics: task -> {metric: value, baseline_metric: value, linear_metric: value, upper_bound: value, ...}. A
            metric that is not in `MEANINGS` is listed by its name; lower is better if that holds `error` or `loss`.

    Returns:
        One line per task and metric, in the order given.
    """
    lines: list[MetricRow] = []
    for task, values in metrics.items():
        bounds = {label: values[key] for key, label in _BOUNDS.items() if key in values}
        for key, value in values.items():
            if key in _BOUNDS or any(key.startswith(prefix) for prefix in _REFERENCE_PREFIXES):
                continue
            references = {
                label: values[prefix + key] for prefix, label in _REFERENCE_PREFIXES.items() if prefix + key in values
            }
            lines.append(MetricRow(task_title(task), meaning(key), value, references, bounds))
    return lines


def task_title(task: str) -> str:
    """`rgb_to_depth` as `RGB to depth`."""
    words = [_NAMES.get(word, word) for word in task.split("_")]
    words[0] = words[0][:1].upper() + words[0][1:]
    return " ".join(words)


def meaning(key: str) -> Meaning:
    """How the metric called `key` reads; an unknown one is its own title."""
    if key in MEANINGS:
        return MEANINGS[key]
    better: Better = "lower" if any(part in key for part in ("error", "loss", "seconds")) else "higher"
    return Meaning(key.replace("_", " "), "", better)


def format_value(value: float, unit: str = "") -> str:
    """A number with three significant digits and its unit; shares with unit `%` are multiplied by 100."""
    if value != value:
        return "–"
    if unit == "%":
        return f"{100 * value:.1f} %"
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
    return f"{text} {'°' if unit == 'degrees' else unit}".strip()
