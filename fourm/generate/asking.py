"""Asking a model many prompts: in batches, by any number of processes, and past those that are bad."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fourm.errors import ConfigError, DataError, FourmError
from fourm.files import publish
from fourm.generate.answer import follow
from fourm.generate.bundle import Bundle
from fourm.generate.inputs import GivenValue
from fourm.generate.natural import check_gaps, join, take_text
from fourm.generate.plan import GenerationPlan
from fourm.generate.planning import Sees, plan_for
from fourm.generate.prompts import Prompt, Prompts
from fourm.generate.results import Results
from fourm.machine import Part
from fourm.rng import torch_seed

SETTINGS = "settings.json"
_REJECTED = "rejected"
_REPORT = re.compile(rf"{_REJECTED}(_[0-9]{{5,}})?\.jsonl")


@dataclass
class Done:
    """How a run ended.

    Args:
        report: the file that names the rejected ones; it is there if there are any.
        written: prompts answered now.
        skipped: prompts answered before.
        rejected: prompts that cannot be answered: their key, place and what is wrong.
    """

    report: Path
    written: int = 0
    skipped: int = 0
    rejected: list[dict[str, str]] = field(default_factory=list)

    def __str__(self) -> str:
        there = f", {self.skipped} were there" if self.skipped else ""
        bad = f", {len(self.rejected)} rejected: see {self.report}" if self.rejected else ""
        return f"{self.written} answered{there}{bad}"


@dataclass(frozen=True)
class _Question:
    """A prompt as the model is given it."""

    prompt: Prompt
    place: str
    values: tuple[GivenValue, ...]
    plan: GenerationPlan
    targets: Mapping[str, str]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Questions of one kind can be asked together."""
        return tuple(value.key for value in self.values)


def settle(path: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings of a folder of answers, or see that they are those of the answers in it.

    Raises:
        ConfigError: if they are others.
        DataError: if they cannot be read.
    """
    content = json.dumps(settings, indent=1) + "\n"
    try:
        before = json.loads(path.read_text())
    except FileNotFoundError:
        publish(path, content)
        return
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {error}. Choose another --out, or remove it") from None
    now = json.loads(content)
    other = [key for key in now if not isinstance(before, dict) or before.get(key) != now[key]]
    if other:
        was = before.get(other[0]) if isinstance(before, dict) else None
        raise ConfigError(
            f"{path.parent} holds answers of another command: {other[0]} was {was!r} and is {now[other[0]]!r}. Choose "
            "another --out, or remove that folder"
        )


class Common:
    """What all prompts are given, read once."""

    def __init__(self, bundle: Bundle, given: Mapping[str, str], known: Mapping[str, str]) -> None:
        self.bundle, self.given, self.known = bundle, given, known
        self._values = {name: self._read(name, name) for name in given}

    def _read(self, name: str, source: str) -> GivenValue:
        return take_text(self.bundle, name, self.given[source], self.known.get(source))

    def read(self, name: str, source: str) -> GivenValue:
        """A value under a name, made of what is given as `source`."""
        if name not in self._values:
            self._values[name] = self._read(name, source)
        return self._values[name]


@dataclass
class Run:
    """One process's share of the work.

    Args:
        bundle: model and tokenizers.
        source: the prompts.
        common: what all of them are given.
        names: of the targets.
        plan: how; None: what suits each prompt.
        seed: with the key of a prompt, of its answers.
        num_samples: answers to each.
        is_done: whether a prompt was answered before, as it is now.
        keep: called with a prompt and its answers.
        done: how it goes.
        sees: what some targets are made from; see `fourm.generate.planning.make_plan`.
    """

    bundle: Bundle
    source: Prompts
    common: Common
    names: Sequence[str]
    plan: str | Path | GenerationPlan | None
    seed: int
    num_samples: int
    is_done: Callable[[Prompt], bool]
    keep: Callable[[Prompt, Results], None]
    done: Done
    sees: Sees | None = None

    def all(self, part: Part, together: int, options: Mapping[str, Any]) -> Done:
        """Every prompt of a share.

        Args:
            part: the share.
            together: prompts in a batch.
            options: of `fourm.generate.answer.follow`.

        Raises:
            DataError: if not one of them can be followed.
        """
        self.done.report.unlink(missing_ok=True)
        numbers = [number for number in range(len(self.source)) if part.has(number)]
        waiting: dict[tuple[Any, ...], list[_Question]] = {}
        with _progress(len(numbers)) as tick:
            for number in numbers:
                question = self._question(number)
                if question is None:
                    tick()
                    continue
                batch = waiting.setdefault(question.kind, [])
                batch.append(question)
                if len(batch) == together:
                    self._answer(waiting.pop(question.kind), options, tick)
            for batch in waiting.values():
                self._answer(batch, options, tick)
        if self.done.rejected and not self.done.written + self.done.skipped:
            one = self.done.rejected[0]
            raise DataError(
                f"not one of {len(self.done.rejected)} prompts can be followed. {one['where']}: {one['error']} (all of "
                f"them: {self.done.report})"
            )
        return self.done

    def _question(self, number: int) -> _Question | None:
        """A prompt to be answered; None if it was answered before, or is rejected."""
        key, where = self.source.keys[number], self.source.place(number)
        try:
            prompt = self.source[number]
            if key == SETTINGS or _REPORT.fullmatch(key):
                raise DataError(f"the key '{key}' is the name of a file of this command; choose another one")
            if self.is_done(prompt):
                self.done.skipped += 1
                return None
            return self._read(prompt, where)
        except FourmError as error:
            self._reject(key, where, error)
            return None

    def _read(self, prompt: Prompt, where: str) -> _Question:
        clash = [name for name in self.common.given if name in prompt.names]
        if clash:
            raise DataError(f"'{clash[0]}' is given to all prompts and by this one; give it in one place")
        given, known = [*self.common.given, *prompt.names], [*self.common.known, *prompt.known]
        plan, targets, kept = plan_for(self.bundle, self.names, given, known, self.plan, self.sees)
        wanted = [(name, name) for name in given] + list(kept.items())
        values = [
            self.common.read(name, source) if source in self.common.given else prompt.read(name, source)
            for name, source in wanted
        ]
        check_gaps(values, plan.steps, self.bundle)
        return _Question(prompt, where, tuple(values), plan, targets)

    def _answer(self, batch: Sequence[_Question], options: Mapping[str, Any], tick: Callable[[], None]) -> None:
        """Ask a batch; if it fails, one by one, so that only those fail that have to."""
        try:
            results = self._ask(batch, options)
        except FourmError as error:
            if len(batch) > 1:
                for question in batch:
                    self._answer([question], options, tick)
                return
            self._reject(batch[0].prompt.key, batch[0].place, error)
            tick()
            return
        for question, one in zip(batch, results, strict=True):
            self.keep(question.prompt, one)
            self.done.written += 1
            tick()

    def _ask(self, batch: Sequence[_Question], options: Mapping[str, Any]) -> Iterator[Results]:
        values = [join(same) for same in zip(*(question.values for question in batch), strict=True)]
        keys = [question.prompt.key for question in batch]
        seeds = [torch_seed(self.seed, "prompt", key, number) for key in keys for number in range(self.num_samples)]
        plan, targets = batch[0].plan, batch[0].targets
        everything = follow(
            self.bundle, values, plan, targets, torch.tensor(seeds, dtype=torch.int64), self.num_samples, **options
        )
        rows = everything.num_samples // len(batch)
        return iter(
            [
                Results(
                    {name: answers[n * rows : (n + 1) * rows] for name, answers in everything.items()},
                    shown=everything.shown,
                    given=question.values,
                    plan=plan,
                    uncertainty={k: v[n * rows : (n + 1) * rows] for k, v in everything.uncertainty.items()},
                )
                for n, question in enumerate(batch)
            ]
        )

    def _reject(self, key: str, where: str, error: FourmError) -> None:
        one = {"key": key, "where": where, "error": str(error)}
        self.done.rejected.append(one)
        with self.done.report.open("a", encoding="utf-8") as file:
            file.write(json.dumps(one) + "\n")


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("prompts", total=total)
        yield lambda: bar.update(task, advance=1)


def report_path(out: Path, part: Part) -> Path:
    """The file of a process that names what it rejected."""
    return out / (f"{_REJECTED}.jsonl" if part.count == 1 else f"{_REJECTED}_{part.index:05d}.jsonl")
