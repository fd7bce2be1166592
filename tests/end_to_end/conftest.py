"""A tiny world for the whole way from rooms to a model, made once, and the command line as a function."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Three modalities of 16 rooms: pixels in, depth tokens and captions both ways.
RECIPE = """
variables: {root: ???}
name: tiny
modalities:
  rgb@64: {}
  tok_depth@64: {}
  caption: {layout: {max_tokens: 40}}
tokenizers:
  tok_depth@64: ${variables.root}/tokenizers/depth/model
  text: ${variables.root}/tokenizers/text.json
data:
  train: {datasets: {rooms: {path: "${variables.root}/rooms/train"}}}
  val: {datasets: {rooms: {path: "${variables.root}/rooms/test"}}}
model: {kind: multimodal, dim: 32, encoder_depth: 1, decoder_depth: 1, num_heads: 2, activation: gelu}
objective: {kind: masked, num_input_tokens: 32, num_target_tokens: 32}
train:
  max_steps: 3
  batch_size: 4
  precision: fp32
  device: cpu
  tensorboard: false
  optimizer: {lr: 1.0e-3}
  schedule: {kind: constant}
  log_every_steps: 1
output: ${variables.root}/model
"""
AIM = (
    RECIPE.replace("rgb@64: {}", "rgb@64: {direction: both, positions: sincos_xy}")
    .replace("  tok_depth@64: {}\n  caption: {layout: {max_tokens: 40}}\n", "")
    .replace("tokenizers:\n  tok_depth@64: ${variables.root}/tokenizers/depth/model\n", "")
    .replace("  text: ${variables.root}/tokenizers/text.json\n", "")
    .replace(
        "encoder_depth: 1", "encoder_depth: 0, patch_norm: true, patch_bias: true, vector_head: {kind: mlp, dim: 16}"
    )
    .replace("{kind: masked, num_input_tokens: 32, num_target_tokens: 32}", "{kind: autoregressive, prefix: uniform}")
)
"""AIM: pixels alone."""
AIMV2 = (
    RECIPE.replace("rgb@64: {}", "rgb@64: {direction: both, positions: learned}")
    .replace("  tok_depth@64: {}\n", "")
    .replace("  tok_depth@64: ${variables.root}/tokenizers/depth/model\n", "")
    .replace(
        "encoder_depth: 1", "encoder_depth: 0, tie_heads: false, vector_head: {kind: linear}, feeders: {rgb@64: FED}"
    )
    .replace("FED", "{kind: multimodal, dim: 48, encoder_depth: 0, decoder_depth: 1, num_heads: 3, norm: rmsnorm}")
    .replace(
        "{kind: masked, num_input_tokens: 32, num_target_tokens: 32}",
        "{kind: autoregressive, prefix: fed, reduction: weighted, modality_weights: {rgb@64: 0.4}}",
    )
)
"""AIMv2: a trunk for the pixels, and a decoder that goes on to the caption."""
LVM = """
variables: {root: ???}
name: lvm
modalities:
  visual:
    layout: {kind: sequence, max_tokens: 65, num_positions: 65}
    content: {kind: discrete, vocab_size: 18}
    decode: tokens
data:
  train:
    datasets:
      rooms: {path: "${variables.root}/documents", packing: {kind: stream, num_tokens: 64, bos: 16, eos: 17}}
  val:
    datasets:
      rooms: {path: "${variables.root}/documents", packing: {kind: whole, num_tokens: 64, separate: true}}
model: {kind: multimodal, preset: lvm_debug, dim: 32, mlp_hidden_dim: 44, decoder_depth: 1, num_heads: 2}
objective: {kind: autoregressive}
""" + RECIPE[RECIPE.index("train:\n  max_steps") :]
"""Rows of visual sentences."""
DISTILLED = LVM.replace(
    "{kind: autoregressive}", "{kind: distill, teacher: '${variables.root}/teacher', of: {kind: autoregressive}}"
)
"""The same beside a teacher."""
CLIP = (
    RECIPE[: RECIPE.index("model: {")].replace("  tok_depth@64: ${variables.root}/tokenizers/depth/model\n", "")
    + """
model:
  kind: contrastive
  dim: 16
  towers:
    rgb@64: {encoder: {kind: model, model: TRUNK}, pool: query}
    tok_depth@64: {encoder: {kind: model, model: TRUNK}}
    caption: {encoder: {kind: model, model: TRUNK, causal: true}, pool: last}
objective: {kind: contrastive, pairs: [[rgb@64, caption], [rgb@64, tok_depth@64]]}
""".replace("TRUNK", "{kind: multimodal, dim: 32, encoder_depth: 1, decoder_depth: 1, num_heads: 2}")
    + RECIPE[RECIPE.index("train:\n  max_steps") :]
)
"""Towers of rooms, their captions and their depth, in one space."""
TOKENIZER = [
    "train.device=cpu", "train.precision=fp32", "train.tensorboard=false", "train.max_steps=2", "train.batch_size=4",
    "tokenizer.quantizer.codebook_size=512", "train.log_every_steps=1",
]  # fmt: skip


@dataclass
class Outcome:
    """How a command ended.

    Args:
        status: exit status.
        out, err: what it wrote.
    """

    status: int
    out: str
    err: str


Command = Callable[..., Outcome]


def run(*arguments: object) -> int:
    """Exit status of the `fourm` command, in this process."""
    from fourm.cli import main

    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def fourm(capfd: pytest.CaptureFixture[str]) -> Command:
    """The `fourm` command as a function of its arguments."""

    def command(*arguments: object) -> Outcome:
        capfd.readouterr()
        status = run(*arguments)
        return Outcome(status, *capfd.readouterr())

    return command


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms, tokenizers, tokens and a recipe, made by the real commands; shared, so copy it before you write to it."""
    # The test processes share one parent folder; the first one makes the world, the others wait for it.
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    root = shared / "end_to_end"
    with _alone(shared / "end_to_end.lock"):
        if not (root / "complete").is_file():
            shutil.rmtree(root, ignore_errors=True)
            _make(root)
            (root / "complete").touch()
    return root


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """A copy of the tiny world that a test may break."""
    root = tmp_path / "world"
    shutil.copytree(made, root)
    (root / "tiny.yaml").write_text(RECIPE.replace("???", str(root)))
    recipes = {"aim": AIM, "aimv2": AIMV2, "lvm": LVM, "distilled": DISTILLED, "clip": CLIP}
    for name, recipe in recipes.items():
        (root / f"{name}.yaml").write_text(recipe.replace("???", str(root)))
    return root


def _make(root: Path) -> None:
    from fourm.prepare.rooms import render

    for split, seed, num in (("train", 0, 16), ("test", 1, 8)):
        render(root / "rooms" / split, num=num, size=32, seed=seed, workers=1, shard_size=8, progress=False)
    commands = [
        ("train-wordpiece", "rooms_text", f"variables.root={root}"),
        ("train-tokenizer", "rooms_depth", f"variables.root={root}", *TOKENIZER),
        ("tokenize", root / "tokenizers" / "depth", root / "rooms" / "train", "--device", "cpu"),
        ("tokenize", root / "tokenizers" / "depth", root / "rooms" / "test", "--device", "cpu"),
    ]
    for command in commands:
        assert run(*command) == 0, command
    _make_sentences(root)


def _make_sentences(root: Path) -> None:
    """Documents of 16 codes, and a model of them."""
    import numpy as np

    from fourm.data.documents import DocumentWriter
    from fourm.layouts import Discrete, Sequence
    from fourm.modality import Modality, ModalitySet
    from fourm.models.configs import MultimodalConfig
    from fourm.models.folder import save_model
    from fourm.models.multimodal import Multimodal

    rng = np.random.default_rng(0)
    for number in range(2):
        with DocumentWriter(root / "documents" / f"part-{number:05d}.bin") as writer:
            for _ in range(20):
                writer.write(rng.integers(0, 16, rng.integers(20, 60)))
    row = Modality("visual", Sequence(65, 65), Discrete(18), "visual", "tokens")
    config = MultimodalConfig(**MultimodalConfig.expand({"preset": "lvm_debug", "dim": 32, "mlp_hidden_dim": 32}))
    save_model(Multimodal(ModalitySet([row]), config, seed=5), root / "teacher")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Only one test process at a time."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def assert_one_clear_message(outcome: Outcome, named: list[str]) -> None:
    """The command failed with one message that holds every text of `named`."""
    assert outcome.status == 1
    assert "Traceback" not in outcome.err
    messages = [line for line in outcome.err.splitlines() if "Error: " in line.partition(" ")[0] + " "]
    assert len(messages) == 1, outcome.err
    for text in named:
        assert text in messages[0]
