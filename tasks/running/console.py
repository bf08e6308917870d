"""The last lines of a program: whatever becomes of them, its work is done."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys

logger = logging.getLogger(__name__)


def say(text: str) -> None:
    r"""Write to standard output what a program found; that nobody can read it fails nothing.

    Characters that the output's encoding lacks are escaped (`\u2212`). A full disk or a closed output costs a warning, a
    reader that has read enough (`| head`) nothing.
    """
    stream = sys.stdout
    try:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        stream.write(text)
        stream.flush()
    except (OSError, ValueError, AttributeError) as error:  # None where it was closed before we began
        if not isinstance(error, BrokenPipeError):
            logger.warning("stdout: cannot be written (%s); this was to be shown:\n%s", error, text)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # What is left in the buffer would fail once more, at the end of the program, and make its exit code 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
