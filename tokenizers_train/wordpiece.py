"""Train the text tokenizer: `python -m tokenizers_train.wordpiece RECIPE [KEY=VALUE]...`; `fourm train-wordpiece`."""

import sys

from fourm.cli import main

if __name__ == "__main__":
    main(["train-wordpiece", *sys.argv[1:]])
