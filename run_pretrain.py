"""Pretraining, for `torchrun run_pretrain.py RECIPE [KEY=VALUE]...`; the same as `fourm pretrain`."""

import sys

from fourm.cli import main

if __name__ == "__main__":
    main(["pretrain", *sys.argv[1:]])
