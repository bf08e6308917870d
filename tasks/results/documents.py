"""Tables in documents, between `<!-- results:PRESET -->` and `<!-- /results -->`; what stands outside is never touched."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from qlass.errors import DataError
from qlass.jsonl import opened
from tasks.project import paths
from tasks.results import pages
from tasks.results.kept import Kept

_MARK = re.compile(r"^<!-- (?:results:(?P<preset>\S+)|/results) -->$", re.MULTILINE)


def page_of(preset: str) -> Path:
    """Return the page of a preset."""
    return paths.RESULTS / preset / "results.md"


def summary_of(preset: str) -> Path:
    """Return the file with all numbers of a preset."""
    return paths.RESULTS / preset / "summary.json"


def documents(root: Path) -> list[Path]:
    """Return the files that may have markers, relative to the root."""
    found = [*root.glob(str(paths.README)), *sorted((root / paths.RESULTS.parent).glob("*.md"))]
    return [path.relative_to(root) for path in found]


def marked(text: str, name: Path) -> Iterator[tuple[str, int, int]]:
    """Yield (preset, start, end) of what stands between each pair of markers.

    Args:
        text: of a document.
        name: its path, for errors.

    Raises:
        DataError: a marker without the other one of its pair.
    """
    opening: re.Match[str] | None = None
    for mark in _MARK.finditer(text):
        if (mark["preset"] is None) == (opening is None):
            raise _unpaired(text, mark, name)
        if opening is not None:
            yield opening["preset"], opening.end() + 1, mark.start()
        opening = mark if opening is None else None
    if opening is not None:
        raise _unpaired(text, opening, name)


def _unpaired(text: str, mark: re.Match[str], name: Path) -> DataError:
    line = text.count("\n", 0, mark.start()) + 1
    return DataError(
        f"{name}:{line}: found {mark[0]} without its other half; allowed: <!-- results:PRESET --> on a line of its own, and "
        "<!-- /results --> on a line below it; correct it"
    )


def refreshed(text: str, name: Path, kept: Kept) -> str:
    """Return the text of a document with the tables of this preset made anew.

    Args:
        text: of the document.
        name: its path relative to the repository.
        kept: what the tables are made of.

    Raises:
        DataError: see `marked`.
    """
    link = Path(os.path.relpath(page_of(kept.preset), name.parent)).as_posix()
    parts, done = [], 0
    for preset, start, end in marked(text, name):
        if preset == kept.preset:
            parts += [text[done:start], f"{pages.short(kept, link)}\n"]
            done = end
    return "".join([*parts, text[done:]])


def read_text(path: Path) -> str:
    """Read a document with its line ends.

    Raises:
        DataError: it is absent or not UTF-8.
    """
    with opened(path) as file:
        try:
            return file.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from None
