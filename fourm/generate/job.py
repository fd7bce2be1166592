"""`fourm generate`: any modalities from any others, from files and texts to files and a picture of them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fourm.generate.answer import check_counts, follow, read_all
from fourm.generate.bundle import Bundle, get_ready
from fourm.generate.chain import sample_seeds
from fourm.generate.natural import take_text
from fourm.generate.plan import GenerationPlan
from fourm.generate.planning import Sees, plan_for
from fourm.generate.reading import parse_given
from fourm.generate.results import check_folder


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
    known: Sequence[str] = (),
    sees: Sequence[str] = (),
    ensemble: bool = False,
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
        known: `NAME=MASK`: which part of a given image counts, or `NAME=some` for texts and boxes.
        sees: `TARGET=NAMES`: what a target is made from; others see everything there is.
        ensemble: one answer made of all, with a map of how far they differ; see `fourm.generate.answer.follow`.
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
    check_counts(num_samples, batch_size)
    check_folder(out)
    arguments, parts = parse_given(given), parse_given(known, "--known", "rgb=mask.png")
    steps, names, kept = plan_for(bundle, [name.strip() for name in targets], arguments, parts, plan, parse_sees(sees))
    get_ready(bundle, steps.makers, device, bf16=bf16, decoder_steps=decoder_steps, decoder_scheduler=decoder_scheduler)
    values = read_all(bundle, arguments, parts, kept, take_text)
    seeds = sample_seeds(seed, num_samples)
    with _progress(len(steps.steps) * -(-num_samples // batch_size)) as watch:
        results = follow(
            bundle, values, steps, names, seeds, num_samples,
            ensemble=ensemble, watch=watch, expected=expected, bf16=bf16, batch_size=batch_size,
        )  # fmt: skip
    return results.save(out)


def parse_sees(items: Sequence[str]) -> Sees:
    """`TARGET=NAME,NAME` arguments; nothing behind the `=`: it sees nothing.

    Raises:
        ConfigError: if one has no `=`, or a target comes twice.
    """
    parsed = parse_given(items, "--sees", "rgb=semseg,caption")
    return {target: [name.strip() for name in names.split(",") if name.strip()] for target, names in parsed.items()}


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str, Any], None]]:
    """A bar on the terminal, one tick per target and batch."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("generating", total=total)
        yield lambda target, _: bar.update(task, advance=1, description=target)
