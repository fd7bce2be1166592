"""Raw shards to token shards: `torchrun tokenizers_train/tokenize_shards.py TOKENIZER DATA`; as `fourm tokenize`."""

import sys

from fourm.cli import main

if __name__ == "__main__":
    main(["tokenize", *sys.argv[1:]])
