"""The three flows. By hand: `python -m flows.pipeline [TARGET ...]`; on a schedule: `prefect.yaml`.

Parameters say which stages and how many at once, never a number that changes a result: those are in `params.yaml`.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.futures import wait
from prefect.logging.loggers import flow_run_logger
from prefect.runtime import flow_run
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.project import check_proxies, project_root, stage_environment
from flows.shell import Commands
from flows.stages import StageResult, plan_stages, run_program, run_stage
from flows.summary import Row, publish, table_of
from qlass.errors import SettingsError
from tasks import register
from tasks.experiments import tracking
from tasks.pipeline import summary
from tasks.project import dvcfiles, paths
from tasks.project.settings import load_all
from tasks.running import console
from tasks.running.runner import report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.futures import PrefectFuture

    from flows.plan import PlannedStage


class PipelineError(RuntimeError):
    """At least one stage failed; the message holds each one's command, exit code, output and resume command."""


def log_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Say at the end of the log what failed and how to go on. The place to add a notification."""
    flow_run_logger(flow_run, flow).error("%s", state.message)


@flow(name="pipeline", on_failure=[log_failure], on_crashed=[log_failure])
def pipeline(
    targets: list[str] | None = None, force: bool = False, max_parallel: Annotated[int, Field(ge=1, le=64)] = 1
) -> list[Row]:
    """Run every stage that is out of date, in the order of `dvc.yaml`, and show what ran and what was reused.

    A run of everything (no targets) that succeeds also registers policy and QNet, as `make run` does.

    Args:
        targets: stages of `dvc.yaml` (`label@alfworld`) or groups of them (`label`), with all that they need;
            none means all.
        force: run the targets (without targets: everything) even where nothing changed.
        max_parallel: independent stages that may run at once. A stage uses all cores, so more than one pays only
            where stages wait for something else: a GPU server, the network.

    Raises:
        PipelineError: a stage failed; those that do not depend on it were run.
    """
    root = project_root()
    settings = load_all(root / paths.PARAMS)
    registers = not targets and "qlass" in settings.run.methods
    if registers:
        register.check(settings, root)
    looking = look(root)
    plan = [stage for stage in plan_stages(root, targets or [], force) if stage.name not in looking]
    stages = [stage for stage in plan if stage.out_of_date]
    return run_plan(root, plan, stages, max_parallel=max_parallel, registers=registers)


@flow(name="report_only", on_failure=[log_failure], on_crashed=[log_failure])
def report_only() -> list[Row]:
    """Make the report from the outputs that are there, without bringing them up to date."""
    root = project_root()
    *others, report = plan_stages(root, ["report"], False)
    for stage in others:
        if stage.out_of_date:
            get_run_logger().warning("stage=%s is out of date, its last output is shown: %s", stage.name, stage.why)
    return run_plan(root, [report], [report], max_parallel=1, registers=False)


@flow(name="evaluate_champion", on_failure=[log_failure], on_crashed=[log_failure])
def evaluate_champion(env: str | None = None) -> None:
    """Evaluate the model behind the alias `champion` in MLflow's registry on the development panel of an environment.

    Args:
        env: an environment of `params.yaml`; none means the first of `run.envs`.
    """
    root, commands = project_root(), Commands()
    env = env or load_all(root / paths.PARAMS).run.envs[0]
    with commands.ended_on_error():
        environment = stage_environment(this_flow_run(), None)
        output = run_program("evaluate_champion", [env], commands, root, environment)
    create_markdown_artifact("```\n" + "\n".join(output) + "\n```\n", key="champion")


def this_flow_run() -> str:
    """Return the id of the flow run in which this is called."""
    return cast("str", flow_run.get_id())  # None outside of a flow only


def look(root: Path) -> set[str]:
    """Run the stages that run always, whose outputs say what DVC cannot see; the plan is made of what they find.

    Returns:
        Their names.

    Raises:
        PipelineError: one of them failed.
    """
    looking = {cell.name for cell in dvcfiles.cells(root) if cell.always}
    if looking:
        commands, env = Commands(), stage_environment(this_flow_run(), None)
        stages = [stage for stage in plan_stages(root, sorted(looking), False) if stage.name in looking]
        with commands.ended_on_error():
            _, failures = run_stages(stages, commands, root, env, 1)
        if failures:
            raise PipelineError("\n".join(str(failure) for failure in failures.values()))
    return looking


def run_plan(
    root: Path, plan: Sequence[PlannedStage], stages: Sequence[PlannedStage], *, max_parallel: int, registers: bool
) -> list[Row]:
    """Run some stages of a plan as one MLflow run, and publish the table of all.

    Args:
        root: the project.
        plan: the rows of the table.
        stages: those to run; without one there is no MLflow run.
        max_parallel: how many at once.
        registers: whether policy and QNet are registered at the end.

    Raises:
        PipelineError: a stage failed.
    """
    identity = {"prefect.flow_run_id": this_flow_run(), "prefect.flow_run_name": flow_run.get_name()}
    run_id = tracking.start_pipeline_run(root, tags=identity) if stages else None
    commands = Commands()
    status: tracking.Status = "KILLED"
    env = stage_environment(this_flow_run(), run_id)
    try:
        with commands.ended_on_error():
            results, failures = run_stages(stages, commands, root, env, max_parallel)
            if registers and stages and not failures:
                state = run_program("register", [], commands, root, env, return_state=True)
                outcome = state.result(raise_on_failure=False)
                failures = {"register": outcome} if isinstance(outcome, Exception) else {}
        status = "FAILED" if failures else "FINISHED"
    finally:
        if stages:
            tracking.finish_pipeline_run(root, run_id, status)
    rows = table_of(root, plan, results, failures)
    try:
        publish(root, plan, rows, run_id)
    except Exception as error:  # noqa: BLE001  whatever the server answers, the stages have done their work
        get_run_logger().warning("the pages of this run lack its tables: %r", error)
    if failures:
        raise PipelineError("\n".join(str(failure) for failure in failures.values()))
    return rows


def run_stages(
    stages: Sequence[PlannedStage], commands: Commands, root: Path, env: Mapping[str, str], max_parallel: int
) -> tuple[dict[str, StageResult], dict[str, BaseException]]:
    """Run stages, each as soon as those that it needs have succeeded; return results and failures by name."""
    futures: dict[str, PrefectFuture[StageResult]] = {}
    # Our own runner: the limit is a parameter, and the flow's runner is fixed when the flow is declared.
    with ThreadPoolTaskRunner[StageResult](max_workers=max_parallel) as runner, commands.ended_on_error():
        for stage in stages:
            needed = [futures[need] for need in stage.needs if need in futures]
            parameters = {"stage": stage, "commands": commands, "root": root, "env": env}
            futures[stage.name] = runner.submit(run_stage, parameters, wait_for=needed)
        wait(list(futures.values()))
    ended = {name: future.state for name, future in futures.items()}
    outcomes = {name: state.result(raise_on_failure=False) for name, state in ended.items() if state.is_final()}
    results = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, StageResult)}
    return results, {name: outcome for name, outcome in outcomes.items() if name not in results}


def main() -> int:
    """Run the pipeline by hand; the exit code is 1 where it failed."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description="Run what is out of date.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="stages or groups of dvc.yaml; default: all")
    parser.add_argument("--force", action="store_true", help="run the targets even where nothing changed")
    parser.add_argument("--max-parallel", type=int, default=1, help="independent stages at once (default: 1)")
    arguments = parser.parse_args()
    try:
        check_proxies()
    except SettingsError as error:
        return report(error)
    state = pipeline(arguments.targets, arguments.force, arguments.max_parallel, return_state=True)
    if not state.is_completed():  # Prefect has logged why
        return 1
    console.say(summary(project_root(), state.result()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
