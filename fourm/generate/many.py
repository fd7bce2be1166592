"""`fourm generate --prompts`: answers to many inputs, each in a folder of its own that is whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from fourm.errors import ConfigError
from fourm.files import leftovers, publish, temporary_name
from fourm.generate.answer import check_counts
from fourm.generate.asking import SETTINGS, Common, Done, Run, report_path, settle
from fourm.generate.bundle import Bundle, get_ready, identity
from fourm.generate.job import parse_sees
from fourm.generate.plan import GenerationPlan
from fourm.generate.planning import make_plan
from fourm.generate.prompts import Prompt, open_prompts, split_prompts
from fourm.generate.reading import parse_given
from fourm.generate.results import Results, as_yaml, check_folder, make_folder
from fourm.machine import Part, local_place, part_from_environment

_DIGEST = "prompt.sha256"
"""The file in a folder of answers that tells what they answer."""


def run_many(
    bundle: Bundle,
    *,
    prompts: str,
    given: Sequence[str],
    targets: Sequence[str],
    out: Path,
    plan: str | Path | GenerationPlan | None = None,
    known: Sequence[str] = (),
    sees: Sequence[str] = (),
    num_samples: int = 1,
    ensemble: bool = False,
    seed: int = 0,
    device: str = "auto",
    expected: bool = False,
    bf16: bool = False,
    batch_size: int = 16,
    decoder_steps: int | None = None,
    decoder_scheduler: str | None = None,
    part: Part | None = None,
) -> Done:
    """Answer every prompt; see `fourm.generate.job.run` for what both have in common.

    A prompt's draws depend on the seed and its key alone: not on the batch, the other prompts, or how many processes
    share the work.

    Args:
        bundle: model and tokenizers.
        prompts: see `fourm.generate.prompts.open_prompts`.
        given: what all prompts are given beside their own values.
        targets, plan, known, sees, num_samples, ensemble, seed, device, expected, bf16: as in `run`.
        out: the answers to each prompt get the folder of its key. Folders that are there are not made again, unless
            their prompt has changed.
        batch_size: answers computed together.
        decoder_steps, decoder_scheduler: as in `run`.
        part: which share of the prompts; None: as torchrun or SLURM say.

    Raises:
        ConfigError: for names, plans or options that are wrong, or other settings than those of the answers in `out`.
        DataError: if there are no prompts, or not one of them can be followed.
    """
    check_counts(num_samples, batch_size)
    check_folder(out)
    part = part or part_from_environment()
    shared, parts = _for_all(given, known)
    names, wanted = [name.strip() for name in targets], parse_sees(sees)
    first, _ = make_plan(bundle, names, None, plan, wanted)
    get_ready(
        bundle, first.makers, device, bf16=bf16, decoder_steps=decoder_steps, decoder_scheduler=decoder_scheduler,
        local_rank=local_place().index,
    )  # fmt: skip
    source = open_prompts(bundle, prompts)
    common = Common(bundle, shared, parts)
    make_folder(out)
    asked = {
        "given": shared, "known": parts, "to": names, "sees": wanted, "seed": seed, "num_samples": num_samples,
        "ensemble": ensemble, "expected": expected, "bf16": bf16, "decoder_steps": decoder_steps,
        "decoder_scheduler": decoder_scheduler, "plan": None if plan is None else as_yaml(first).decode(),
    }  # fmt: skip
    settle(out / SETTINGS, {**_sources(bundle, prompts), **asked})

    options = {"ensemble": ensemble, "expected": expected, "bf16": bf16, "batch_size": batch_size}
    run = Run(
        bundle, source, common, names, plan, seed, num_samples,
        is_done=partial(_is_done, out),
        keep=partial(_save, out),
        done=Done(report_path(out, part)),
        sees=wanted,
    )  # fmt: skip
    return run.all(part, max(1, batch_size // num_samples), options)


def _for_all(given: Sequence[str], known: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """What all prompts are given, and their masks, by modality. Mistakes in it are told at once, not once for each."""
    shared, parts = parse_given(given), parse_given(known, "--known", "rgb=mask.png")
    stray = [name for name in parts if name not in shared]
    if stray:
        raise ConfigError(
            f"known {stray[0]}: with --prompts, a mask belongs to a --given, or to a line of a .jsonl file"
        )
    return shared, parts


def _sources(bundle: Bundle, prompts: str) -> dict[str, Any]:
    """What answers in one folder all come from."""
    return {
        "prompts": str(Path(split_prompts(prompts)[1]).resolve()),
        "model": identity(bundle),
        "models": {name: identity(other) for name, other in bundle.others.items()},
        "text": None if bundle.text is None else bundle.text.hash,
    }


def _is_done(out: Path, prompt: Prompt) -> bool:
    """Whether the folder of a prompt is there, and answers what the prompt is now."""
    try:
        return (out / prompt.key / _DIGEST).read_text().strip() == prompt.digest()
    except (OSError, UnicodeDecodeError):
        return False


def _save(out: Path, prompt: Prompt, results: Results) -> None:
    """Write the folder of a prompt beside its place, then put it there."""
    folder = out / prompt.key
    for left in leftovers(folder):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    temporary, old = temporary_name(folder), temporary_name(folder)
    try:
        make_folder(temporary)
        results.write(temporary)
        publish(temporary / _DIGEST, prompt.digest() + "\n")
        if _is_done(out, prompt):  # another process was faster
            return
        with suppress(FileNotFoundError):  # answers to what the prompt was before
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        if not _is_done(out, prompt):
            raise ConfigError(
                f"--out {folder}: cannot be written: {error.strerror}; choose another --out, or make room"
            ) from error
    finally:
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)
