"""The policy alone, on corridor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qlass.envs.core.base import EnvDefinition
from qlass.policies.scripted import ScriptedPolicy
from qlass.records import History, TaskSpec
from tests.methods.playing import NewEnv, Run, actions_of, start
from tests.search.conftest import MAX_STEPS, CountedPolicy


def test_one_greedy_trajectory_is_played(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    for spec in specs[:6]:
        env = new_env()
        before = wanderer.cost
        begin = start(corridor, spec, "greedy", row="sft", number=5, seed=3)
        (episode,) = run(begin, env, wanderer)
        assert (episode.task_id, episode.category, episode.method, episode.seed) == (
            spec.task_id, spec.category, "sft", 5,
        )  # fmt: skip
        assert actions_of(episode) == env.executed
        assert before + episode.cost == replace(wanderer.cost, env_steps=before.env_steps + len(env.executed))
        last = episode.steps[-1]
        assert last.terminated or last.truncated
        assert not any(step.terminated or step.truncated for step in episode.steps[:-1])
        assert (episode.outcome, episode.success) == (last.reward, last.reward == 1.0)
        assert (episode.error, episode.candidates) == ("", ())
        assert run(begin, new_env(), wanderer) == [episode]
    assert {request.temperature for batch in wanderer.batches for request in batch} == {0.0}


def test_invalid_replies_are_steps(corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run) -> None:
    """A reply without an action, and an action that is not possible, are executed, answered and marked."""
    replies = ["who knows", "Thought: There.\nAction: open window", "Action: Go West."]

    def reply(history: History, rng: Any) -> str:
        return replies[min(len(history) // 2 - 1, 2)]

    policy = ScriptedPolicy(reply, corridor.normalise_action)
    (episode,) = run(start(corridor, specs[0], "greedy", row="base"), new_env(), policy)
    first, second, third = episode.steps[:3]
    assert (first.thought, first.action, first.valid) == ("", "who knows", False)
    assert (second.thought, second.action, second.valid) == ("There.", "open window", False)
    assert first.observation == second.observation == "You cannot do that."
    assert (third.action, third.valid) == ("go west", True)
    assert len(episode.steps) == MAX_STEPS
    assert episode.steps[-1].truncated
