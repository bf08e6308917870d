"""Reading the report's inputs: strict about what is there, calm about what is not."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from qlass.errors import DataError
from qlass.jsonl import iter_records, opened, read_json
from qlass.records import Episode
from qlass.report.inputs import EnvInputs

EpisodeTable: TypeAlias = dict[tuple[str, str], tuple[Episode, ...]]
"""Episodes by (method, split), ordered by (task_id, seed)."""

TableRow: TypeAlias = dict[str, float | None]
"""One line of a CSV of numbers; None is an empty cell or `nan`."""


def available(path: Path | None) -> bool:
    """Tell whether the file was named and exists."""
    return path is not None and path.is_file()


def absence(what: str, path: Path | None) -> str:
    """Say in one sentence that something is not in the report and why."""
    if path is None:
        return f"{what}: not part of this run."
    # Only the last parts: a report must not depend on the machine it was made on.
    return f"{what}: {'/'.join(path.parts[-3:])} does not exist; run the stage that writes it."


def read_episodes(env: EnvInputs) -> tuple[EpisodeTable, list[str]]:
    """Read all evaluated episodes of an environment, in the order in which they are named.

    Returns:
        The episodes, and one sentence for each (method, split) whose file does not exist.

    Raises:
        DataError: a file is corrupt, holds another method, or does not hold one episode per task and seed.
    """
    table: EpisodeTable = {}
    missing = []
    for (method, split), path in env.episodes.items():
        if available(path):
            table[method, split] = _read_method(path, method)
        else:
            missing.append(absence(f"Episodes of {method} on {split}", path))
    return table, missing


def _read_method(path: Path, method: str) -> tuple[Episode, ...]:
    """Read the episodes of one method on one split."""
    lines: dict[tuple[str, int], int] = {}
    episodes = []
    for line, episode in enumerate(iter_records(path, Episode), start=2):
        if episode.method != method:
            raise DataError(f"{path}:{line}: an episode of method {episode.method!r}, expected {method!r}")
        unit = (episode.task_id, episode.seed)
        if unit in lines:
            raise DataError(
                f"{path}:{line}: {episode.task_id} with seed {episode.seed} was already on line {lines[unit]}; "
                "every task yields exactly one episode per seed"
            )
        lines[unit] = line
        episodes.append(episode)
    if not episodes:
        raise DataError(f"{path}: holds no episodes; evaluate again")
    _check_seeds(path, lines)
    return tuple(sorted(episodes, key=lambda episode: (episode.task_id, episode.seed)))


def _check_seeds(path: Path, units: Mapping[tuple[str, int], int]) -> None:
    """Refuse a file in which some tasks lack a seed that others have: their mean would weigh tasks differently."""
    seeds = {seed for _, seed in units}
    for task in sorted({task for task, _ in units}):
        lacking = sorted(seed for seed in seeds if (task, seed) not in units)
        if lacking:
            raise DataError(f"{path}: {task} has no episode for the seeds {lacking} that other tasks have")


def read_numbers(path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> list[TableRow]:
    """Read the named columns of a CSV of numbers; other columns are ignored.

    Args:
        path: the file.
        columns: columns that must be there and hold a number on every line.
        optional: columns that must be there, but where a cell may be empty or `nan` (returned as None).

    Raises:
        DataError: a column is missing or a cell is not a finite number; names file and line.
    """
    names = [*columns, *optional]
    with opened(path) as file:
        reader = csv.reader(_lines(path, file))
        header = next(reader, [])
        lacking = [name for name in names if name not in header]
        if lacking:
            raise DataError(f"{path}:1: no column {lacking}; found {header}; make the file again")
        rows = []
        for cells in reader:
            where = f"{path}:{reader.line_num}"
            if len(cells) != len(header):
                raise DataError(f"{where}: {len(cells)} cells, but the header has {len(header)}; make the file again")
            row = dict(zip(header, cells, strict=True))
            rows.append({name: _number(where, name, row[name], name in optional) for name in names})
    return rows


def _lines(path: Path, file: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a text file."""
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{path}:{number}: not UTF-8; the file is damaged, make it again") from None


def _number(where: str, name: str, cell: str, may_lack: bool) -> float | None:
    """Return one cell as a float."""
    if may_lack and cell.strip().lower() in ("", "nan"):
        return None
    try:
        value = float(cell)
    except ValueError:
        raise DataError(f"{where}: {name}={cell!r} is not a number; make the file again") from None
    if not math.isfinite(value):
        raise DataError(f"{where}: {name}={cell!r} is not finite; make the file again")
    return value


def read_metrics(path: Path) -> list[tuple[str, float | int | str | bool]]:
    """Read a `metrics.json` as (dotted name, value) rows; lists and nulls are left out.

    Raises:
        DataError: the file is not a JSON object.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path}:1: found {type(value).__name__}, expected an object of metrics")
    return list(_flatten("", value))


def _flatten(prefix: str, value: Mapping[str, Any]) -> list[tuple[str, float | int | str | bool]]:
    """Return the scalars below a JSON object, sorted by name."""
    rows: list[tuple[str, float | int | str | bool]] = []
    for key in sorted(value):
        part, name = value[key], f"{prefix}{key}"
        if isinstance(part, dict):
            rows.extend(_flatten(f"{name}.", part))
        elif isinstance(part, str | int | float):
            rows.append((name, part))
    return rows


def read_panel(path: Path) -> tuple[int, str]:
    """Return (number of tasks, content hash) of a panel.

    Raises:
        DataError: the file is not a panel.
    """
    panel = read_json(path)
    if not isinstance(panel, dict) or type(panel.get("count")) is not int or not isinstance(panel.get("sha256"), str):
        raise DataError(f"{path}:1: not a panel; expected an object with count and sha256")
    return panel["count"], panel["sha256"]
