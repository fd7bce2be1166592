"""Fine-tuning jobs: classification, dense prediction and detection on a pretrained encoder. Not available yet."""

from __future__ import annotations

import sys

MESSAGE = (
    "run_finetune.py: fine-tuning is not available in this version of fourm.\n"
    "What works today: run_pretrain.py (or `fourm pretrain`) trains a model, `fourm generate` uses it,\n"
    "and fourm.load_model(path) gives its encoder to your own training code."
)


def main() -> int:
    """Say what is missing and what can be used instead; the exit status is 2, as for a wrong command line."""
    print(MESSAGE, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
