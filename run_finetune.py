"""Fine-tuning, for `torchrun run_finetune.py RECIPE [KEY=VALUE]...`; the same as `fourm finetune`."""

import sys

from fourm.cli import main

if __name__ == "__main__":
    main(["finetune", *sys.argv[1:]])
