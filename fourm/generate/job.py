"""`fourm generate`: any modalities from any others, from files and texts to files and a picture of them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from fourm import config as configs
from fourm.errors import ConfigError
from fourm.files import publish
from fourm.generate.answer import generate, make_plan, sample_seeds
from fourm.generate.bundle import Bundle, move, set_decoding
from fourm.generate.files import png, write
from fourm.generate.inputs import parse_given, read_given
from fourm.generate.overview import overview
from fourm.generate.plan import GenerationPlan, Step
from fourm.machine import choose_device

_RESERVED = ("grid", "plan")


def run(
    bundle: Bundle,
    *,
    given: Sequence[str],
    targets: Sequence[str],
    out: Path,
    plan: str | Path | GenerationPlan | None = None,
    num_samples: int = 1,
    seed: int = 0,
    device: str = "auto",
    expected: bool = False,
    bf16: bool = False,
    batch_size: int = 16,
    decoder_steps: int | None = None,
    decoder_scheduler: str | None = None,
) -> list[Path]:
    """The job behind `fourm generate`.

    Args:
        bundle: model and tokenizers.
        given: `NAME=VALUE`: a file, or the text itself.
        targets: names of what to write, in the order to generate; with a plan, empty means all it generates.
        out: folder for the results.
        plan: a YAML file, the name of a shipped one, or a plan; None: what suits the pair.
        num_samples: answers, each with a seed of its own.
        seed: of all answers.
        device: auto, cuda, mps or cpu.
        expected: see `any_to_any`.
        bf16: compute in bfloat16, the tokenizers' decoders too.
        batch_size: answers computed together.
        decoder_steps, decoder_scheduler: how tokenizers decode by diffusion; None: as each was saved.

    Returns:
        the files written: one per target and answer, `grid.png` with all of them, and `plan.yaml`.

    Raises:
        ConfigError: for names, plans or options that are wrong.
        DataError: for files that are missing or damaged.
    """
    arguments = parse_given(given)
    steps, names = make_plan(bundle, [name.strip() for name in targets], list(arguments), plan)
    sampling = {"num_steps": decoder_steps, "scheduler": decoder_scheduler}
    sampling = {key: value for key, value in sampling.items() if value is not None}
    set_decoding(bundle, steps.targets, sampling=sampling, bf16=bf16)
    move(bundle, choose_device(device))
    values = [read_given(bundle, name, text) for name, text in arguments.items()]
    _make_folder(out)
    seeds = sample_seeds(seed, num_samples)
    with _progress(len(steps.steps) * -(-num_samples // batch_size)) as watch:
        answers = generate(
            bundle, values, steps, seeds, expected=expected, bf16=bf16, batch_size=batch_size, watch=watch
        )
    paths = []
    for name, target in names.items():
        stem = f"{name}_" if name in _RESERVED else name
        for number in range(num_samples):
            numbered = stem if num_samples == 1 else f"{stem}_{number:02d}"
            modality = bundle.model.modalities[target]
            paths += write(bundle, modality, answers[target][number], out, numbered)
    publish(out / "grid.png", png(overview(bundle, values, answers, names)))
    publish(out / "plan.yaml", _as_yaml(steps))
    return [*paths, out / "grid.png", out / "plan.yaml"]


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(f"--out {out}: there is a file of that name; choose another folder") from None
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made: {error.strerror}; choose another folder") from None


def _as_yaml(plan: GenerationPlan) -> bytes:
    """A plan as a file that `--plan` takes; values at their defaults are left out."""
    values = configs.to_dict(plan)
    plain = configs.to_dict(Step("target"))
    kept = ("target", "scheme", "num_steps", "temperature")
    values["steps"] = [
        {key: value for key, value in step.items() if key in kept or value != plain[key]} for step in values["steps"]
    ]
    return yaml.safe_dump(values, sort_keys=False).encode()


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on the terminal, one tick per target and batch."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("generating", total=total)
        yield lambda target: bar.update(task, advance=1, description=target)
