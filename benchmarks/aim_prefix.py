"""What AIM's prefix is worth to a probe under which all patches see one another, with several seeds; resumable.

    python benchmarks/aim_prefix.py outputs/aim_prefix --docs

For each seed two trunks are trained on photographs of Fashion-MNIST, one with prefixes and one causally, from the same
weights on the same photographs in the same order. What each of them reaches is added to OUT/aim_prefix.json at once,
and is not measured again, unless it lacks a column. `--docs` keeps it in benchmarks/results, and writes the means into
docs/aim.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import study
import torch
from aim_probes import NAME, Photographs, attentive, linear, photographs, single

from fourm.files import publish
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MlpHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.paths import FASHION_FOLDERS
from fourm.rng import generator

PREFIXES = ("uniform", "none")


@dataclass(frozen=True)
class Setting:
    """What is trained, and how it is probed.

    Args:
        dim, depth, num_heads, patch_size: of the trunk; the head has its width.
        steps, batch, lr: of pretraining.
        num_train, num_probe, num_test: photographs to pretrain on, to fit probes on (the first of these), to test on.
        probe_steps: of the attentive probe, which reads the mean of the last half of the blocks, as those of single
            tokens do.
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


def pretrained(setting: Setting, data: Photographs, prefix: str, seed: int) -> Multimodal:
    """A trained model; weights and photographs are drawn alike whatever the prefix."""
    model, task, images = setting.model(seed), setting.objective(prefix), data.train.numpy()
    optimizer = torch.optim.AdamW(model.parameters(), setting.lr, betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(setting.steps):
        rate = setting.lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / setting.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = generator(seed, "batch", step).integers(0, len(images), setting.batch)
        rows = [task.prepare({NAME: images[n]}, generator(seed, "prefix", step, int(n))) for n in chosen]
        batch = task.collate(rows)
        optimizer.zero_grad()
        task.loss(model, batch).scalar(task.counts(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def held_out(setting: Setting, model: Multimodal, data: Photographs, causal: bool) -> float:
    """Error of the patches behind prefixes, the same for all models; `causal`: patches of a prefix see what comes
    before them.
    """
    task, images = setting.objective("uniform"), data.test[:500].numpy()
    rows = [task.prepare({NAME: image}, generator(0, "held out", n)) for n, image in enumerate(images)]
    if causal:
        rows = [replace(row, reach=np.arange(len(row)) + 1) for row in rows]
    batch = task.collate(rows)
    return float(task.loss(model, batch).scalar(task.counts(batch)))


def measure(setting: Setting, data: Photographs, prefix: str, seed: int) -> dict[str, float]:
    """All that is told of one model."""
    model, number = pretrained(setting, data, prefix, seed), setting.num_probe
    fitted = data._replace(train=data.train[:number], train_labels=data.train_labels[:number])
    alone = single(model, fitted, setting.probed, causal=True)
    return {
        "linear": linear(model, fitted),
        "linear, read causally": linear(model, fitted, causal=True),
        "attentive": attentive(model, fitted, setting.probed, setting.probe_steps),
        **{f"{part} token": share for part, share in single(model, fitted, setting.probed).items()},
        **{f"{part} token, read causally": share for part, share in alone.items()},
        "loss": held_out(setting, model, data, causal=False),
        "loss, read causally": held_out(setting, model, data, causal=True),
    }


COLUMNS = {
    "linear": ("linear probe, %", 100.0, 1),
    "attentive": ("attentive probe, %", 100.0, 1),
    "early token": ("one early token, %", 100.0, 1),
    "late token": ("one late token, %", 100.0, 1),
    "linear, read causally": ("linear, read causally, %", 100.0, 1),
    "early token, read causally": ("early token, read causally, %", 100.0, 1),
    "late token, read causally": ("late token, read causally, %", 100.0, 1),
    "loss": ("held-out loss", 1.0, 4),
    "loss, read causally": ("the same, read causally", 1.0, 4),
}
TITLES = {"uniform": "with prefixes", "none": "causally"}


def table(found: Mapping[str, Mapping[str, float]], seeds: Sequence[int]) -> str:
    """Means and standard deviations over seeds, and of the differences within a seed. A column that not all seeds have
    says so.
    """
    titles, columns = [], []
    for key, (title, _, _) in COLUMNS.items():
        of = [seed for seed in seeds if all(key in found[f"{prefix} {seed}"] for prefix in PREFIXES)]
        first, second = ([found[f"{prefix} {seed}"][key] for seed in of] for prefix in PREFIXES)
        difference = [a - b for a, b in zip(first, second, strict=True)]
        titles.append(title if len(of) == len(seeds) else f"{title}, {len(of)} seeds")
        columns.append([_cell(first, key), _cell(second, key), _cell(difference, key, sign=True)])
    names = [*(TITLES[prefix] for prefix in PREFIXES), "difference"]
    return study.table(
        ["trained", *titles], [[name, *row] for name, row in zip(names, zip(*columns, strict=True), strict=True)]
    )


def _cell(values: Sequence[float], key: str, sign: bool = False) -> str:
    _, factor, digits = COLUMNS[key]
    shown = np.array(values) * factor
    text = f"{shown.mean():{'+' if sign else ''}.{digits}f}"
    return text if len(shown) == 1 else f"{text} ± {shown.std(ddof=1):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", help="folder for the results", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Setting.steps)
    parser.add_argument("--fashion", type=Path, default=FASHION_FOLDERS[0], help="folder of the four IDX files")
    parser.add_argument("--docs", action="store_true", help="write benchmarks/results and docs/aim.md too")
    options = parser.parse_args()
    setting = Setting(steps=options.steps)
    data, path, told = (
        photographs(options.fashion, setting.num_train, setting.num_test),
        options.output / "aim_prefix.json",
        asdict(setting),
    )
    results = json.loads(path.read_text()) if path.is_file() else {"setting": told, "models": {}}
    if results["setting"] != told:
        parser.error(f"{path} is of another setting; give another folder")
    for seed in range(options.seeds):
        for prefix in PREFIXES:
            if not COLUMNS.keys() <= results["models"].get(f"{prefix} {seed}", {}).keys():
                results["models"][f"{prefix} {seed}"] = measure(setting, data, prefix, seed)
                print(f"{prefix} {seed}", results["models"][f"{prefix} {seed}"], flush=True)
                options.output.mkdir(parents=True, exist_ok=True)
                publish(path, json.dumps(results, indent=1) + "\n")
    text = table(results["models"], range(options.seeds))
    print(text)
    if options.docs:
        study.keep_in_docs("aim_prefix", results, {}, study.CHECKOUT)
        study.write_part(study.CHECKOUT / "docs" / "aim.md", "aim_prefix.py", text)


if __name__ == "__main__":
    main()
