"""Names as people write them: `depth` for `tok_depth@64`, `caption#not` for a second caption."""

from __future__ import annotations

from collections.abc import Iterable

from fourm.errors import ConfigError, did_you_mean
from fourm.modality import Modality

_LABEL = "#"


def base_name(name: str) -> str:
    """The modality in a given name, without the label of a further value: `caption` in `caption#not`."""
    return name.split(_LABEL)[0]


def resolve(name: str, modalities: Iterable[Modality], verb: str) -> Modality:
    """The modality someone means.

    The full name or an alias comes first, then the name without resolution (`rgb` for `rgb@64`), then what a tokenizer
    encodes (`depth` or `depth@64` for `tok_depth@64`).

    Args:
        name: as written; a label behind `#` is passed over.
        modalities: those in question, for instance a model's outputs.
        verb: `read` or `generate`, for errors.

    Raises:
        ConfigError: if nothing or more than one modality fits; the message lists what the model can read or generate.
    """
    wanted = base_name(name)
    candidates = list(modalities)
    for fits in (_is_called, _has_key, _encodes):
        found = [m for m in candidates if fits(m, wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(f"'{wanted}' could be {' or '.join(m.name for m in found)}: write the full name")
    known = [m.name for m in candidates]
    hint = did_you_mean(wanted, [*known, *(short_name(m) for m in candidates)]).partition("Did you mean")
    raise ConfigError(
        f"this model cannot {verb} '{wanted}'. It can {verb}: {', '.join(known) or 'nothing'}."
        + (f" Did you mean{hint[2]}" if hint[2] else "")
    )


def short_name(modality: Modality) -> str:
    """What people call it: `depth` for `tok_depth@64`."""
    return modality.key.removeprefix("tok_") if modality.tokenizer else modality.key


def means_tokens(name: str, modality: Modality) -> bool:
    """Whether a written name stands for token ids themselves, not for what its tokenizer encodes."""
    return not modality.is_grid or base_name(name).split("@")[0] == modality.key


def _is_called(modality: Modality, name: str) -> bool:
    return name == modality.name or name in modality.aliases


def _has_key(modality: Modality, name: str) -> bool:
    return name == modality.key


def _encodes(modality: Modality, name: str) -> bool:
    raw = modality.tokenizer
    return modality.is_grid and raw is not None and name in (raw, raw.split("@")[0], short_name(modality))
