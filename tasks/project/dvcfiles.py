"""What `dvc.yaml` declares, what `dvc.lock` recorded and what DVC finds out of date: the one file that imports DVC.

Stage programs take their arguments, their settings and their inputs from here, so that they cannot read what DVC does
not know of. DVC's own parser reads the files; what it reads is the same under `dvc repro`, in the temporary checkout of
a queued experiment and where there is no `.dvc`, because no repository is opened: that would take a lock and write.
Only `status` opens one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from qlass.errors import Busy, SettingsError
from tasks.project import paths

if TYPE_CHECKING:
    from dvc.parsing import DataResolver, Definition
    from dvc.repo import Repo
    from dvc.stage import PipelineStage
    from dvc.utils.serialize import YAMLFileCorruptedError
    from dvc.utils.strictyaml import YAMLValidationError

ALWAYS = "runs always"
"""The reason of a stage with `always_changed: true`; alone, it is none for the stages that depend on it."""

_OUTS = ("outs", "metrics", "plots")

_SHOWN = 40
"""Characters of a parameter's value in a reason."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One stage of `dvc.yaml` with all its variables filled in; one cell of a matrix, or the whole stage without one.

    Attributes:
        name: as DVC names it: `report`, `sft@alfworld`, `search@alfworld-qlass-test_seen`.
        stage: the key in `dvc.yaml`.
        items: the cell's value per matrix key, in the order of the program's arguments.
        params: dotted keys of params.yaml.
        deps: files and folders that are read, other parameter files included.
        outs: files and folders that are written, metrics and plots included.
        always: whether it runs at each `dvc repro` (`always_changed: true`).
    """

    name: str
    stage: str
    items: dict[str, str]
    params: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    always: bool = False

    @property
    def pointer(self) -> Path:
        """The run pointer among the outs."""
        return paths.run_pointer(self.stage, *self.items.values())


@dataclass(frozen=True, slots=True)
class StageStatus:
    """What DVC finds when it compares a stage with `dvc.lock`.

    Attributes:
        name: as `Cell.name`.
        command: its `cmd`.
        needs: the stages that make its deps.
        outs: paths of its outputs, relative to the project.
        reasons: why it is to run, in words; empty for a stage that is up to date. What runs before it is no reason yet.
        target: whether a target names it; else a target needs it.
    """

    name: str
    command: str
    needs: tuple[str, ...]
    outs: tuple[str, ...]
    reasons: tuple[str, ...]
    target: bool


def read_yaml(path: Path) -> Any:
    """Read YAML with DVC's loader: YAML 1.2 (1e-3 is a number), a key given twice is an error, an empty file is `{}`.

    Raises:
        SettingsError: the file is absent or not YAML.
    """
    with _mistakes_named():
        return _load(path)


def choices(stage: str, root: Path = Path()) -> dict[str, list[str]]:
    """Return the matrix of a stage: the allowed values of each argument of its program, in order.

    Raises:
        SettingsError: there is no such stage, or a mistake in `dvc.yaml` or `params.yaml`.
    """
    with _mistakes_named():
        return _matrix(_definition(_resolver(root), stage))


def cell(stage: str, items: Mapping[str, str], root: Path = Path()) -> Cell:
    """Return one cell of a stage; `items` has a value per matrix key.

    Raises:
        SettingsError: there is no such cell, or a mistake in `dvc.yaml` or `params.yaml`.
    """
    with _mistakes_named():
        resolver = _resolver(root)
        found = _items_by_name(_definition(resolver, stage))
        for name, values in found.items():
            if values == items:
                return _cell(resolver, name, stage, values, root)
    raise SettingsError(f"{paths.DVC_FILE}: stage {stage} has no {dict(items)}; its cells are {', '.join(found)}")


def cells(root: Path = Path()) -> list[Cell]:
    """Return every cell of every stage, in the order of `dvc.yaml`.

    Raises:
        SettingsError: a mistake in `dvc.yaml` or `params.yaml`.
    """
    with _mistakes_named():
        resolver = _resolver(root)
        return [
            _cell(resolver, name, stage, items, root)
            for stage, definition in resolver.definitions.items()
            for name, items in _items_by_name(definition).items()
        ]


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


def program(root: Path) -> list[str]:
    """Return the command that is `dvc` in a project."""
    # DVC 3.67 puts the path of its cache into a format string (`dvc_data/hashfile/_progress.py`).
    module = "tasks.project.dvcfiles" if set("{}") & set(str(root.resolve())) else "dvc"
    return [sys.executable, "-m", module]


def _main() -> int:
    """Be `dvc`, in a project whose path has braces."""
    from dvc.cli import main
    from dvc_data.hashfile import _progress

    first: Any = _progress.QueryingProgress.__init__

    def quoting(self: Any, *arguments: Any, name: str | None = None, **others: Any) -> None:
        first(self, *arguments, name=name and name.replace("{", "{{").replace("}", "}}"), **others)

    _progress.QueryingProgress.__init__ = quoting  # type: ignore[method-assign]
    return int(main())


def status(root: Path, targets: Sequence[str] = ()) -> list[StageStatus]:
    """Return the targets and what they need, level by level: an order in which they can run, also several at once.

    Args:
        root: the DVC project.
        targets: stages (`label@alfworld`) or groups of them (`label`); none means all.

    Raises:
        SettingsError: no stage has that name, or DVC refuses `dvc.yaml` or `params.yaml`.
        Busy: another DVC process is writing what has to be read.
    """
    from dvc.lock import LockError

    names = [cell.name for cell in cells(root)]  # first: DVC answers some of the mistakes found here with a traceback
    with _mistakes_named():
        try:
            return _statuses(root, _chosen(targets, names))
        except LockError as error:
            raise Busy(f"{error}\nWait for the other `dvc` process in {root}, or end it.") from None


def _statuses(root: Path, chosen: set[str]) -> list[StageStatus]:
    """Return the chosen stages and what they need; see `status`."""
    import networkx
    from dvc.repo import Repo, lock_repo
    from dvc.repo.index import Index

    with Repo(str(root)) as repo, lock_repo(repo):
        # Pipelines below the root, such as pretrain/, are in the index of the repository, but not in this one.
        index = Index.from_file(repo, str(Path(repo.root_dir, paths.DVC_FILE)))
        stages = {stage.name: stage for stage in index.stages}
        graph = networkx.relabel_nodes(index.graph, {stage: name for name, stage in stages.items()})
        selected = chosen.union(*(networkx.descendants(graph, name) for name in chosen))
        found = []
        for level in networkx.topological_generations(graph.subgraph(selected).reverse()):
            for name in sorted(level):
                needs = tuple(sorted(graph.successors(name)))
                outs = tuple(_path(out, repo) for out in stages[name].outs)
                reasons = tuple(_reasons(stages[name], repo))
                found.append(StageStatus(name, str(stages[name].cmd), needs, outs, reasons, name in chosen))
        return found


@contextmanager
def _mistakes_named() -> Iterator[None]:
    """Turn what DVC raises into one error of ours, with DVC's words where it says what and where."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import YAMLFileCorruptedError
    from dvc.utils.strictyaml import YAMLValidationError

    try:
        yield
    except YAMLFileCorruptedError as error:
        raise SettingsError(_syntax_mistake(error)) from None
    except YAMLValidationError as error:
        raise SettingsError(_schema_mistakes(error)) from None
    except DvcException as error:
        words = re.sub(r"\x1b\[\d*m", "", str(error))  # DVC paints a part of them
        raise SettingsError(f"{words}; correct it in {paths.DVC_FILE} or {paths.PARAMS}") from None


def _syntax_mistake(error: YAMLFileCorruptedError) -> str:
    """Return file, place and problem of a file that is not YAML, from the error of ruamel.yaml below DVC's."""
    from ruamel.yaml.error import MarkedYAMLError

    found = error.__cause__
    if not isinstance(found, MarkedYAMLError) or found.problem_mark is None:
        return f"{error.path}: not YAML: {' '.join(str(found).split())}; correct the file"
    place = f"line {found.problem_mark.line + 1}, column {found.problem_mark.column + 1}"
    problem = ": ".join(part for part in (found.context, found.problem) if part)
    return f"{error.path}: not YAML: {place}: {problem}; correct the file there"


def _schema_mistakes(error: YAMLValidationError) -> str:
    """Return file, place and problem of everything in a `dvc.yaml` that DVC does not know."""
    from dvc.utils.serialize import parse_yaml_for_update
    from dvc.utils.strictyaml import determine_linecol

    data = parse_yaml_for_update(error.text, error.path)
    lines = []
    for found in error.exc.errors:
        line, column, _ = determine_linecol(data, found.path)
        place = f"line {line}, column {column}: " if line else ""
        key = ".".join(str(part) for part in found.path) or "the whole file"
        lines.append(f"{place}{key}: {found.error_message}")
    return f"{os.path.normpath(error.path)}: {'; '.join(lines)}; correct it there"


def _load(path: Path, schema: Any = None) -> Any:
    """Read YAML, and check it against a schema of DVC's."""
    from dvc.utils import strictyaml

    try:
        data, _ = strictyaml.load(str(path), schema)
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file in {Path.cwd()}; run from the root of the repository") from None
    return data


def _resolver(root: Path) -> DataResolver:
    """Return DVC's parser with `dvc.yaml`, which it has checked, and the variables of `params.yaml`."""
    from dvc.fs import localfs
    from dvc.parsing import DataResolver
    from dvc.schema import COMPILED_MULTI_STAGE_SCHEMA

    # All that the parser asks of a repository; from its configuration, how `cmd` shows a dictionary.
    repo: Any = SimpleNamespace(fs=localfs, config={})
    return DataResolver(repo, str(root), _load(root / paths.DVC_FILE, COMPILED_MULTI_STAGE_SCHEMA))


def _definition(resolver: DataResolver, stage: str) -> Definition:
    """Return a stage of `dvc.yaml`."""
    if stage not in resolver.definitions:
        raise SettingsError(f"{paths.DVC_FILE}: no stage {stage!r}; the stages are {', '.join(resolver.definitions)}")
    return resolver.definitions[stage]


def _matrix(definition: Definition) -> dict[str, list[str]]:
    """Return the values per matrix key; empty without a matrix."""
    from dvc.parsing import ForeachDefinition, MatrixDefinition

    if isinstance(definition, ForeachDefinition):
        raise SettingsError(
            f"{definition.relpath}: stages.{definition.name}: found `foreach`; allowed: `matrix`, whose keys name the "
            "arguments of a program; write it so"
        )
    if not isinstance(definition, MatrixDefinition):
        return {}
    found = {}
    for key, values in definition.resolved_iterable.items():
        plain = _plain(values)
        # DVC itself ends with a traceback, or takes a text for a list of letters.
        if not isinstance(plain, list) or any(isinstance(value, list | dict) for value in map(_plain, plain)):
            raise SettingsError(
                f"{definition.relpath}: stages.{definition.name}.matrix.{key}: {definition.matrix_data[key]} is {plain!r}; "
                f"allowed: a list of texts or numbers; correct it there or in {paths.PARAMS}"
            )
        found[key] = [_text(value) for value in plain]
    return found


def _items_by_name(definition: Definition) -> dict[str, dict[str, str]]:
    """Return the matrix items of every cell of a stage by the cell's name."""
    if not _matrix(definition):
        return {definition.name: {}}
    cells = definition.normalized_iterable.values()
    texts = [{key: _text(value) for key, value in items.items()} for items in cells]
    return dict(zip(definition.get_generated_names(), texts, strict=True))


def _plain(value: Any) -> Any:
    """Return a value of DVC's parser without the note where it comes from."""
    from dvc.parsing.context import Node

    return value.value if isinstance(value, Node) else value


def _text(value: Any) -> str:
    """Return a matrix value as `${item.key}` shows it."""
    from dvc.parsing.interpolate import to_str

    return str(to_str(_plain(value)))


def _cell(resolver: DataResolver, name: str, stage: str, items: dict[str, str], root: Path) -> Cell:
    """Return a cell whose variables DVC has filled in."""
    from dvc.dependency import _merge_params
    from dvc.output import _merge_data

    entry = resolver.resolve_one(name)[name]
    merged = {}
    for kind, merge in (("params", _merge_params), *((kind, _merge_data) for kind in ("deps", *_OUTS))):
        try:
            merged[kind] = merge(entry.get(kind, []))
        except ValueError as error:
            raise SettingsError(
                f"{paths.DVC_FILE}: stages.{name}.{kind}: {str(error).rstrip('.')}; correct it there or in {paths.PARAMS}"
            ) from None
    params = merged["params"].pop(str(paths.PARAMS), None)
    if params == []:  # the whole file
        params = list(read_yaml(root / paths.PARAMS))
    deps = [*merged["deps"], *merged["params"]]
    outs = [path for kind in _OUTS for path in merged[kind]]
    return Cell(name, stage, items, tuple(params or ()), tuple(deps), tuple(outs), entry.get("always_changed", False))


def _chosen(targets: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the names that the targets stand for: `label` stands for all of its matrix, `label@alfworld` and others."""
    if not targets:
        return set(names)
    groups = {target: {name for name in names if target in (name, name.partition("@")[0])} for target in targets}
    if unknown := [target for target, group in groups.items() if not group]:
        raise SettingsError(
            f"{paths.DVC_FILE} has no stage {', '.join(unknown)}. Its stages: {', '.join(sorted(names))}."
        )
    return set().union(*groups.values())


def _reasons(stage: PipelineStage, repo: Repo) -> Iterator[str]:
    """Yield DVC's status of one stage in words."""
    changes: list[Any] = next(iter(stage.status().values()), [])
    if changes and not any(item.hash_info for item in (*stage.deps, *stage.outs)):  # dvc.lock has no such stage
        yield "never ran"
        return
    items = {str(item): item for item in (*stage.deps, *stage.outs)}  # DVC's names depend on the working directory
    for change in changes:
        if isinstance(change, str):
            yield {"changed command": "command changed", "always changed": ALWAYS}.get(change, change)
            continue
        for name, what in change.get("changed deps", {}).items():
            path = _path(items[name], repo)
            yield from [f"dep {what}: {path}"] if isinstance(what, str) else _params_changed(items[name], path)
        for name, what in change.get("changed outs", {}).items():
            yield f"out {'missing' if what == 'deleted' else what}: {_path(items[name], repo)}"


def _path(item: Any, repo: Repo) -> str:
    """Return the path of one of DVC's deps or outs, relative to the project."""
    return os.path.relpath(str(item.fs_path), str(repo.root_dir))


def _params_changed(dep: Any, path: str) -> Iterator[str]:
    """Yield the single parameters that differ from `dvc.lock`; DVC's status names only their section."""
    file = "" if path == str(paths.PARAMS) else f"{path}:"
    locked, current = (dict(_leaves(params)) for params in (dep.hash_info.value, dep.read_params()))
    for name in sorted(locked.keys() | current.keys()):
        before, after = (str(params.get(name, "unset"))[:_SHOWN] for params in (locked, current))
        if (name in locked) != (name in current) or locked[name] != current[name]:
            yield f"params changed: {file}{name} {before} -> {after}"


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of everything in nested mappings."""
    if not isinstance(value, Mapping) or not value:
        yield name, value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


if __name__ == "__main__":
    raise SystemExit(_main())
