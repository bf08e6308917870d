"""What has to run and why, from DVC: `dvc.yaml` is the only DAG. Shown by `python -m flows.plan [TARGET ...]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.project import project_root
from qlass.errors import QlassError
from tasks.project import dvcfiles
from tasks.running import console, leftovers


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
        """Whether the stage is out of date, lies downstream of one that is, or runs always."""
        return bool(self.reasons)

    @property
    def out_of_date(self) -> bool:
        """Whether there is more to it than that it runs always: only then what depends on it runs too."""
        return any(reason != dvcfiles.ALWAYS for reason in self.reasons)

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
        SettingsError: no stage has that name, or DVC refuses the project, `dvc.yaml` or `params.yaml`.
        DataError: `dvc.lock` is damaged.
        Busy: another DVC process is writing what the plan has to read, or a stage runs that a killed one left.
    """
    dvcfiles.check_project(root)
    leftovers.clear(root)
    plan: dict[str, PlannedStage] = {}
    for stage in dvcfiles.status(root, targets):
        forced = force and stage.target
        reasons = [*stage.reasons, *after([need for need in stage.needs if plan[need].out_of_date])]
        reasons += ["forced"] * forced
        plan[stage.name] = PlannedStage(stage.name, stage.command, stage.needs, stage.outs, tuple(reasons), forced)
    return list(plan.values())


def after(needs: Sequence[str]) -> list[str]:
    """Return, as a reason, the stages that run before."""
    more = [f"{len(needs) - 2} more"] if len(needs) > 3 else []
    return [f"after {', '.join([*needs[:2], *more] if more else needs)}"] if needs else []


def main() -> None:
    """Print the plan."""
    parser = argparse.ArgumentParser(prog="python -m flows.plan", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="stages or groups of dvc.yaml; default: all")
    try:
        plan = make_plan(project_root(), parser.parse_args().targets)
    except QlassError as error:
        parser.exit(error.exit_code, f"{error}\n")
    lines = [f"{'run  ' if stage.runs else 'reuse'}  {stage.name:<40}  {stage.why}\n" for stage in plan]
    console.say("".join(lines))


if __name__ == "__main__":
    main()
