"""torchrun as a pipeline starts it: what a failing rank says is enough, without torchrun's own traceback behind it."""

from __future__ import annotations

import logging
import sys


def main(arguments: list[str]) -> int:
    """Run torchrun.

    Args:
        arguments: as of `torchrun`.

    Returns:
        exit status of the rank that failed first, 128 + signal if it was killed, or after a signal; 0 if all went well.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as run

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        run(arguments)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        status = int(failure.exitcode)
        return status if status > 0 else 128 - status if status < 0 else 1
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
