"""The errors that QLASS raises itself; each message says what, where, what was found, what is allowed, what to do.

`exit_code` is what a program returns when the error ends it: a scheduler can tell "fix the input" from "try again".
"""

from __future__ import annotations

from typing import ClassVar


class QlassError(Exception):
    """Base of all errors of ours."""

    exit_code: ClassVar[int] = 1


class SettingsError(QlassError):
    """A setting, name or argument is not one of the allowed ones."""

    exit_code = 2


class DataError(QlassError):
    """A file or record is corrupt, incomplete, or not what its reader expects."""

    exit_code = 3


class DependencyNotInstalled(QlassError):
    """An optional package is missing; the message names the extra that installs it."""

    exit_code = 4


class EnvironmentFault(QlassError):
    """An environment or its data is broken or not as promised."""

    exit_code = 5


class ReplayDivergence(QlassError):
    """Replayed actions did not give the recorded observations."""

    exit_code = 6


class ModelMismatch(QlassError):
    """A model, its tokenizer or its weights do not fit what is asked of them."""

    exit_code = 7


class StorageError(QlassError):
    """The operating system refused to read or write a file (disk full, no permission); the old file is intact."""

    exit_code = 8


class Busy(QlassError):
    """Something is used by somebody else just now; trying again later may work (EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75
