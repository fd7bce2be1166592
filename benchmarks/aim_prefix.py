"""What AIM's prefix is worth to a probe under which all patches see one another, with several seeds; resumable.

    python benchmarks/aim_prefix.py outputs/aim_prefix --docs
    python benchmarks/aim_prefix.py outputs/aim_prefix_fine --setting fine --docs

For each seed trunks are trained on photographs of Fashion-MNIST from the same weights on the same photographs in the
same order: with prefixes, causally, and in the setting `fine` also causally but asked the same patches as with
prefixes. What each of them reaches is added to OUT/aim_prefix.json at once, and is not measured again, unless it lacks
a row; its weights are kept beside it. KEY=VALUE changes the setting. `--docs` keeps the figures in
benchmarks/results, and writes the means into docs/aim.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import study
import torch
from aim_probes import NAME, Photographs, attentive, features, few, linear, neighbours, photographs, single

from fourm.files import publish
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MlpHeadConfig, MultimodalConfig
from fourm.models.folder import load_model, save_model
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.paths import FASHION_FOLDERS
from fourm.rng import generator
from fourm.tokens import TokenRow

PREFIXES = ("uniform", "none")
ASKED = "asked"
"""Trained causally on the patches that `uniform` asks: attention alone is another."""
FEW = 200
"""Photographs that one of the probes is fitted on."""


@dataclass(frozen=True)
class Setting:
    """What is trained, and how it is probed.

    Args:
        dim, depth, num_heads, patch_size: of the trunk; the head has its width.
        steps, batch, lr: of pretraining.
        num_train, num_probe, num_test: photographs to pretrain on, to fit probes on (the first of these), to test on.
        probe_steps: of the attentive probe, which reads the mean of the last half of the blocks, as all probes do but
            the one of the last block.
    """

    dim: int = 32
    depth: int = 4
    num_heads: int = 2
    patch_size: int = 7
    steps: int = 3000
    batch: int = 16
    lr: float = 4e-3
    num_train: int = 20_000
    num_probe: int = 5000
    num_test: int = 10_000
    probe_steps: int = 500

    @property
    def modalities(self) -> ModalitySet:
        side, pixels = 28 // self.patch_size, self.patch_size**2
        return ModalitySet(
            [
                Modality(
                    NAME, Grid(side, side, self.patch_size), Continuous(pixels), "image", "gray", channels=1,
                    positions="sincos_xy", normalization="half",
                )
            ]
        )  # fmt: skip

    @property
    def probed(self) -> list[int]:
        return list(range(self.depth // 2, self.depth))

    def model(self, seed: int) -> Multimodal:
        config = MultimodalConfig(
            dim=self.dim, encoder_depth=0, decoder_depth=self.depth, num_heads=self.num_heads, activation="gelu_tanh",
            norm_bias=True, patch_bias=True, patch_norm=True, modality_embeddings=False,
            vector_head=MlpHeadConfig(dim=self.dim, depth=2),
        )  # fmt: skip
        return Multimodal(self.modalities, config, seed)

    def objective(self, prefix: Any) -> Autoregressive:
        return Autoregressive(AutoregressiveConfig(prefix=prefix, standardize=True), self.modalities)


SETTINGS = {
    "coarse": Setting(),
    "fine": Setting(
        depth=8,
        patch_size=4,
        steps=1000,
        lr=2e-3,
        num_probe=10_000,
        probe_steps=2000,
    ),
}


def pretrained(setting: Setting, data: Photographs, prefix: str, seed: int) -> Multimodal:
    """A trained model; weights and photographs are drawn alike whatever the prefix."""
    model, images = setting.model(seed), data.train.numpy()
    task = setting.objective("uniform" if prefix == ASKED else prefix)
    optimizer = torch.optim.AdamW(model.parameters(), setting.lr, betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(setting.steps):
        rate = setting.lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / setting.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = generator(seed, "batch", step).integers(0, len(images), setting.batch)
        rows = [task.prepare({NAME: images[n]}, generator(seed, "prefix", step, int(n))) for n in chosen]
        batch = task.collate(read_causally(rows) if prefix == ASKED else rows)
        optimizer.zero_grad()
        task.loss(model, batch).scalar(task.counts(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def kept(setting: Setting, data: Photographs, prefix: str, seed: int, folder: Path) -> Multimodal:
    """The model of `pretrained`, from a folder if it was trained before."""
    if not (folder / "config.json").is_file():
        save_model(pretrained(setting, data, prefix, seed), folder)
    model: Multimodal = load_model(folder)
    return model


def read_causally(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Rows in which patches of a prefix see what comes before them; they are not asked all the same."""
    return [replace(row, reach=np.arange(len(row)) + 1) for row in rows]


@torch.no_grad()
def held_out(setting: Setting, model: Multimodal, data: Photographs, causal: bool) -> float:
    """Error of the patches behind prefixes, the same for all models; `causal`: patches of a prefix see what comes
    before them.
    """
    task, images = setting.objective("uniform"), data.test[:500].numpy()
    rows = [task.prepare({NAME: image}, generator(0, "held out", n)) for n, image in enumerate(images)]
    batch = task.collate(read_causally(rows) if causal else rows)
    return float(task.loss(model, batch).scalar(task.counts(batch)))


def measure(setting: Setting, data: Photographs, model: Multimodal) -> dict[str, float]:
    """All that is told of one model."""
    number = setting.num_probe
    fitted = data._replace(train=data.train[:number], train_labels=data.train_labels[:number])
    told: dict[str, float] = {}
    for causal, suffix in ((False, ""), (True, ", read causally")):
        told[f"linear{suffix}"] = linear(features(model, fitted, None, causal), fitted)
        blocks = features(model, fitted, setting.probed, causal)
        told[f"blocks{suffix}"] = linear(blocks, fitted)
        told[f"attentive{suffix}"] = attentive(model, blocks, fitted, setting.probe_steps)
        told[f"few{suffix}"] = few(blocks, fitted, FEW)
        told[f"neighbours{suffix}"] = neighbours(blocks, fitted)
        told |= {f"{part} token{suffix}": share for part, share in single(blocks, fitted).items()}
        told[f"loss{suffix}"] = held_out(setting, model, data, causal)
    return told


ROWS = {
    "linear": ("linear probe of the last block, %", 100.0, 1),
    "blocks": ("linear probe, %", 100.0, 1),
    "attentive": ("attentive probe, %", 100.0, 1),
    "few": (f"linear probe fitted on {FEW}, %", 100.0, 1),
    "neighbours": ("nearest neighbours, %", 100.0, 1),
    "early token": ("one early token, %", 100.0, 1),
    "late token": ("one late token, %", 100.0, 1),
    "loss": ("held-out loss", 1.0, 4),
}
READ = {"": "all see all", ", read causally": "causally"}
"""How a model is read: suffix of a key -> what it is called."""
MEASURED = [f"{key}{suffix}" for key in ROWS for suffix in READ]
TITLES = {"uniform": "with prefixes", "none": "causally", ASKED: "causally, asked the same"}


def table(found: Mapping[str, Mapping[str, float]], seeds: Sequence[int]) -> str:
    """Means and standard deviations over seeds, and of the differences within a seed. A row that not all seeds have
    says so; what none has is left out.
    """
    others = [prefix for prefix in (*PREFIXES[1:], ASKED) if all(f"{prefix} {seed}" in found for seed in seeds)]
    head, rows = ["measured", "read", TITLES[PREFIXES[0]]], []
    for prefix in others:
        head += [TITLES[prefix], "difference"]
    for key in MEASURED:
        name, *suffix = key.partition(", read causally")
        title, factor, digits = ROWS[name]
        of = [seed for seed in seeds if all(key in found[f"{p} {seed}"] for p in (PREFIXES[0], *others))]
        if not of:
            continue
        values = {
            prefix: np.array([found[f"{prefix} {seed}"][key] for seed in of]) * factor
            for prefix in (PREFIXES[0], *others)
        }
        cells = [_cell(values[PREFIXES[0]], digits)]
        for prefix in others:
            cells += [_cell(values[prefix], digits), _cell(values[PREFIXES[0]] - values[prefix], digits, "+")]
        rows.append([title if len(of) == len(seeds) else f"{title}, {len(of)} seeds", READ[suffix[0]], *cells])
    return study.table(head, rows)


def _cell(values: np.ndarray, digits: int, sign: str = "") -> str:
    text = f"{values.mean():{sign}.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {values.std(ddof=1):.{digits}f}"


def changed(setting: Setting, words: Sequence[str]) -> Setting:
    """A setting with other values.

    Raises:
        ValueError: if something is not KEY=VALUE, or no such key or value is known.
    """
    kinds = {field.name: type(getattr(setting, field.name)) for field in fields(setting)}
    values = {}
    for word in words:
        key, _, value = word.partition("=")
        if key not in kinds:
            raise ValueError(f"{word} is not KEY=VALUE of a setting; known: {', '.join(kinds)}")
        values[key] = kinds[key](value)
    return replace(setting, **values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="folder for the results", type=Path)
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="of the setting")
    parser.add_argument("--setting", choices=SETTINGS, default="coarse")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="another, to look at a setting first")
    parser.add_argument("--trained", nargs="+", choices=(*PREFIXES, ASKED), help="default: all of the setting")
    parser.add_argument("--fashion", type=Path, default=FASHION_FOLDERS[0], help="folder of the four IDX files")
    parser.add_argument("--docs", action="store_true", help="write benchmarks/results and docs/aim.md too")
    options = parser.parse_intermixed_args()
    try:
        setting = changed(SETTINGS[options.setting], options.changes)
    except ValueError as error:
        parser.error(str(error))
    data, path, told = (
        photographs(options.fashion, setting.num_train, setting.num_test),
        options.output / "aim_prefix.json",
        asdict(setting),
    )
    results = json.loads(path.read_text()) if path.is_file() else {"setting": told, "models": {}}
    if results["setting"] != told:
        parser.error(f"{path} is of another setting; give another folder")
    seeds = range(options.first, options.first + options.seeds)
    trained = options.trained or (PREFIXES if options.setting == "coarse" else (*PREFIXES, ASKED))
    for seed in seeds:
        for prefix in trained:
            name = f"{prefix} {seed}"
            if not set(MEASURED) <= results["models"].get(name, {}).keys():
                model = kept(setting, data, prefix, seed, options.output / f"{prefix}_{seed}")
                results["models"][name] = measure(setting, data, model)
                print(name, results["models"][name], flush=True)
                publish(path, json.dumps(results, indent=1) + "\n")
    text = table(results["models"], seeds)
    print(text)
    if options.docs:
        coarse = options.setting == "coarse"
        study.keep_in_docs("aim_prefix" if coarse else f"aim_prefix_{options.setting}", results, {}, study.CHECKOUT)
        part = "aim_prefix.py" if coarse else f"aim_prefix.py --setting {options.setting}"
        study.write_part(study.CHECKOUT / "docs" / "aim.md", part, text)


if __name__ == "__main__":
    main()
