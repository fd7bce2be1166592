from __future__ import annotations

import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fourm import catalog
from fourm.data.shards import ShardWriter
from fourm.layouts import Discrete
from fourm.modality import ModalitySet

TEXTS = ("a bed and a rug", "two chairs", "a photo of a t-shirt", "this is a boot")


@dataclass
class ToyBundle:
    """What `fourm.recipe.load_bundle` gives, with random weights."""

    model: Any
    tokenizers: dict[str, Any] = field(default_factory=dict)
    text: Any = None
    others: dict[str, Any] = field(default_factory=dict)
    place: str = "toy"


def toy_bundle(names: list[str], texts: tuple[str, ...] = TEXTS, num_coordinates: int = 20) -> ToyBundle:
    """A tiny model over `names` with a tiny tokenizer for each grid of tokens, and one of texts."""
    from fourm.models.configs import MultimodalConfig
    from fourm.models.multimodal import Multimodal
    from fourm.tokenizers.configs import VQVAEConfig
    from fourm.tokenizers.network_configs import ConvConfig
    from fourm.tokenizers.quantizer_configs import EmaConfig
    from fourm.tokenizers.text import train_wordpiece
    from fourm.tokenizers.vqvae import VQVAE

    text = train_wordpiece(
        texts,
        320 + 4 * num_coordinates,
        classes=[*catalog.ROOM_CLASSES, *catalog.FASHION_CLASSES],
        num_sentinels=10,
        num_coordinates=num_coordinates,
    )
    modalities, tokenizers = [], {}
    for modality in map(catalog.get, names):
        if modality.tokenizer == "text":
            layout = replace(modality.layout, max_tokens=12)  # type: ignore[type-var]
            modality = replace(modality, layout=layout, content=Discrete(text.vocab_size))
        elif modality.tokenizer is not None:
            conv = ConvConfig(widths=(8,), stem=modality.grid.patch_size, num_blocks=(1,))
            quantizer = EmaConfig(codebook_size=modality.vocab_size, dim=4)
            config = VQVAEConfig(encoder=conv, decoder=conv, quantizer=quantizer)
            tokenizers[modality.name] = VQVAE(catalog.get(modality.tokenizer), config).requires_grad_(False).eval()
        modalities.append(modality)
    config = MultimodalConfig(dim=16, encoder_depth=1, decoder_depth=1, num_heads=2, embedding_std=0.4)
    return ToyBundle(Multimodal(ModalitySet(modalities), config).eval(), tokenizers, text)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


ROOM_SOURCES = {"rgb": "png", "depth": "png", "normal": "png", "semseg": "png", "canny": "png", "caption": "json"}
ROOM_SOURCES["det"] = "json"


def write_rooms(root: Path, count: int, seed: int) -> Path:
    """Rooms of noise: a floor of class 0, and on it a bed, or a rug and a chair, in the lower half."""
    rng = np.random.default_rng(seed)
    with ShardWriter(root, 0, ROOM_SOURCES) as writer:
        for n in range(count):
            labels = np.zeros((64, 64), np.uint8)
            names = [["bed"], ["rug", "chair"]][n % 2]
            for place, name in enumerate(names):
                labels[40:, 20 * place : 20 * place + 20] = catalog.ROOM_CLASSES.index(name)
            boxes = [{"boxes": [0.0, 0.6, 0.3, 1.0], "class_name": name, "score": 1.0} for name in names]
            sample = {
                "rgb": png(rng.integers(0, 256, (64, 64, 3), np.uint8)),
                "depth": png(rng.integers(3000, 30000, (64, 64)).astype(np.uint16)),
                "normal": png(rng.integers(0, 256, (64, 64, 3), np.uint8)),
                "semseg": png(labels),
                "canny": png((rng.random((64, 64)) < 0.1).astype(np.uint8) * 255),
                "caption": json.dumps(["a " + " and a ".join(names)]).encode(),
                "det": json.dumps({"instances": boxes}).encode(),
            }
            writer.write(f"{n:06d}", sample)
    return root


def write_fashion(root: Path, count: int, seed: int) -> Path:
    """Photographs of noise; the class is also the brightness of the upper left corner."""
    rng = np.random.default_rng(seed)
    names = ("image", "silhouette", "edges", "caption", "label")
    with ShardWriter(root, 0, {name: "png" if name in names[:3] else "json" for name in names}) as writer:
        for n in range(count):
            pixels = rng.integers(0, 256, (3, 28, 28), np.uint8)
            pixels[0, :14, :14] = 25 * (n % 10)
            caption = json.dumps([f"a photo of a {catalog.FASHION_CLASSES[n % 10]}"]).encode()
            files = {name: png(image) for name, image in zip(names[:3], pixels, strict=True)}
            writer.write(f"{n:06d}", {**files, "caption": caption, "label": str(n % 10).encode()})
    return root


@pytest.fixture(scope="session")
def rooms_bundle() -> ToyBundle:
    keys = ("rgb", "tok_rgb", "tok_depth", "tok_normal", "tok_semseg", "tok_canny")
    return toy_bundle([*(f"{key}@64" for key in keys), "caption", "det"])


@pytest.fixture(scope="session")
def fashion_bundle() -> ToyBundle:
    return toy_bundle(["image@28", "tok_image@28", "tok_silhouette@28", "tok_edges@28", "caption"])


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rooms")
    write_rooms(root / "train", 10, seed=0)
    write_rooms(root / "test", 5, seed=1)
    return root


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fashion")
    write_fashion(root / "train", 60, seed=0)
    write_fashion(root / "test", 20, seed=1)
    return root


@pytest.fixture(scope="session")
def references(rooms: Path) -> Any:
    """The baselines of the training rooms."""
    from fourm.evaluate.references import compute
    from fourm.evaluate.samples import Samples

    keys = ("rgb", "depth", "normal", "semseg", "canny")
    modalities = {key: catalog.get(f"{key}@64") for key in keys} | {"det": catalog.get("det")}
    return compute(Samples(rooms / "train", modalities), named_share=1 / 34, batch_size=3)


@pytest.fixture
def known_references(references: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations use these baselines instead of computing their own, which takes seconds."""
    monkeypatch.setattr("fourm.evaluate.rooms.compute", lambda *args, **options: references)
