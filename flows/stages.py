"""One Prefect task per DVC stage: `dvc repro --single-item STAGE`, its log, its result and its failure."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.plan import PlannedStage, make_plan
from qlass.errors import Busy
from tasks.project import dvcfiles
from tasks.running import leftovers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun

    from flows.shell import Commands

P = ParamSpec("P")
R = TypeVar("R")

TAIL = 40  # lines of a failed command's output that its error shows
TEMPORARY = 75  # EX_TEMPFAIL, the exit code of a stage that asks for another try
DVC_FAILED = 255  # whatever the stage's own exit code, which DVC only prints
BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock")
EXITED = re.compile(r"exited with (-?\d+)$", re.MULTILINE)
RETRIES_S: list[float] = [10, 30, 90]
OUTCOMES = {"Running stage": "ran", "is cached - skipping run": "restored", "didn't change, skipping": "unchanged"}


@dataclass(frozen=True)
class StageResult:
    """What DVC did.

    Attributes:
        outcome: `ran`, `restored` (outputs from DVC's run cache) or `unchanged` (the deps are the same after all).
        seconds: wall time.
    """

    outcome: str
    seconds: float


class CommandError(RuntimeError):
    """A command of a flow failed; its message is all that one needs to know to repair it."""

    def __init__(self, name: str, command: str, exit_code: int, tail: Sequence[str], resume: str) -> None:
        """Keep the facts; all arguments go to `RuntimeError`, so that the error can be copied."""
        super().__init__(name, command, exit_code, tail, resume)
        self.name, self.exit_code = name, exit_code

    def __str__(self) -> str:
        """Return name, command, exit code, the end of the output and how to go on."""
        name, command, exit_code, tail, resume = self.args
        output = "\n".join(f"    {line}" for line in tail) or "    (none)"
        facts = f"{name} failed with exit code {exit_code}\n  command: {command}"
        return f"{facts}\n  end of its output:\n{output}\n  resume: {resume}"


class CommandBusyError(CommandError):
    """A failure that another try can mend: exit code 75, or a lock of another DVC process."""


def is_temporary(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Tell Prefect whether to retry. Everything else fails the same way again, after hours."""
    return isinstance(state.result(raise_on_failure=False), CommandBusyError | Busy)


def command_task(name: str, task_run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return the decorator of a task that is tried again where another try can help."""
    return task(
        name=name,
        task_run_name=task_run_name,
        retries=len(RETRIES_S),
        retry_delay_seconds=RETRIES_S,
        retry_condition_fn=is_temporary,
        cache_policy=NO_CACHE,  # DVC is the only cache
    )


def run_logged(
    commands: Commands,
    name: str,
    command: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    shown: str = "",
    resume: str = "",
    on_line: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Run a command, log each line of its output at once, and return the last ones.

    Args:
        commands: the commands of this flow run.
        name: what failed, for the error.
        command: program and arguments.
        cwd: its working directory.
        env: its environment.
        shown: the command as the error shows it, if not as it is.
        resume: the command with which a person goes on, if not the same.
        on_line: called with each line too.

    Raises:
        CommandBusyError: it failed, and may succeed later.
        CommandError: it failed.
    """
    logger = get_run_logger()
    tail: deque[str] = deque(maxlen=TAIL)

    def keep(line: str) -> None:
        logger.info(line)
        tail.append(line)
        on_line(line)

    code = commands.run(command, cwd=cwd, env=env, on_line=keep)
    if not code:
        return list(tail)
    busy = False
    if code == DVC_FAILED:
        text = "\n".join(tail)
        inner = EXITED.findall(text)
        code = int(inner[-1]) if inner else code
        busy = not inner and bool(BUSY.search(text))
    error = CommandBusyError if busy or code == TEMPORARY else CommandError
    shown = shown or shlex.join(["python", *command[1:]])
    raise error(name, shown, code, tuple(tail), f"cd {shlex.quote(str(cwd))} && {resume or shown}")


@command_task(name="plan", task_run_name="plan")
def plan_stages(root: Path, targets: Sequence[str], force: bool) -> list[PlannedStage]:
    """Ask DVC what is out of date, and log it stage by stage."""
    plan = make_plan(root, targets, force=force)
    for stage in plan:
        get_run_logger().info("stage=%s %s why=%r", stage.name, "run" if stage.runs else "reuse", stage.why)
    return plan


@command_task(name="stage", task_run_name="{stage.name}")
def run_stage(stage: PlannedStage, commands: Commands, root: Path, env: Mapping[str, str]) -> StageResult:
    """Let DVC run one stage, restore it, or find it unchanged.

    Raises:
        CommandError: the stage failed.
        DataError: `dvc.lock` is damaged.
        Busy: a stage runs that a killed DVC left.
    """
    leftovers.clear(root)  # once more: the DVC of another stage may have been killed meanwhile
    command = [*dvcfiles.program(root), "--wait-for-lock", "repro", "--single-item", stage.name]
    outcomes: list[str] = []

    def on_line(line: str) -> None:
        if not outcomes and f"'{stage.name}'" in line:
            outcomes.extend(outcome for phrase, outcome in OUTCOMES.items() if phrase in line)

    started = time.monotonic()
    run_logged(
        commands,
        f"stage {stage.name}",
        [*command, "--force"] if stage.forced else command,
        cwd=root,
        env=env,
        shown=stage.command,
        resume=f"dvc repro {stage.name}    # what is finished is not done again",
        on_line=on_line,
    )
    return StageResult(outcomes[0] if outcomes else "unchanged", time.monotonic() - started)


@command_task(name="program", task_run_name="{program}")
def run_program(
    program: str, arguments: Sequence[str], commands: Commands, root: Path, env: Mapping[str, str]
) -> list[str]:
    """Run a program of `tasks` that is no stage, and return the end of its output.

    Raises:
        CommandError: the program failed.
    """
    command = [sys.executable, "-m", f"tasks.{program}", *arguments]
    return run_logged(commands, program, command, cwd=root, env=env)
