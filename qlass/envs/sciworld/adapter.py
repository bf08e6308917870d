"""`SciworldEnv`: ScienceWorld's simulator as a `TextEnv`, but for snapshots."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from qlass.envs.core.base import Info, StepResult
from qlass.envs.sciworld.golden import GOLDSMITH
from qlass.envs.sciworld.options import Options
from qlass.envs.sciworld.simulator import Reply, Simulator, SimulatorDied
from qlass.envs.sciworld.tasktypes import Start, start_of
from qlass.errors import EnvironmentFault, ReplayDivergence
from qlass.records import TaskSpec

NOT_UNDERSTOOD = "No known action matches that input."
"""The simulator's answer to a text that is no action; nothing changes."""

_UNKNOWN = (NOT_UNDERSTOOD, "Unknown action.")
_QUESTION = "Ambiguous request:"
_CHOICE = re.compile(r"^\d+:\t", re.MULTILINE)
_CANCEL = ""
_FORBIDDEN = "reset task"
_IGNORED = ("a", "an", "the")

_log = logging.getLogger(__name__)


def normalise_action(text: str) -> str:
    """Return the form to which the simulator reduces an action: lower case, one blank between words, no articles."""
    return " ".join(word for word in text.lower().split() if word not in _IGNORED)


class SciworldEnv:
    """One ScienceWorld task at a time, in a Java virtual machine of its own.

    The first observation is the text of the task, as ETO's and QLASS's agents see it; what is around is seen by `look
    around`. Success: all goals are reached, with a score of 100 of 100. The outcome is the best score so far, of 1.0
    (option `outcome`: or the last one). The episode ends when all goals are reached or the task has failed, mostly by
    focusing on something else than what is asked for. There is no step limit here: the simulator's own one counts its
    ticks, of which `look around` takes none and `wait` eleven.

    Where an action can mean several things the simulator asks for a number, and takes whatever comes next as the
    answer. Here only the numbers that it offers are answers; before any other action the question is cancelled, which
    costs a tick. An action that led to a question was not executed, so it is not valid. `reset task`, which undoes a
    failure, is not understood.

    `info["admissible_actions"]` is always empty: the simulator's list lacks a third of what experts do, a seventh of
    it is refused, and asking for it changes what happens later.

    If the machine ends in the middle of an episode, a new one takes its place and repeats what was done, once per
    episode.

    Equal specs give equal episodes whatever the seed: the number of the variation is the simulator's seed.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Start the Java virtual machine.

        Args:
            options: see `qlass.envs.sciworld.options.Options`.

        Raises:
            SettingsError: an option is unknown or has a value that is not allowed.
            DependencyNotInstalled: scienceworld or a Java that can run it is missing.
            EnvironmentFault: the machine does not start.
        """
        self._options = Options.of(options)
        GOLDSMITH.use(self._options.java, self._options.start_limit_s)
        self._simulator = self._start()
        self._task = Start("", 0, "")
        self._name = "no task"
        self._said: list[tuple[str, Reply]] = []
        self._choices = 0  # of the question that waits for an answer
        self._best = 0.0
        self._over = True
        self._repaired = False

    @property
    def pid(self) -> int:
        """Return the number of the process of the Java virtual machine."""
        return self._simulator.pid

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:  # noqa: ARG002 - the contract's
        """Start a task.

        Raises:
            EnvironmentFault: there is no such task, or the machine ended twice.
        """
        self._task, self._name = start_of(spec), spec.task_id
        self._said, self._choices, self._best, self._over, self._repaired = [], 0, 0.0, False, False
        try:
            description = self._load()
        except SimulatorDied as error:
            self._repair(error)
            description = self._load()
        return description, self._info(0.0, valid=True)

    def step(self, action: str) -> StepResult:
        """Execute one action.

        Raises:
            EnvironmentFault: there is no episode, it is over, the simulator failed, or its machine ended twice.
            ReplayDivergence: the machine ended, and what was done before cannot be repeated.
        """
        if self._over:
            raise EnvironmentFault(f"step({action!r}): there is no episode or it is over; call reset or restore first")
        normal = normalise_action(action)
        if self._choices and not (normal.isdecimal() and int(normal) < self._choices):
            self._say(_CANCEL)
            self._choices = 0
        if normal == _FORBIDDEN:
            return NOT_UNDERSTOOD, 0.0, False, False, self._info(self._last_score(), valid=False)
        text, score, completed = self._say(normal)
        question = text.startswith(_QUESTION)
        self._choices = len(_CHOICE.findall(text)) if question else 0
        self._best = max(self._best, score)
        self._over = completed or score < 0
        info = self._info(score, valid=not question and not text.startswith(_UNKNOWN))
        info["success"] = completed and score >= 1.0
        return text.strip(), info["outcome"] if self._over else 0.0, self._over, False, info

    def close(self) -> None:
        """End the Java virtual machine; calling it twice is fine."""
        self._simulator.close()
        self._over = True

    def _start(self) -> Simulator:
        return Simulator(self._options.java, self._options.start_limit_s)

    def _load(self) -> str:
        return self._simulator.load(*self._task)

    def _say(self, action: str) -> Reply:
        """Let the simulator execute an action, in a new machine if the old one ended."""
        try:
            reply = self._simulator.step(action)
        except SimulatorDied as error:
            self._repair(error)
            reply = self._repeat(action)
        self._said.append((action, reply))
        return reply

    def _repair(self, error: SimulatorDied) -> None:
        """Put a new machine in the place of one that ended, unless that happened before in this episode."""
        if self._repaired:
            raise EnvironmentFault(f"{self._name}: twice in this episode, {error}") from error
        _log.warning("task=%s a new Java virtual machine repeats %d actions: %s", self._name, len(self._said), error)
        self._repaired = True
        self._simulator.close()
        self._simulator = self._start()

    def _repeat(self, action: str) -> Reply:
        """Execute in a new machine what was done so far, and then an action."""
        self._load()
        for number, (past, recorded) in enumerate(self._said, start=1):
            found = self._simulator.step(past)
            if found != recorded:
                raise ReplayDivergence(f"{self._name}: action {number} ({past!r}) gave {recorded}, now {found}")
        return self._simulator.step(action)

    def _last_score(self) -> float:
        return self._said[-1][1].score if self._said else 0.0

    def _info(self, score: float, *, valid: bool) -> Info:
        outcome = self._best if self._options.outcome == "best" else score
        return {
            "admissible_actions": (),
            "valid": valid,
            "success": False,
            "outcome": min(max(outcome, 0.0), 1.0),
        }
