"""`check_env`: does an environment keep the contract of `qlass.envs.core.base`? To be run on any new environment.

The rules are what the pipeline relies on: returning to a node of a tree gives what was there, equal seeds give equal
episodes, and a demonstrator shows that a reward can be earned at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from qlass.envs.core.base import EnvDefinition, StepResult, TextEnv
from qlass.envs.core.contract import Broken, check_result, check_start, expect
from qlass.envs.core.panels import build_panel
from qlass.errors import EnvironmentFault, QlassError
from qlass.jsonl import from_json, to_json
from qlass.records import TaskSpec

NONSENSE = "xyzzy the 7 unknown frobs"
"""An action that no environment understands."""


class CheckFailed(EnvironmentFault):
    """An environment breaks a rule; `check` names the rule."""

    def __init__(self, env: str, check: str, problem: str) -> None:
        """Name the environment, the rule and what was found."""
        super().__init__(f"environment {env} fails the check {check}: {problem}")
        self.check = check


@dataclass(frozen=True, slots=True)
class _Case:
    """What every check needs: engines of an environment, tasks, and an expert's way through one of them."""

    definition: EnvDefinition
    options: Mapping[str, Any]
    split: str
    n_tasks: int
    max_steps: int
    seed: int

    def specs(self) -> tuple[TaskSpec, ...]:
        """Build the tasks anew."""
        return build_panel(self.definition, self.options, self.split, self.n_tasks, self.seed).tasks

    def engine(self) -> closing[TextEnv]:
        """Return a new engine, closed at the end of a `with`; there is no wrapper that could hide a mistake."""
        return closing(self.definition.make(self.options))

    def solved(self) -> tuple[TaskSpec, tuple[str, ...]]:
        """Return the first task on which the expert earns a reward, and its actions; checks each step on the way."""
        specs = self.specs()
        for spec in specs:
            actions, reward = self._play(spec)
            if reward > 0:
                return spec, actions
        raise Broken(f"the expert earned no reward in {self.max_steps} steps on {[spec.task_id for spec in specs]}")

    def _play(self, spec: TaskSpec) -> tuple[tuple[str, ...], float]:
        """Let the expert play one episode; return its actions and the final reward."""
        expert = self.definition.make_expert(spec, self.seed)
        actions: list[str] = []
        with self.engine() as env:
            observation, _ = env.reset(spec, seed=self.seed)
            while len(actions) < self.max_steps:
                actions.append(expert.act(observation)[1])
                result = env.step(actions[-1])
                check_result(actions[-1], result)
                observation, reward, terminated, truncated, _ = result
                if terminated or truncated:
                    return tuple(actions), reward
        return tuple(actions), 0.0

    def replay(self, spec: TaskSpec, actions: tuple[str, ...]) -> list[StepResult]:
        """Execute actions in a new engine."""
        with self.engine() as env:
            env.reset(spec, seed=self.seed)
            return [env.step(action) for action in actions]


def check_env(
    definition: EnvDefinition,
    options: Mapping[str, Any],
    *,
    split: str = "train",
    n_tasks: int = 3,
    max_steps: int = 50,
    seed: int = 0,
) -> tuple[str, ...]:
    """Check that an environment keeps the contract.

    Args:
        definition: the environment.
        options: its settings, as under `envs.<name>.options`.
        split: where the tasks come from.
        n_tasks: tasks that the expert may try until it earns a reward.
        max_steps: environment steps that it has for each.
        seed: of the panel, the engine and the expert.

    Returns:
        The names of the checks, all of them passed.

    Raises:
        CheckFailed: names the rule, and what was found.
        QlassError: the environment's own, for example where an extra is not installed or an option is wrong.
    """
    case = _Case(definition, options, split, n_tasks, max_steps, seed)
    for name, check in CHECKS.items():
        with _named(definition.name, name):
            check(case)
    return tuple(CHECKS)


@contextmanager
def _named(env: str, check: str) -> Iterator[None]:
    """Turn whatever goes wrong in a check into CheckFailed."""
    try:
        yield
    except Broken as error:
        raise CheckFailed(env, check, str(error)) from None
    except QlassError:
        raise
    except Exception as error:
        raise CheckFailed(env, check, f"raised {type(error).__name__}: {error}") from error


def _panel(case: _Case) -> None:
    """The same tasks each time, complete in JSON, of declared categories."""
    specs = case.specs()
    expect(case.specs() == specs, "building the panel twice gives different tasks")
    for spec in specs:
        expect(spec.category in case.definition.categories, f"{spec.task_id}: category {spec.category!r} not declared")
        stored = from_json(TaskSpec, json.loads(json.dumps(to_json(spec))))
        expect(stored == spec, f"{spec.task_id}: key={spec.key!r} is not plain JSON")


def _reset(case: _Case) -> None:
    """Equal (spec, seed) give equal first observations, in one engine and in another."""
    spec = case.specs()[0]
    with case.engine() as env:
        first = env.reset(spec, seed=case.seed)
        check_start(first)
        _, action = case.definition.make_expert(spec, case.seed).act(first[0])
        env.step(action)
        expect(env.reset(spec, seed=case.seed) == first, "a second reset differs from the first")
    with case.engine() as other:  # after the first is closed: a process may not be able to hold two
        expect(other.reset(spec, seed=case.seed) == first, "reset differs in a second engine")


def _step(case: _Case) -> None:
    """Every step on an expert's way is what the contract says."""
    case.solved()


def _invalid(case: _Case) -> None:
    """An action that is not understood is a step: answered and marked."""
    with case.engine() as env:
        env.reset(case.specs()[0], seed=case.seed)
        for action in (NONSENSE, ""):
            result = env.step(action)
            check_result(action, result)
            expect(not result[4]["valid"], f"step({action!r}): info['valid'] is True for an unknown action")
            expect(not result[2], f"step({action!r}): an unknown action ended the episode")


def _admissible(case: _Case) -> None:
    """Every action that the engine calls admissible is understood."""
    spec = case.specs()[0]
    with case.engine() as env:
        for action in env.reset(spec, seed=case.seed)[1]["admissible_actions"]:
            env.reset(spec, seed=case.seed)
            result = env.step(action)
            check_result(action, result)
            expect(result[4]["valid"], f"step({action!r}): admissible, but info['valid'] is False")


def _normalise(case: _Case) -> None:
    """The normal form of an action is stable and does the same."""
    spec, actions = case.solved()
    normal = tuple(map(case.definition.normalise_action, actions))
    again = tuple(map(case.definition.normalise_action, normal))
    expect(normal == again, f"normalise_action changes its own result: {normal} to {again}")
    _expect_equal(actions, case.replay(spec, actions), case.replay(spec, normal), "normalised")


def _snapshot(case: _Case) -> None:
    """A restored snapshot continues like a replay, after another branch, and more than once."""
    spec, actions = case.solved()
    before, after = actions[: len(actions) // 2], actions[len(actions) // 2 :]
    with case.engine() as env:
        env.reset(spec, seed=case.seed)
        for action in before:
            env.step(action)
        snapshot = env.snapshot()
        for detour in ((NONSENSE,), after):
            for action in detour:
                env.step(action)
            env.restore(snapshot)
        found = [env.step(action) for action in after]
    _expect_equal(after, case.replay(spec, actions)[len(before) :], found, "after restore")


def _expert(case: _Case) -> None:
    """An expert's trajectory replays exactly, to a reward above 0."""
    spec, actions = case.solved()
    first, second = case.replay(spec, actions), case.replay(spec, actions)
    _expect_equal(actions, first, second, "replayed")
    expect(first[-1][1] > 0, f"{spec.task_id}: the expert's actions replay to reward {first[-1][1]}")


def _close(case: _Case) -> None:
    """`close` can be called twice, also before the first reset (the `with` closes once more)."""
    with case.engine() as env:
        env.close()
    with case.engine() as env:
        env.reset(case.specs()[0], seed=case.seed)
        env.close()


def _expect_equal(actions: tuple[str, ...], first: list[StepResult], second: list[StepResult], how: str) -> None:
    for action, one, other in zip(actions, first, second, strict=True):
        expect(one == other, f"step({action!r}) gives {one!r}, but {how} {other!r}")


CHECKS: dict[str, Callable[[_Case], None]] = {
    "panel": _panel,
    "reset_determinism": _reset,
    "step_contract": _step,
    "invalid_action": _invalid,
    "admissible_actions": _admissible,
    "normalise_action": _normalise,
    "snapshot_equals_replay": _snapshot,
    "expert_replays": _expert,
    "close_idempotent": _close,
}
"""Name -> check, in the order in which they run."""
