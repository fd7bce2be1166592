"""Errors a user can act on. Each says what failed, what was given, what was expected, where, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FourmError(Exception):
    """Base of all errors that the command line shows as one message, without a traceback."""


class ConfigError(FourmError, ValueError):
    """A recipe, option or modality declaration is wrong."""


class DataError(FourmError, ValueError):
    """Data on disk is missing, damaged, misaligned or does not fit the recipe."""


class CheckpointError(FourmError, ValueError):
    """A checkpoint or exported model is missing, incomplete or does not fit the recipe."""


TEMPORARY_FAILURE = 75
"""Exit status of what may go well when it is started again (`EX_TEMPFAIL` of sysexits.h)."""


class StorageError(DataError, CheckpointError):
    """Storage does not answer, in several tries: of data, or of checkpoints. It may do so later."""

    exit_status = TEMPORARY_FAILURE


class TrainingError(FourmError, RuntimeError):
    """Training cannot go on (for instance: the loss is not finite)."""


class MissingExtraError(FourmError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. "
            f"Install it with: pip install 'fourm[{extra}]'"
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name: the known names and the closest of them, as the tail of an error message.

    Args:
        name: what the user wrote.
        known: what would have been accepted.
    """
    names = sorted(known)
    if not names:
        return ""
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    return f" Known: {shown}.{hint}"
