"""What has to run and why, from DVC: `dvc.yaml` is the only DAG. Shown by `python -m flows.plan [TARGET ...]`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.project import project_root

if TYPE_CHECKING:
    from pathlib import Path

    from dvc.repo import Repo
    from dvc.stage import PipelineStage

SHOWN = 40  # characters of a parameter's value


class PlanError(ValueError):
    """No plan: a mistake in `dvc.yaml`, `params.yaml` or the targets."""


class PlanBusyError(RuntimeError):
    """No plan now: another DVC process is writing what the plan has to read."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of `dvc.yaml`.

    Attributes:
        name: such as `explore@alfworld`.
        command: its `cmd`.
        needs: the planned stages that make its deps.
        outs: paths of its outputs, relative to the project.
        reasons: why it runs; empty for a stage that is up to date.
        forced: whether it runs even where it is up to date.
    """

    name: str
    command: str
    needs: tuple[str, ...]
    outs: tuple[str, ...]
    reasons: tuple[str, ...]
    forced: bool = False

    @property
    def runs(self) -> bool:
        """Whether the stage is out of date or lies downstream of one that is."""
        return bool(self.reasons)

    @property
    def why(self) -> str:
        """The reasons in one line."""
        return "; ".join(self.reasons) or "up to date"


def make_plan(root: Path, targets: Sequence[str] = (), *, force: bool = False) -> list[PlannedStage]:
    """Return the targets and what they need, level by level: an order in which they can run, also several at once.

    Args:
        root: the DVC project.
        targets: stages (`label@alfworld`) or groups of them (`label`); none means all.
        force: the targets run even where they are up to date.

    Raises:
        PlanError: no stage has that name, or DVC refuses `dvc.yaml`.
        PlanBusyError: another DVC process is writing what the plan has to read.
    """
    # Half a second that the import of this module must not cost.
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            return plan_of(repo, targets, force=force)
    except LockError as error:
        raise PlanBusyError(f"{error}\nWait for the other `dvc` process in {root}, or end it.") from error
    except DvcException as error:
        raise PlanError(f"DVC cannot read the project in {root}: {error}") from error


def plan_of(repo: Repo, targets: Sequence[str], *, force: bool) -> list[PlannedStage]:
    """Return the plan of an open repository; see `make_plan`."""
    import networkx

    # A name, since DVC's address of a stage (and its status) depends on the working directory.
    # DVC joins all dvc.yaml files of a repository; those below the root, such as pretrain/, are pipelines of their own.
    stages = {stage.name: stage for stage in repo.index.stages if stage.path_in_repo == "dvc.yaml"}
    own = repo.index.graph.subgraph(stages.values())
    graph = networkx.relabel_nodes(own, {stage: name for name, stage in stages.items()})
    chosen = choose(targets, list(stages))
    selected = chosen.union(*(networkx.descendants(graph, name) for name in chosen))
    status = repo.status()
    plan: dict[str, PlannedStage] = {}
    for level in networkx.topological_generations(graph.subgraph(selected).reverse()):
        for name in sorted(level):
            stage = stages[name]
            needs = tuple(sorted(selected.intersection(graph.successors(name))))
            reasons = list(reasons_of(stage, status.get(stage.addressing, [])))
            reasons += after([need for need in needs if plan[need].runs])
            forced = force and name in chosen
            reasons += ["forced"] * forced
            outs = tuple(os.path.relpath(out.fs_path, repo.root_dir) for out in stage.outs)
            plan[name] = PlannedStage(name, str(stage.cmd), needs, outs, tuple(reasons), forced)
    return list(plan.values())


def after(needs: Sequence[str]) -> list[str]:
    """Return, as a reason, the stages that run before."""
    more = [f"{len(needs) - 2} more"] if len(needs) > 3 else []
    return [f"after {', '.join([*needs[:2], *more] if more else needs)}"] if needs else []


def choose(targets: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the names that the targets stand for: `label` stands for all of its matrix, `label@alfworld` and others."""
    if not targets:
        return set(names)
    groups = {target: {name for name in names if target in (name, name.partition("@")[0])} for target in targets}
    if unknown := [target for target, group in groups.items() if not group]:
        raise PlanError(f"dvc.yaml has no stage {', '.join(unknown)}. Its stages: {', '.join(sorted(names))}.")
    return set().union(*groups.values())


def reasons_of(stage: PipelineStage, changes: Sequence[str | Mapping[str, Any]]) -> Iterator[str]:
    """Yield DVC's status of one stage in words.

    Args:
        stage: the stage.
        changes: its entry of `Repo.status()`.
    """
    if changes and not any(item.hash_info for item in (*stage.deps, *stage.outs)):  # dvc.lock has no such stage
        yield "never ran"
        return
    for change in changes:
        if isinstance(change, str):
            yield {"changed command": "command changed", "always changed": "runs always"}.get(change, change)
            continue
        for path, what in change.get("changed deps", {}).items():
            yield from [f"dep {what}: {path}"] if isinstance(what, str) else params_changed(stage, path)
        for path, what in change.get("changed outs", {}).items():
            yield f"out {'missing' if what == 'deleted' else what}: {path}"


def params_changed(stage: PipelineStage, path: str) -> Iterator[str]:
    """Yield the single parameters that differ from `dvc.lock`; DVC's status names only their section."""
    dep = next(dep for dep in stage.deps if dep.def_path == path)
    locked, current = (dict(leaves(params)) for params in (dep.hash_info.value, dep.read_params()))
    for name in sorted(locked.keys() | current.keys()):
        before, after = (str(params.get(name, "unset"))[:SHOWN] for params in (locked, current))
        if (name in locked) != (name in current) or locked[name] != current[name]:
            yield f"params changed: {name} {before} -> {after}"


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, value) of everything in nested mappings."""
    if not isinstance(value, Mapping) or not value:
        yield name, value
        return
    for key, item in value.items():
        yield from leaves(item, f"{name}.{key}" if name else str(key))


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(prog="python -m flows.plan", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="stages or groups of dvc.yaml; default: all")
    try:
        plan = make_plan(project_root(), parser.parse_args().targets)
    except (PlanError, PlanBusyError) as error:
        parser.exit(2, f"{error}\n")
    for stage in plan:
        print(f"{'run  ' if stage.runs else 'reuse'}  {stage.name:<40}  {stage.why}")


if __name__ == "__main__":
    main()
