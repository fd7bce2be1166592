"""The table of published checkpoints: where they lie, what they are, and under which licence. Free of torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

_LOG = logging.getLogger(__name__)
SAMPLE_CODE = "Apple Sample Code License (LICENSE_WEIGHTS of github.com/apple/ml-4m)"
VILA = "Creative Commons BY-NC 4.0, and the licence of their language model"
LLAMA = "LLaMA licence of Meta, for research"
EMU2 = "licence of BAAI, not for commercial use, and the LLaMA licence of Meta"
RESEARCH = "Apple Machine Learning Research Model License (apple-amlr)"


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint.

    Args:
        repository: id on the Hugging Face Hub.
        content: what it is, for people.
        modality: for a tokenizer, the raw modality of the catalog that it encodes.
        licence: of its weights.
        restricted: whether the licence limits what the weights may be used for, so that people are told once.
    """

    repository: str
    content: str
    modality: str | None = None
    licence: str = SAMPLE_CODE
    restricted: bool = True


def _model(name: str, content: str) -> Checkpoint:
    return Checkpoint(f"EPFL-VILAB/{name}", content)


def _tokenizer(name: str, modality: str, content: str) -> Checkpoint:
    return Checkpoint(f"EPFL-VILAB/4M_tokenizers_{name}", content, modality)


def _aimv2(size: str, suffix: str, content: str) -> Checkpoint:
    return Checkpoint(f"apple/aimv2-{size}-patch14-{suffix}", f"AIMv2 {size}, {content}", licence=RESEARCH)


def _vila(name: str, content: str) -> Checkpoint:
    return Checkpoint(f"Efficient-Large-Model/{name}", f"VILA, {content}", licence=VILA)


CHECKPOINTS: dict[str, Checkpoint] = {
    one.repository: one
    for one in [
        Checkpoint("apple/AIM", "AIM 600M to 7B with attentive probes, a .pth file each", licence=RESEARCH),
        *(_aimv2(s, str(r), f"{r} pixels") for s in ("large", "huge", "1B", "3B") for r in (224, 336, 448)),
        _aimv2("large", "native", "any size and shape"),
        _vila("VILA1.5-3b", "SigLIP of 384 pixels, Sheared LLaMA"),
        _vila("Llama-3-VILA1.5-8B", "SigLIP of 384 pixels, Llama 3"),
        _vila("VILA1.5-13b", "SigLIP of 384 pixels, Llama 2"),
        Checkpoint("BAAI/Emu", "Emu 14B: EVA-CLIP-g, C-Former, LLaMA 13B", licence=LLAMA),
        Checkpoint("BAAI/Emu2", "Emu2 37B: EVA-02-CLIP-E-plus, LLaMA 33B", licence=EMU2),
        Checkpoint("BAAI/Emu2-Chat", "Emu2 37B, tuned to chat, 256 tokens of an image", licence=EMU2),
        Checkpoint("BAAI/Emu2-Gen", "Emu2 37B, tuned to make images", licence=EMU2),
        *(
            _model(f"4M-7_{s}_{d}", f"4M-7 {s}, trained on {d}")
            for d in ("CC12M", "COYO700M")
            for s in ("B", "L", "XL")
        ),
        *(_model(f"4M-7-T2I_{s}_CC12M", f"4M-7 {s}, specialised on text to image") for s in ("B", "L", "XL")),
        _model("4M-7-SR_L_CC12M", "4M-7 L, super-resolution of tokens from 224 to 448 pixels"),
        *(_model(f"4M-21_{s}", f"4M-21 {s}") for s in ("B", "L", "XL")),
        _tokenizer("rgb_16k_224-448", "rgb_half@224", "RGB, 16,384 codes, diffusion decoder"),
        _tokenizer("depth_8k_224-448", "depth@224", "depth, 8,192 codes, diffusion decoder"),
        _tokenizer("normal_8k_224-448", "normal@224", "surface normals, 8,192 codes, diffusion decoder"),
        _tokenizer("edge_8k_224-512", "canny@224", "Canny and SAM edges, 8,192 codes, diffusion decoder"),
        _tokenizer("semseg_4k_224-448", "semseg_coco@224", "COCO semantic segmentation, 4,096 codes"),
        _tokenizer("CLIP-B16_8k_224-448", "clip@224", "CLIP-B/16 feature maps, 8,192 codes"),
        _tokenizer("DINOv2-B14_8k_224-448", "dinov2@224", "DINOv2-B/14 feature maps, 8,192 codes"),
        _tokenizer("DINOv2-B14-global_8k_16_224", "dinov2_global@224", "DINOv2-B/14 global vectors, 16 memory codes"),
        _tokenizer("ImageBind-H14_8k_224-448", "imagebind@224", "ImageBind-H/14 feature maps, 8,192 codes"),
        _tokenizer(
            "ImageBind-H14-global_8k_16_224", "imagebind_global@224", "ImageBind-H/14 global vectors, 16 memory codes"
        ),
        _tokenizer("sam-instance_1k_64", "sam_mask", "masks of single instances, 1,024 codes"),
        _tokenizer("human-poses_1k_8", "smpl_pose", "body poses, 8 memory codes of 1,024"),
    ]
}
SOURCE_FILE = "source.txt"
"""In the side folder of what was converted: the repository, if it is one of the table."""
_TOLD: set[str] = set()


def find(source: str | Path) -> Checkpoint | None:
    """The entry of a repository id, of a folder or file called like one, or of a folder in the Hub's cache."""
    text = str(source)
    if text in CHECKPOINTS:
        return CHECKPOINTS[text]
    parts = Path(text).parts
    cached = [part for part in parts if part.startswith("models--")]
    names = {part.rpartition("--")[2].removesuffix(".safetensors") for part in (*parts[-1:], *cached)}
    return next((one for one in CHECKPOINTS.values() if one.repository.rpartition("/")[2] in names), None)


def tokenizer_repository(modality: str) -> str | None:
    """The repository of the published tokenizer of a raw modality, at 224 or 448 pixels."""
    known = (one for one in CHECKPOINTS.values() if one.modality is not None)
    return next((one.repository for one in known if modality.replace("@448", "@224") == one.modality), None)


def tell_licence(source: str | Path) -> None:
    """Say the licence of restricted weights, once in a process."""
    checkpoint = find(source)
    if checkpoint is None or not checkpoint.restricted or checkpoint.repository in _TOLD:
        return
    _TOLD.add(checkpoint.repository)
    _LOG.warning(
        "the weights of %s are under the %s; read it before you use them", checkpoint.repository, checkpoint.licence
    )


def tell_licence_of(folder: Path) -> None:
    """Say the licence of weights that were converted into a folder of ours, once in a process."""
    source = folder / "published" / SOURCE_FILE
    if source.is_file():
        tell_licence(source.read_text().strip())
