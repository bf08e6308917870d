"""What `dvc.yaml` declares of a stage, and what `dvc.lock` recorded: the one place that says what depends on what.

Stage programs take their arguments, their settings and their inputs from here, so that they cannot read what DVC does
not know of. DVC itself is not imported: it takes half a second and locks the repository.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from qlass.errors import SettingsError
from tasks.project import paths


@dataclass(frozen=True, slots=True)
class Cell:
    """One stage of `dvc.yaml` with all its variables filled in; one cell of a matrix, or the whole stage without one.

    Attributes:
        name: as DVC names it: `report`, `sft@alfworld`, `search@alfworld-qlass-test_seen`.
        stage: the key in `dvc.yaml`.
        items: the cell's value per matrix key, in the order of the program's arguments.
        params: dotted keys of params.yaml.
        deps: files and folders that are read.
        outs: files and folders that are written, metrics included.
    """

    name: str
    stage: str
    items: dict[str, str]
    params: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def pointer(self) -> Path:
        """The run pointer among the outs."""
        return paths.run_pointer(self.stage, *self.items.values())


def read_yaml(path: Path) -> Any:
    """Read YAML 1.2 as DVC does (1e-3 is a number; a key given twice is an error).

    Raises:
        SettingsError: the file is absent or not YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file in {Path.cwd()}; run from the root of the repository") from None
    except YAMLError as error:
        raise SettingsError(f"{path}: not YAML: {error}") from None


def choices(stage: str, root: Path = Path()) -> dict[str, list[str]]:
    """Return the matrix of a stage: the allowed values of each argument of its program, in order."""
    entry = _stages(root).get(stage)
    if entry is None:
        raise SettingsError(f"{paths.DVC_FILE}: no stage {stage!r}; the stages are {', '.join(_stages(root))}")
    params = read_yaml(root / paths.PARAMS)
    filled = {key: _fill(value, params) for key, value in entry.get("matrix", {}).items()}
    return {key: [str(value) for value in values] for key, values in filled.items()}


def cell(stage: str, items: Mapping[str, str], root: Path = Path()) -> Cell:
    """Return one cell of a stage; `items` has a value per matrix key."""
    entry = _stages(root)[stage]
    variables = {**read_yaml(root / paths.PARAMS), "item": items}
    name = f"{stage}@{'-'.join(items.values())}" if items else stage
    lists = {key: _fill(entry.get(key) or [], variables) for key in ("params", "deps", "outs", "metrics", "plots")}
    outs = [*_names(lists["outs"]), *_names(lists["metrics"]), *_names(lists["plots"])]
    return Cell(name, stage, dict(items), tuple(lists["params"]), tuple(lists["deps"]), tuple(outs))


def cells(root: Path = Path()) -> list[Cell]:
    """Return every cell of every stage, in the order of `dvc.yaml`."""
    found = []
    for stage in _stages(root):
        matrix = choices(stage, root)
        for values in itertools.product(*matrix.values()):
            found.append(cell(stage, dict(zip(matrix, values, strict=True)), root))
    return found


def read_lock(root: Path = Path()) -> dict[str, dict[str, Any]]:
    """Return the entries of `dvc.lock` by stage name; empty where nothing ran yet."""
    path = root / paths.DVC_LOCK
    return dict(read_yaml(path).get("stages") or {}) if path.exists() else {}


def lock_hash(entry: Mapping[str, Any]) -> str:
    """Return a hash of a `dvc.lock` entry without its run pointer: it changes when, and only when, a result does."""
    outs = [out for out in entry.get("outs", []) if not out["path"].startswith(f"{paths.RUNS}/")]
    kept = {"cmd": entry.get("cmd"), "deps": entry.get("deps"), "params": entry.get("params"), "outs": outs}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def output_hashes(root: Path = Path()) -> dict[str, str]:
    """Return the MD5 that DVC recorded for each output path (`….dir` for a folder)."""
    entries = read_lock(root).values()
    return {out["path"]: out["md5"] for entry in entries for out in entry.get("outs", []) if "md5" in out}


def _stages(root: Path) -> dict[str, Any]:
    """Return the `stages` section of dvc.yaml."""
    return dict(read_yaml(root / paths.DVC_FILE)["stages"])


def _names(entries: list[Any]) -> list[str]:
    """Return paths of outs, each a string or a mapping of one path to its options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _fill(value: Any, variables: Mapping[str, Any]) -> Any:
    """Replace every `${a.b}` inside a value of dvc.yaml."""
    if isinstance(value, list):
        return [_fill(entry, variables) for entry in value]
    if isinstance(value, dict):
        return {_fill(key, variables): _fill(entry, variables) for key, entry in value.items()}
    if not isinstance(value, str):
        return value
    whole = re.fullmatch(r"\$\{([^}]+)\}", value)
    if whole:
        return _look_up(whole[1], variables)
    return re.sub(r"\$\{([^}]+)\}", lambda found: str(_look_up(found[1], variables)), value)


def _look_up(key: str, variables: Mapping[str, Any]) -> Any:
    """Return the variable with a dotted key."""
    found: Any = variables
    for part in key.strip().split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise SettingsError(f"{paths.DVC_FILE}: ${{{key}}} is not a key of {paths.PARAMS}")
        found = found[part]
    return found
