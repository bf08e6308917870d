"""The last lines of a program: whatever becomes of them, its work is done."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys

logger = logging.getLogger(__name__)


def escape_unknown() -> None:
    r"""Let standard output write a character that its encoding lacks as an escape (`\u2212`), whoever writes it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Write to standard output what a program found; that nobody can read it fails nothing.

    Characters that the output's encoding lacks are escaped. A full disk or a closed output costs a warning, a reader that
    has read enough (`| head`) nothing.
    """
    stream = sys.stdout
    try:
        escape_unknown()
        stream.write(text)
        stream.flush()
    except (OSError, ValueError, AttributeError) as error:  # None where it was closed before we began
        if not isinstance(error, BrokenPipeError):
            logger.warning("stdout: cannot be written (%s); this was to be shown:\n%s", error, text)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            # What is left in the buffer would fail once more, at the end of the program, and make its exit code 120.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
