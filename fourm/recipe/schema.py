"""What each kind of recipe holds, free of torch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourm import catalog
from fourm.config import slot
from fourm.data.configs import DataConfig
from fourm.data.document_form import DocumentForm, form_of
from fourm.errors import ConfigError, did_you_mean
from fourm.generate.phrases import phrases_of
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MODELS
from fourm.models.contrastive_configs import ContrastiveConfig
from fourm.nn.configs import LoRAConfig
from fourm.objectives.configs import OBJECTIVES, AutoregressiveConfig, MaskedConfig
from fourm.objectives.contrastive_config import ContrastiveObjectiveConfig
from fourm.objectives.distill_config import DistillConfig, asking
from fourm.objectives.reconstruct_config import EstimateConfig, ReconstructConfig
from fourm.ranges import check_range
from fourm.recipe.machines import Machines
from fourm.recipe.rows import check_rows
from fourm.tokenizers.configs import TOKENIZERS, DiVAEConfig, VQControlNetConfig
from fourm.tokenizers.teacher_configs import teacher_of
from fourm.tokenizers.visual_decoder_configs import VisualDecoderConfig
from fourm.train.configs import TrainConfig

TEXT = "text"
_CODED = ("sam", "poses")
"""`decode` of texts that hold codes of a tokenizer of their own: masks of instances, poses of bodies."""


@dataclass
class EvaluationConfig:
    """Evaluation during training, with the same masks and crops each time.

    Args:
        max_samples: samples of each validation set; None: all.
        batch_size: samples per rank and batch.
        fixed_input_tokens, fixed_target_tokens: evaluate a second time with these budgets, as `fixed/...`: 128 and 128
            in 4M, so that runs of other budgets can be compared. None: not.
    """

    max_samples: int | None = 256
    batch_size: int = 32
    fixed_input_tokens: int | None = None
    fixed_target_tokens: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "max_samples", "batch_size", "fixed_input_tokens", "fixed_target_tokens", least=1)
        if (self.fixed_input_tokens is None) != (self.fixed_target_tokens is None):
            raise ConfigError(
                "evaluation.fixed_input_tokens and fixed_target_tokens belong together: give both, or leave both out"
            )

    @property
    def fixed_budgets(self) -> tuple[int, int] | None:
        """Input and target tokens of the second evaluation; None: there is none."""
        if self.fixed_input_tokens is None or self.fixed_target_tokens is None:
            return None
        return self.fixed_input_tokens, self.fixed_target_tokens


@dataclass
class PictureConfig:
    """Sample pictures drawn during training (`train.pictures_every_steps`).

    Args:
        given: modalities to generate from; empty: no pictures.
        targets: modalities to generate; empty: all grids that have a tokenizer.
        num_samples: rows of the picture.
    """

    given: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    num_samples: int = 4

    def __post_init__(self) -> None:
        check_range(self, "num_samples", least=1)


@dataclass
class ReconstructionPictureConfig:
    """Pictures of a tokenizer's reconstructions drawn during training (`train.pictures_every_steps`), and at its end.

    Args:
        num_samples: rows of the picture, the first validation samples; 0: no pictures.
        num_steps: most steps of a diffusion decoder.
    """

    num_samples: int = 4
    num_steps: int = 10

    def __post_init__(self) -> None:
        check_range(self, "num_samples", least=0)
        check_range(self, "num_steps", least=1)


def has_tokenizer(modality: Modality) -> bool:
    """Whether a tokenizer beside that of text makes its ids or the codes in its texts, or paints its vectors."""
    return modality.is_slots or modality.decode in _CODED or modality.tokenizer not in (None, TEXT)


@dataclass
class PretrainRecipe:
    """Train an any-to-any model.

    Args:
        name: of the run.
        modalities: names from the catalog, or a mapping name -> inline entry; null leaves one out (see
            `fourm.catalog.resolve`).
        data: what to train and evaluate on.
        model: sizes and options, `kind: multimodal`, or `kind: contrastive` of towers that are compared.
        objective: what is shown and asked, `kind: masked`, `autoregressive`, or `distill` around one of them; or
            `contrastive`, what is compared.
        train: optimizer, schedule, length, checkpoints.
        tokenizers: token modality -> folder of its tokenizer; `text` -> the text tokenizer's file. Needed for texts,
            for pictures, and for an exported model that can read and write images. A text that holds codes, such as
            `sam_instance`, may name the tokenizer of these.
        init_from: model whose weights are the start, as 4M-21 starts from 4M-7: a model folder, the output or a
            checkpoint of another run, or a published model. Its trunk is the same; modalities may be new or dropped,
            and the vocabulary of a text larger, whose new rows start as the mean of the others (Emu).
        lora: train low-rank changes of some linear layers, whose own weights stay; `train.trainable` and `train.freeze`
            say what else is trained. The exported model has them merged.
        phrases: of a model of documents: how questions are put to it, which is saved with it. A name, or texts, see
            `fourm.generate.phrases`; None: as turns where it has seen conversations, or else plainly.
        machines: what it is meant for: `--check` says memory and days for them, and nothing else reads them.
        seed: of weights, data order and masks.
        output: folder of the run.
    """

    name: str
    modalities: Any
    data: DataConfig
    model: Any = slot(MODELS)
    objective: Any = slot(OBJECTIVES, default="masked")
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pictures: PictureConfig = field(default_factory=PictureConfig)
    tokenizers: dict[str, Path] = field(default_factory=dict)
    init_from: Path | None = None
    lora: LoRAConfig | None = None
    phrases: Any = None
    machines: Machines = field(default_factory=Machines)
    seed: int = 0
    output: Path = Path("outputs/pretrain")

    def __post_init__(self) -> None:
        modalities = self.modality_set()
        token_names = [m.name for m in modalities.values() if has_tokenizer(m)] + [TEXT]
        _check_names("tokenizers", "token modality", self.tokenizers, token_names)
        if self.data.resolutions:
            raise ConfigError(
                "data.resolutions is for `fourm train-tokenizer`: a model reads each modality at the size it declares"
            )
        for modality in modalities.values():
            if modality.teacher is not None:
                raise ConfigError(
                    f"modality '{modality.name}' is made of images by a network, which only tokenizers read: use the "
                    f"tokens of its tokenizer, such as tok_{modality.name}"
                )
        if isinstance(self.objective, ReconstructConfig | EstimateConfig):
            raise ConfigError("objective.kind reconstruct is for `fourm train-tokenizer`; use masked")
        self._check_sides()
        phrases_of(self.phrases)
        _check_names("pictures", "modality", (*self.pictures.given, *self.pictures.targets), modalities)
        for split, mixture in (("train", self.data.train), ("val", self.data.val)):
            for name, dataset in mixture.datasets.items():
                key = f"data.{split}.datasets.{name}.modalities"
                _check_names(key, "modality", dataset.modalities or (), modalities)
        self.train.check()

    def _check_sides(self) -> None:
        """See that the model has the parts that the objective asks."""
        alone, objective = getattr(self.model, "encoder_depth", None) == 0, asking(self.objective)
        compares = isinstance(objective, ContrastiveObjectiveConfig)
        if compares != isinstance(self.model, ContrastiveConfig):
            raise ConfigError("objective.kind contrastive and model.kind contrastive belong together: set both")
        if compares and objective.loss == "sigmoid" and self.model.logit_bias is None:
            raise ConfigError("objective.loss sigmoid needs model.logit_bias, -10 in SigLIP: most pairs do not fit")
        if isinstance(objective, MaskedConfig) and alone:
            raise ConfigError(
                "objective.kind masked shows tokens to an encoder, but model.encoder_depth is 0: give it blocks, or "
                "set objective.kind to autoregressive"
            )
        if isinstance(objective, AutoregressiveConfig) and not alone:
            raise ConfigError(
                "objective.kind autoregressive asks a decoder that reads its own table: set model.encoder_depth to 0"
            )
        if isinstance(objective, AutoregressiveConfig):
            check_rows(self.modality_set(), self.model, objective)
        if self.evaluation.fixed_input_tokens is not None and not isinstance(objective, MaskedConfig):
            raise ConfigError("evaluation.fixed_input_tokens fixes the budgets of objective.kind masked; leave it out")

    def modality_set(self) -> ModalitySet:
        """The modalities of the recipe."""
        return catalog.resolve(self.modalities)

    @property
    def document_form(self) -> DocumentForm | None:
        """How documents of text and images are written around the model, for its prompts; None: it sees none."""
        datasets = self.data.train.datasets.values()
        return form_of((dataset.packing for dataset in datasets if dataset.weight > 0), self.phrases)


@dataclass
class TokenizerRecipe:
    """Train a tokenizer for one image-like modality.

    Args:
        name: of the run.
        modality: a name from the catalog, or a mapping with one inline entry.
        tokenizer: network and quantizer, `kind: vqvae`.
        objective: reconstruction loss, `kind: reconstruct`.
        init_from: tokenizer folder to go on from, decoder included: a second stage, for instance with
            `data.resolutions`. Position tables are resized to `grid_size`.
        encoder_from: tokenizer folder whose encoder and codebook alone are the start; with `tokenizer.freeze_encoder`
            they stay, so that the new decoder reads the same tokens.
        pictures: originals beside reconstructions, while training.
        data, train, evaluation, seed, output: as in `PretrainRecipe`.
    """

    name: str
    modality: Any
    data: DataConfig
    tokenizer: Any = slot(TOKENIZERS)
    objective: Any = slot(OBJECTIVES, default="reconstruct")
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    pictures: ReconstructionPictureConfig = field(default_factory=ReconstructionPictureConfig)
    init_from: Path | None = None
    encoder_from: Path | None = None
    seed: int = 0
    output: Path = Path("outputs/tokenizers")

    def __post_init__(self) -> None:
        if self.evaluation.fixed_input_tokens is not None:
            raise ConfigError("evaluation.fixed_input_tokens is for `fourm pretrain`; a tokenizer has no budgets")
        modality = self.raw_modality()
        teacher_of(modality, self.tokenizer.teacher)
        self._check_resolutions(modality)
        if self.init_from is not None and self.encoder_from is not None:
            raise ConfigError(
                "init_from takes a whole tokenizer and encoder_from the encoder and codebook alone; give one of them"
            )
        trained = getattr(self.tokenizer, "has_trained_encoders", False)
        if self.tokenizer.freeze_encoder and not trained and self.init_from is None and self.encoder_from is None:
            raise ConfigError(
                "tokenizer.freeze_encoder keeps the encoder as it is, which here is random: set encoder_from to the "
                "folder of a trained tokenizer"
            )
        kinds = {
            MaskedConfig: "masked",
            AutoregressiveConfig: "autoregressive",
            DistillConfig: "distill",
            ContrastiveObjectiveConfig: "contrastive",
        }
        if type(self.objective) in kinds:
            raise ConfigError(f"objective.kind {kinds[type(self.objective)]} is for `fourm pretrain`; use reconstruct")
        perceptual = getattr(self.objective, "perceptual", None)
        if perceptual is not None and isinstance(self.tokenizer, VQControlNetConfig | VisualDecoderConfig):
            raise ConfigError(
                "objective.perceptual compares images, but this tokenizer is trained on noise: leave the loss out"
            )
        predicted = self.tokenizer.noise.prediction if isinstance(self.tokenizer, DiVAEConfig) else "sample"
        if perceptual is not None and predicted != "sample":
            raise ConfigError(
                f"objective.perceptual compares images, but this denoiser predicts '{predicted}': set "
                "tokenizer.noise.prediction to sample, or leave the perceptual loss out"
            )
        self.train.check()

    def _check_resolutions(self, modality: Modality) -> None:
        # A place of a teacher's map is a patch of the image; where there is one vector alone, its teacher checks.
        stride = self.tokenizer.stride * (modality.grid.patch_size if modality.teacher else 1)
        for resolution in () if modality.map_size() == (1, 1) else self.data.resolutions:
            shorter, longer = sorted(modality.grid.image_size)
            if resolution % stride or longer * resolution % (shorter * stride):
                raise ConfigError(
                    f"data.resolutions: at {resolution} pixels, images of '{modality.name}' do not divide by the "
                    f"tokenizer's {stride} pixels. Give multiples of {stride}, for instance "
                    f"{max(1, round(resolution / stride)) * stride}"
                )

    def raw_modality(self) -> Modality:
        """The modality the tokenizer encodes."""
        spec = self.modality
        modalities = catalog.resolve(spec) if isinstance(spec, str | list | Mapping) else ModalitySet(())
        if len(modalities) != 1:
            raise ConfigError(
                f"modality is {spec!r}; expected one name of the catalog or a mapping with one inline entry"
            )
        return next(iter(modalities.values()))


@dataclass
class TextTokenizerRecipe:
    """Train a WordPiece tokenizer on the texts of a data set, or give that of a language model further tokens.

    Args:
        path: folder of the data set; `sources` are read from it. Or a data set of the Hub,
            `hf:NAME[:CONFIG][:SPLIT]`, or Parquet files, which are streamed.
        sources: folders with texts, files of documents by their names without `.jsonl`, or columns.
        output: the tokenizer's file.
        vocab_size: largest vocabulary.
        classes: class names that become tokens of their own.
        num_coordinates: values of each of `v0=`, `v1=`, `v2=`, `v3=`; 1000 as published.
        num_sentinels: span-masking sentinels; 200 as published.
        tokens: further special tokens by name, for instance `[IMG]` and `[/IMG]` around images in documents, or
            `[USER]` and `[ASSISTANT]` in conversations.
        extend: `tokenizer.json` of a language model, which gets `tokens`; nothing is learned then.
        special: with `extend`: `start` or `end` -> the token that begins or ends a text, where it has no usual name.
    """

    output: Path
    path: Path = Path()
    sources: list[str] = field(default_factory=list)
    vocab_size: int = 30_000
    classes: list[str] = field(default_factory=list)
    num_coordinates: int = 1000
    num_sentinels: int = 200
    tokens: list[str] = field(default_factory=list)
    extend: Path | None = None
    special: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.extend is not None and self.sources:
            raise ConfigError("extend takes the vocabulary of a language model as it is: leave out sources")
        if self.extend is None and self.special:
            raise ConfigError("special is for a tokenizer that is extended; one that is trained has [SOS] and [EOS]")


def _check_names(key: str, what: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"{key}: '{name}' is not a {what} of this recipe.{did_you_mean(name, known)}")
