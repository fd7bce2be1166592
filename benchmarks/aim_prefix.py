"""What AIM's prefix is worth to a probe under which all patches see one another, with several seeds; resumable.

    python benchmarks/aim_prefix.py outputs/aim_prefix --docs
    python benchmarks/aim_prefix.py outputs/aim_prefix_fine --setting fine --docs
    python benchmarks/aim_prefix.py outputs/aim_prefix_repeated --setting repeated --seeds 5 --docs
    fourm prepare rooms outputs/quickstart/rooms/train
    python benchmarks/aim_prefix.py outputs/aim_prefix_rooms --setting rooms --docs

For each seed trunks are trained from the same weights on the same photographs in the same order: with prefixes,
causally, in the settings `fine` and `rooms` also causally but asked the same patches as with prefixes, and with
prefixes for twice the steps, which asks as many patches as causal training does; in `repeated` from few photographs,
each of them many times. Photographs are those of Fashion-MNIST, whose classes are probed, or rooms, of whose single
patches the probes ask; the rooms to test on are rendered into OUT. What each trunk reaches is added to
OUT/aim_prefix.json at once, and is not measured again, unless it lacks a row; its weights are kept beside it. KEY=VALUE
changes the setting. `--docs` keeps the figures in benchmarks/results, and writes the means into docs/aim.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import study
import torch
from aim_fashion import FashionSetting
from aim_rooms import RoomsSetting
from aim_setting import Photographs, Row, Setting

from fourm.files import publish
from fourm.models.folder import load_model, save_model
from fourm.models.multimodal import Multimodal
from fourm.rng import generator
from fourm.tokens import TokenRow


class Twin(NamedTuple):
    """One way of training.

    Args:
        title: what it is called.
        prefix: of the objective.
        causal: patches of a prefix see what comes before them; they are not asked all the same, so that attention
            alone is another.
        longer: times the steps of the setting.
    """

    title: str
    prefix: str = "uniform"
    causal: bool = False
    longer: int = 1


TWINS = {
    "uniform": Twin("with prefixes"),
    "none": Twin("causally", prefix="none"),
    "asked": Twin("causally, asked the same", causal=True),
    "twice": Twin("with prefixes, twice the steps", longer=2),
}
COMPARED = {"none": ("uniform", "none"), "asked": ("uniform", "asked"), "twice": ("twice", "none")}
"""The column behind that of a twin: which one's lead over which other."""


class Study(NamedTuple):
    """Args:
    setting: what is trained and probed.
    trained: the twins.
    """

    setting: Setting
    trained: tuple[str, ...]


STUDIES = {
    "coarse": Study(FashionSetting(), ("uniform", "none")),
    "fine": Study(
        FashionSetting(depth=8, patch_size=4, steps=1000, lr=2e-3, num_probe=10_000, probe_steps=2000),
        ("uniform", "none", "asked", "twice"),
    ),
    "repeated": Study(FashionSetting(num_train=2000, num_probe=2000, probe_steps=2000), ("uniform", "none")),
    "rooms": Study(RoomsSetting(), ("uniform", "none", "asked", "twice")),
}


def pretrained(setting: Setting, data: Photographs, trained: str, seed: int) -> Multimodal:
    """The model of a twin; weights and photographs are drawn alike for all."""
    twin, name = TWINS[trained], setting.modality.name
    model, images = setting.model(seed), data.train.numpy()
    task, steps = setting.objective(twin.prefix), twin.longer * setting.steps
    optimizer = torch.optim.AdamW(model.parameters(), setting.lr, betas=(0.9, 0.95), weight_decay=0.05)
    for step in range(steps):
        rate = setting.lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = generator(seed, "batch", step).integers(0, len(images), setting.batch)
        rows = [task.prepare({name: images[n]}, generator(seed, "prefix", step, int(n))) for n in chosen]
        batch = task.collate(read_causally(rows) if twin.causal else rows)
        optimizer.zero_grad()
        task.loss(model, batch).scalar(task.counts(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def kept(setting: Setting, data: Photographs, trained: str, seed: int, folder: Path) -> Multimodal:
    """The model of `pretrained`, from a folder if it was trained before."""
    if not (folder / "config.json").is_file():
        save_model(pretrained(setting, data, trained, seed), folder)
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
    rows = [task.prepare({setting.modality.name: image}, generator(0, "held out", n)) for n, image in enumerate(images)]
    batch = task.collate(read_causally(rows) if causal else rows)
    return float(task.loss(model, batch).scalar(task.counts(batch)))


READ = {"": "all see all", ", read causally": "causally"}
"""How a model is read: suffix of a key -> what it is called."""
LOSS = {"loss": Row("held-out loss", digits=4)}
"""What is measured without a probe."""


def measured(rows: Mapping[str, Row]) -> list[str]:
    """Keys of all that is told of one model."""
    return [f"{key}{suffix}" for key in (*rows, *LOSS) for suffix in READ]


def measure(setting: Setting, data: Photographs, model: Multimodal) -> dict[str, float]:
    """All that is told of one model."""
    told: dict[str, float] = {}
    for suffix in READ:
        causal = bool(suffix)
        found = {**setting.probes(model, data, causal), "loss": held_out(setting, model, data, causal)}
        told |= {f"{key}{suffix}": value for key, value in found.items()}
    return told


def table(rows: Mapping[str, Row], found: Mapping[str, Mapping[str, float]], seeds: Sequence[int]) -> str:
    """Means and standard deviations over seeds, and of the differences within a seed. A row that not all seeds have
    says so; what none has is left out.

    Args:
        rows: of the setting.
        found: twin and seed -> key -> what was measured.
        seeds: that are told.
    """
    first, *others = [name for name in TWINS if all(f"{name} {seed}" in found for seed in seeds)]
    head, lines = ["measured", "read", TWINS[first].title], []
    for name in others:
        ahead, of = COMPARED[name]
        head += [TWINS[name].title, "difference" if ahead == first else f"difference from {TWINS[of].title}"]
    for key in measured(rows):
        row, *suffix = key.partition(", read causally")
        title, factor, digits = {**rows, **LOSS}[row]
        complete = [seed for seed in seeds if all(key in found[f"{name} {seed}"] for name in (first, *others))]
        if not complete:
            continue
        values = {
            name: np.array([found[f"{name} {seed}"][key] for seed in complete]) * factor for name in (first, *others)
        }
        cells = [_cell(values[first], digits)]
        for name in others:
            ahead, of = COMPARED[name]
            cells += [_cell(values[name], digits), _cell(values[ahead] - values[of], digits, "+")]
        if len(complete) < len(seeds):
            title += f", {len(complete)} seed{'s' * (len(complete) > 1)}"
        lines.append([title, READ[suffix[0]], *cells])
    return study.table(head, lines)


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
    parser.add_argument("--setting", choices=STUDIES, default="coarse")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="another, to look at a setting first")
    parser.add_argument("--trained", nargs="+", choices=TWINS, help="default: all of the setting")
    parser.add_argument(
        "--source", type=Path, help="folder of Fashion-MNIST's four files, or of the rooms to train on; default: "
        + ", ".join(str(source) for source in dict.fromkeys(setting.source for setting, _ in STUDIES.values())),
    )  # fmt: skip
    parser.add_argument("--docs", action="store_true", help="write benchmarks/results and docs/aim.md too")
    options = parser.parse_intermixed_args()
    try:
        setting = changed(STUDIES[options.setting].setting, options.changes)
    except ValueError as error:
        parser.error(str(error))
    path, told = options.output / "aim_prefix.json", asdict(setting)
    results = json.loads(path.read_text()) if path.is_file() else {"setting": told, "models": {}}
    if results["setting"] != told:
        parser.error(f"{path} is of another setting; give another folder")
    data = setting.photographs(options.source or setting.source, options.output)
    seeds = range(options.first, options.first + options.seeds)
    for seed in seeds:
        for trained in options.trained or STUDIES[options.setting].trained:
            name = f"{trained} {seed}"
            if not set(measured(setting.rows)) <= results["models"].get(name, {}).keys():
                model = kept(setting, data, trained, seed, options.output / f"{trained}_{seed}")
                results["models"][name] = measure(setting, data, model)
                print(name, results["models"][name], flush=True)
                publish(path, json.dumps(results, indent=1) + "\n")
    text = table(setting.rows, results["models"], seeds)
    print(text)
    if options.docs:
        part = "" if options.setting == "coarse" else f"_{options.setting}"
        study.keep_in_docs(f"aim_prefix{part}", results, {}, study.CHECKOUT)
        script = "aim_prefix.py" + (f" --setting {options.setting}" if part else "")
        study.write_part(study.CHECKOUT / "docs" / "aim.md", script, text)


if __name__ == "__main__":
    main()
