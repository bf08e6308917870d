"""What all methods have in common: their rows, and what they do with many engines, faults and bugs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from qlass.envs.core.base import EnvDefinition
from qlass.errors import EnvironmentFault, ReplayDivergence, SettingsError
from qlass.methods.base import get_method, method_names
from qlass.policies.scripted import ScriptedPolicy
from qlass.records import Cost, Episode, TaskSpec
from tests.engines import drive
from tests.methods.playing import BEST_OF_N, SETTINGS, CountedValue, NewEnv, Run, saying_its_task, start
from tests.search.conftest import CountedPolicy, wander

METHODS: dict[str, Callable[..., Any]] = {
    "greedy": partial(start, method="greedy", row="sft"),
    "one_rollout": partial(start, method="best_of_n", rollouts=1),
    "best_of_n": partial(start, method="best_of_n"),
    "qlass": partial(start, method="qlass"),
    "adaptive": partial(start, method="qlass_adaptive", prior=0.01, max_redraws=2, redraw_below=0.9),
    "perturbed": lambda corridor, spec, **how: start(saying_its_task(corridor), spec, "qlass_perturbed", **how),
}
ROWS = {
    "greedy": ("sft",), "one_rollout": BEST_OF_N, "best_of_n": BEST_OF_N, "qlass": ("qlass",), "adaptive": ("qlass_adaptive",),
    "perturbed": ("qlass_perturbed",),
}  # fmt: skip


def test_methods_are_the_files_of_the_folder() -> None:
    ours = ("best_of_n", "greedy", "qlass", "qlass_adaptive", "qlass_perturbed")
    assert set(ours) <= set(method_names())
    titles = ["Best-of-N", "Greedy", "QLASS", "QLASS (adaptive)", "QLASS (task perturbation)"]
    assert [get_method(name).title for name in ours] == titles
    assert [get_method(name).needs_qnet for name in ours] == [True, False, True, True, True]
    with pytest.raises(SettingsError, match=r"'base' is no file of qlass/methods/; allowed: best_of_n, "):
        get_method("base")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_row_has_a_note(name: str) -> None:
    method = get_method(name)
    notes = method.note(method.settings(**SETTINGS[name]))
    assert tuple(notes) == ("", *method.variants)
    assert len(set(notes.values())) == len(method.rows(name))
    assert all(notes.values())


def test_the_oracle_says_so() -> None:
    method = get_method("best_of_n")
    notes = method.note(method.settings(**SETTINGS["best_of_n"]))
    assert [variant for variant, note in notes.items() if "oracle" in note] == [""]


def flat(
    value: CountedValue, policy: CountedPolicy, starts: Sequence[Any], envs: Sequence[Any], slots: int | None = None
) -> list[list[Episode]]:
    found = dict(drive(starts, envs, policy, value, slots=slots))
    return [found[number] for number in range(len(starts))]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 3, 10])
def test_results_do_not_depend_on_the_number_of_engines(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, method: str, count: int
) -> None:
    starts = [METHODS[method](corridor, spec, seed=9) for spec in specs[:10]]
    value = CountedValue(lambda history, reply: float(len(reply)))
    alone = [flat(value, wanderer, [begin], [new_env()])[0] for begin in starts]
    assert flat(value, wanderer, starts, [new_env() for _ in range(count)]) == alone


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("kind", [EnvironmentFault, ReplayDivergence])
def test_faults_become_failed_episodes(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, method: str, step: int,
    kind: type[Exception],
) -> None:  # fmt: skip
    """Every task yields exactly one Episode per row; a broken one says why, the others are as if alone."""
    tasks = specs[:5]
    starts = [METHODS[method](corridor, spec, seed=9) for spec in tasks]
    value = CountedValue(lambda history, reply: -float("enter" in reply))  # nobody enters at once
    alone = flat(value, wanderer, starts, [new_env() for _ in tasks])
    engines = [new_env() for _ in range(4)]  # one more for each that dies
    for engine in engines:
        engine.faults = {(tasks[1].task_id, step): kind("the engine died"), (tasks[3].task_id, step): kind("again")}
    found = flat(value, wanderer, starts, engines, slots=2)
    rows = ROWS[method]
    assert [tuple(episode.method for episode in episodes) for episodes in found] == [rows] * len(tasks)
    for number, (episodes, expected) in enumerate(zip(found, alone, strict=True)):
        if number not in (1, 3):
            assert episodes == expected
            continue
        for episode in episodes:
            reason = "the engine died" if number == 1 else "again"
            assert episode.error == f"{kind.__name__}: {reason}"
            assert (episode.task_id, episode.category) == (tasks[number].task_id, tasks[number].category)
            assert (episode.outcome, episode.success) == (0.0, False)


@pytest.mark.parametrize("method", ["greedy", "one_rollout", "qlass", "perturbed"])
def test_a_failed_episode_keeps_what_it_spent(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run, method: str
) -> None:
    begin = METHODS[method](corridor, specs[0], seed=9)
    value = CountedValue(lambda history, reply: -float("enter" in reply))
    whole = run(begin, new_env(), wanderer, value)[0]
    assert len(whole.steps) > 3
    env, before, scored = new_env(), wanderer.cost, value.scored
    env.faults = {(specs[0].task_id, 4): EnvironmentFault("the engine died")}
    for episode in run(begin, env, wanderer, value):
        assert episode.steps == whole.steps[:3]
        assert episode.observation == whole.observation
        assert episode.candidates == whole.candidates[:3]
        spent = Cost(
            wanderer.cost.generated_tokens - before.generated_tokens,
            wanderer.cost.prompt_tokens - before.prompt_tokens,
            wanderer.cost.policy_calls - before.policy_calls,
            value.scored - scored,
            3,
        )
        assert episode.cost == spent


def test_bugs_are_not_failed_episodes(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    env = new_env()
    env.faults = {(specs[0].task_id, 2): ZeroDivisionError("a bug")}
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(start(corridor, specs[0], "greedy"), env, wanderer)


def test_wander_is_not_trivial(corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run) -> None:
    """The tests of the methods mean something only where rollouts differ."""
    policy = CountedPolicy(ScriptedPolicy(wander, corridor.normalise_action))
    value = CountedValue(lambda history, reply: 0.0)
    played = [
        run(start(corridor, specs[1], "best_of_n", seed=number, rollouts=1), new_env(), policy, value)[0]
        for number in range(8)
    ]
    assert len({episode.steps for episode in played}) > 4
