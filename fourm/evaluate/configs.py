"""What an evaluation measures, free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fourm import config as configs
from fourm import recipes
from fourm.config import slot
from fourm.data.configs import CropConfig
from fourm.data.packing_configs import PACKINGS
from fourm.evaluate.caption_configs import CaptionsEvaluation, ClassifierConfig
from fourm.evaluate.retrieval_configs import RetrievalEvaluation
from fourm.ranges import check_range
from fourm.registry import Registry

Decoding = Literal["expected", "argmax"]


@dataclass
class EvaluateConfig:
    """Measure a trained model on held-out data.

    Args:
        kind: `rooms` (RGB to everything) or `fashion` (image to caption and back).
        model: model folder, output folder of a pretraining run, or repository on the Hub.
        test: held-out data set.
        train: training data set, which the baselines are computed from.
        output: folder for `metrics.json`, `report.html` and `pictures/`.
        num_samples: held-out samples used; None: all.
        num_train: training samples used for the baselines; None: all.
        seed: of everything that is drawn.
        batch_size: samples generated together.
        device: auto, cuda, mps or cpu.
        decoding: how one-step predictions become images: `expected` decodes the mean code under the predicted
            probabilities, `argmax` the likeliest code.
        label_decoding: the same for label maps.
        text_context: rooms: dense tasks that are predicted first and given, with RGB, to the captions and boxes; the
            answers from RGB alone are measured beside them as `direct_`.
        named_share: rooms: a caption should name the classes that cover at least this share of the image.
        num_pictures: rows of the grids in the report.
        guidance: guidance weight when generating from captions.
        num_steps: ROAR steps when generating from captions.
        temperature: when generating from captions.
        decoders: rooms: label -> tokenizer folder, to compare what they make of the same images.
        num_captions: fashion: captions per class for caption -> image.
        num_outlines: fashion: photographs for image -> silhouette and edges.
        classifier: fashion: the judge.
        logs: name -> `log.jsonl` of a training run, for the learning curves.
        stages: JSON file with the seconds of each stage, for the report.
    """

    kind: Literal["rooms", "fashion"]
    model: Path
    test: Path
    train: Path
    output: Path
    num_samples: int | None = None
    num_train: int | None = None
    seed: int = 0
    batch_size: int = 64
    device: str = "auto"
    decoding: Decoding = "expected"
    label_decoding: Decoding = "expected"
    text_context: list[str] = field(default_factory=lambda: ["semseg"])
    named_share: float = 1 / 34
    num_pictures: int = 8
    guidance: float = 3.0
    num_steps: int = 8
    temperature: float = 1.0
    decoders: dict[str, Path] = field(default_factory=dict)
    num_captions: int = 100
    num_outlines: int = 2000
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    logs: dict[str, Path] = field(default_factory=dict)
    stages: Path | None = None

    def __post_init__(self) -> None:
        check_range(self, "num_samples", "num_train", "batch_size", "num_pictures", "num_steps", least=1)
        check_range(self, "num_captions", "num_outlines", least=1)
        check_range(self, "temperature", above=0)
        check_range(self, "named_share", least=0, most=1)


@dataclass(frozen=True)
class DecodingConfig:
    """How a diffusion decoder is run; what is not given is as the tokenizer was saved.

    Args:
        scheduler: `ddim`, `dpm` or `unipc`.
        num_steps: calls of the network.
        guidance: weight of classifier-free guidance.
    """

    scheduler: Literal["ddim", "dpm", "unipc"] | None = None
    num_steps: int | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        check_range(self, "num_steps", least=1)


@dataclass
class TokenizerEvaluation:
    """Measure how well a tokenizer gives back what it encodes.

    Args:
        kind: `tokenizer`.
        tokenizer: folder of the tokenizer, or output folder of its training.
        data: held-out data set.
        output: folder for `metrics.json`, `report.html` and `pictures/`.
        source: folder of the modality in the data, where it is not called like the modality's source.
        num_samples: samples used; None: all.
        crop: which part of each image is encoded.
        seed: of random crops and of what decoders draw; each sample has its own.
        batch_size: samples encoded and decoded together.
        num_workers: processes that read data; 0 reads between batches.
        device: auto, cuda, mps or cpu.
        decoding: scheduler and steps of a diffusion decoder.
        teacher_weights: file with the weights of the network whose features are encoded; None: as in training.
        networks: metrics of colour images that need a trained network, whose weights are downloaded when they are not
            there: `lpips`, `fid`. What cannot be had is left out, and the report says why.
        num_pictures: samples shown beside their reconstructions.
    """

    kind: Literal["tokenizer"]
    tokenizer: Path
    data: str
    output: Path
    source: str | None = None
    num_samples: int | None = None
    crop: CropConfig = field(default_factory=lambda: CropConfig("center"))
    seed: int = 0
    batch_size: int = 32
    num_workers: int = 0
    device: str = "auto"
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    teacher_weights: Path | None = None
    networks: list[Literal["lpips", "fid"]] = field(default_factory=lambda: ["lpips", "fid"])
    num_pictures: int = 8

    def __post_init__(self) -> None:
        check_range(self, "num_samples", "batch_size", "num_pictures", least=1)
        check_range(self, "num_workers", least=0)


@dataclass(frozen=True)
class RetrievalConfig:
    """Find what belongs together by a feature that the model predicts from either side (4M-21, sec. 4.2).

    Args:
        feature: target that decodes to features, such as `tok_dinov2_global`.
        query: what is asked with.
        counts: how many of the nearest are looked at.
    """

    feature: str
    query: str = "caption"
    counts: list[int] = field(default_factory=lambda: [1, 5, 10])

    def __post_init__(self) -> None:
        check_range(self, "counts", least=1)


@dataclass(frozen=True)
class TextToImageConfig:
    """Generate an image from each caption.

    Args:
        num_steps: decoding steps.
        temperature, top_p, guidance: see `fourm.generate.plan.Step`.
        inception: file with the weights of torch-fidelity's Inception-v3, for FID; None: downloaded.
        clip: folder of a CLIP model, for the CLIP score; None: ViT-L/14, downloaded.
    """

    num_steps: int = 25
    temperature: float = 3.0
    top_p: float | None = None
    guidance: float = 3.0
    inception: Path | None = None
    clip: Path | None = None

    def __post_init__(self) -> None:
        check_range(self, "num_steps", least=1)
        check_range(self, "temperature", least=0)
        check_range(self, "top_p", above=0, most=1)


AnswerTask = Literal["depth", "normal", "semseg", "det", "caption", "human_poses", "sam_instance"]


@dataclass
class AnswersEvaluation:
    """Measure what a model predicts out of the box, by generation, on aligned data of the user's.

    Args:
        kind: `answers`.
        model: model folder, output folder of a pretraining run, or repository on the Hub.
        data: held-out data set; images are cut to their centre and brought to the size that the model sees.
        output: folder for `metrics.json`, `report.html` and `pictures/`.
        given: what answers are predicted from.
        tasks: what is predicted; empty: all that the model and the data have.
        retrieval: measure retrieval too.
        text_to_image: measure images made of captions too.
        num_samples: samples used; None: all.
        ensemble: answers to each question, which are averaged, or vote (4M-21, table 5). 1: all tokens in one step,
            decoded by `decoding`; more: drawn with `temperature` and `top_p` in `num_steps`.
        num_steps, temperature, top_p: of an ensemble's draws.
        decoding: see `EvaluateConfig`; label maps take the likeliest code.
        skeleton: npz file with the joints of SMPL's body, which its licence forbids to ship, to measure the places of
            joints; see docs/evaluation.md. None: people's turns alone are measured.
        depth_alignment: before depth is measured, each image gets the `scale_shift` that brings it closest to the
            truth, the `median` of the truth, or nothing (`none`), for models of metric depth.
        seed: of everything that is drawn.
        batch_size: samples generated together.
        device: auto, cuda, mps or cpu.
        num_pictures: rows of the grid in the report.
    """

    kind: Literal["answers"]
    model: Path
    data: Path
    output: Path
    given: str = "rgb"
    tasks: list[AnswerTask] = field(default_factory=list)
    retrieval: RetrievalConfig | None = None
    text_to_image: TextToImageConfig | None = None
    num_samples: int | None = None
    ensemble: int = 1
    num_steps: int = 1
    temperature: float = 1.0
    top_p: float | None = None
    decoding: Decoding = "expected"
    skeleton: Path | None = None
    depth_alignment: Literal["scale_shift", "median", "none"] = "scale_shift"
    seed: int = 0
    batch_size: int = 16
    device: str = "auto"
    num_pictures: int = 8

    def __post_init__(self) -> None:
        check_range(self, "num_samples", "ensemble", "num_steps", "batch_size", "num_pictures", least=1)
        check_range(self, "temperature", least=0)
        check_range(self, "top_p", above=0, most=1)


@dataclass
class DocumentsEvaluation:
    """Measure whether a model finds the answers in documents the likeliest: of questions about pictures, for instance.

    Args:
        kind: `documents`.
        model: model folder, output folder of a pretraining run, or repository on the Hub.
        data: file of documents, such as `questions.jsonl` of `fourm prepare documents`.
        packing: how documents become tokens, as in the recipe that the model was trained by; one document a row.
        output: folder for `metrics.json`, `report.html` and `pictures/`.
        blind: measure the model without the pictures too.
        num_samples: documents used, the first ones; None: all.
        seed: of what the packing draws, and of the examples shown.
        batch_size: documents at a time.
        device: auto, cuda, mps or cpu.
        num_pictures: examples in the report.
    """

    kind: Literal["documents"]
    model: Path
    data: Path
    packing: Any = slot(PACKINGS)
    output: Path = Path("outputs/documents")
    blind: bool = True
    num_samples: int | None = None
    seed: int = 0
    batch_size: int = 32
    device: str = "auto"
    num_pictures: int = 8

    def __post_init__(self) -> None:
        check_range(self, "num_samples", "batch_size", least=1)
        check_range(self, "num_pictures", least=0)


EVALUATIONS = Registry(
    "kind of evaluation",
    {
        "rooms": "fourm.evaluate.configs:EvaluateConfig",
        "fashion": "fourm.evaluate.configs:EvaluateConfig",
        "tokenizer": "fourm.evaluate.configs:TokenizerEvaluation",
        "answers": "fourm.evaluate.configs:AnswersEvaluation",
        "documents": "fourm.evaluate.configs:DocumentsEvaluation",
        "captions": "fourm.evaluate.caption_configs:CaptionsEvaluation",
        "retrieval": "fourm.evaluate.retrieval_configs:RetrievalEvaluation",
    },
)


ModelEvaluation = EvaluateConfig | AnswersEvaluation | DocumentsEvaluation | CaptionsEvaluation | RetrievalEvaluation


def load(source: str | Path, overrides: Sequence[str] = ()) -> ModelEvaluation | TokenizerEvaluation:
    """Read the recipe of an evaluation of any kind.

    Args:
        source: a YAML file, or the name of a shipped one such as `rooms`.
        overrides: `key.subkey=value`, applied last.

    Raises:
        ConfigError: if it does not say what to measure, or what it says is wrong.
    """
    values = recipes.read(recipes.find(source, "evaluate"), overrides)
    values.pop("variables", None)
    schema: Any = EVALUATIONS.resolve(str(values.get("kind")), where=f"kind in {source}")
    return configs.build(schema, values, where=str(source))
