"""Models and tokenizers on the Hugging Face Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fourm.convert.checkpoints import CHECKPOINTS, SOURCE_FILE
from fourm.convert.published import CONFIG_FILE, WEIGHTS_FILE, is_hub_id
from fourm.errors import CheckpointError

_TAGS = ("fourm", "any-to-any", "multimodal")


def upload(folder: Path, repository: str, *, private: bool = False, message: str = "Upload with fourm") -> str:
    """Put the folder of a model or tokenizer on the Hub; the repository is made if it does not exist.

    A `README.md` that is not there yet is written from the config.

    Args:
        folder: of a model or tokenizer, or the output folder of its training.
        repository: ORGANISATION/NAME.
        private: for a new repository.
        message: of the commit.

    Returns:
        the address of the repository.

    Raises:
        CheckpointError: if the folder is incomplete, the name is none, or the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    inner = folder / "model" if (folder / "model" / CONFIG_FILE).is_file() else folder
    for needed in (CONFIG_FILE, WEIGHTS_FILE):
        if not (inner / needed).is_file():
            raise CheckpointError(f"{inner} has no {needed}, so it is not the folder of a trained model or tokenizer")
    if not is_hub_id(repository):
        raise CheckpointError(f"repository is '{repository}'; expected ORGANISATION/NAME")
    card = inner / "README.md"
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        if not card.is_file():
            api.upload_file(
                path_or_fileobj=model_card(inner, repository).encode(), path_in_repo="README.md", repo_id=repository
            )
        api.upload_folder(
            folder_path=inner,
            repo_id=repository,
            commit_message=message,
            allow_patterns=["*.json", "*.safetensors", "README.md", "tokenizers/*", "published/*"],
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"the Hub does not take {repository}: {first}. Log in with `hf auth login`, or set HF_TOKEN to a token "
            "that may write there"
        ) from None
    return str(address)


def model_card(folder: Path, repository: str) -> str:
    """What a repository says of itself: what it holds, and how to load it."""
    facts: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    head = "\n".join(["---", "library_name: fourm", "tags:", *(f"- {tag}" for tag in _TAGS), "---"])
    if "kind" in facts:
        what, call = f"A tokenizer of {facts['modality']['name']} (kind {facts['kind']}).", "load_tokenizer"
    else:
        names = ", ".join(facts.get("modalities", {})) or "several modalities"
        what, call = f"An any-to-any model over {names}.", "load_model"
    source = folder / "published" / SOURCE_FILE
    if source.is_file() and (origin := CHECKPOINTS.get(source.read_text().strip())):
        what += f" Converted from {origin.repository}; its weights are under the {origin.licence}."
    name = repository.partition("/")[2]
    code = f'```python\nimport fourm\n\nnetwork = fourm.{call}("{repository}")\n```'
    return f"{head}\n# {name}\n\n{what}\n\n{code}\n"
