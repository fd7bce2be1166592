"""Bytes in their order, from files, from URLs, and from commands."""

from __future__ import annotations

import io
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fourm.data.remote import RemoteFile, is_url
from fourm.errors import DataError

PIPE = "pipe:"
_TAIL = 500  # characters of what a command said


@contextmanager
def open_stream(name: str) -> Iterator[IO[bytes]]:
    """A file, a URL, or what the command of `pipe:COMMAND` writes, as a stream.

    Raises:
        OSError: if a file is not there, is no regular file, or may not be read.
        DataError: if a URL cannot be read, or, when the block ends, if the command failed.
    """
    if name.startswith(PIPE):
        with _command(name.removeprefix(PIPE)) as output:
            yield output
    elif is_url(name):
        with io.BufferedReader(RemoteFile(name), 2**20) as remote:
            yield remote
    else:
        if not stat.S_ISREG(Path(name).stat().st_mode):
            raise OSError("it is not a regular file")
        with Path(name).open("rb") as file:
            yield file


@contextmanager
def _command(command: str) -> Iterator[IO[bytes]]:
    """What a command of the shell writes. It has to end well, every part of a pipeline, also where its output was
    damaged."""
    bash = shutil.which("bash")  # without it, only the last part of a pipeline tells how it ended
    shell = [bash, "-o", "pipefail", "-c", command] if bash else ["sh", "-c", command]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(shell, stdout=subprocess.PIPE, stderr=said, stdin=subprocess.DEVNULL) as process,
    ):
        assert process.stdout is not None
        try:
            yield process.stdout
            while process.stdout.read(2**20):  # what follows the end mark; a closed pipe would make the command fail
                pass
        except BaseException:
            process.kill()
            raise
        status = process.wait()
        if status:
            said.seek(0)
            words = said.read().decode(errors="replace").strip()[-_TAIL:] or "it said nothing"
            raise DataError(
                f"the command `{command}` ended with exit status {status}: {words}. Try it in a shell; when it works, "
                "the same command of fourm goes on from here"
            )
