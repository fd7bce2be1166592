"""Where the published text tokenizer is found, which is not on the Hub. Free of torch."""

from __future__ import annotations

import os
from pathlib import Path

from fourm.errors import CheckpointError

TEXT_TOKENIZER_VARIABLE = "FOURM_TEXT_TOKENIZER"
TEXT_TOKENIZER_FILE = "text_tokenizer_4m_wordpiece_30k.json"
TEXT_TOKENIZER_REMEDY = (
    f"published models speak through the file {TEXT_TOKENIZER_FILE}, which is not on the Hub: take it from the folder "
    "fourm/utils/tokenizer/trained of github.com/apple/ml-4m, and name it with --text-tokenizer PATH or in the "
    f"variable {TEXT_TOKENIZER_VARIABLE}"
)


def published_text_tokenizer(path: str | Path | None = None) -> Path | None:
    """The file as named, or as the variable names it; None if neither does.

    Raises:
        CheckpointError: if there is no such file; the message says where it is found.
    """
    given = path or os.environ.get(TEXT_TOKENIZER_VARIABLE)
    if not given:
        return None
    if not Path(given).exists():
        raise CheckpointError(f"there is no text tokenizer at {given}; {TEXT_TOKENIZER_REMEDY}")
    return Path(given)
