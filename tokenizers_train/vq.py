"""Train an image tokenizer, for `torchrun tokenizers_train/vq.py RECIPE [KEY=VALUE]...`; as `fourm train-tokenizer`."""

import sys

from fourm.cli import main

if __name__ == "__main__":
    main(["train-tokenizer", *sys.argv[1:]])
