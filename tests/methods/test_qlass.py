"""QLASS on corridor, whose optimal Q is known: what it asks, chooses, executes and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from qlass.envs.core.base import EnvDefinition
from qlass.envs.corridor import optimal_q
from qlass.policies.base import Propose, Proposed
from qlass.policies.scripted import ScriptedPolicy
from qlass.prompts import history_of, parse_reply, render_reply
from qlass.records import Cost, History, TaskSpec
from tests.methods.playing import GAMMA, CountedValue, NewEnv, Run, actions_of, optimal, start
from tests.search.conftest import MAX_STEPS, CountedPolicy


def everything(history: History, rng: Any) -> str:
    """Propose any of the actions that could ever make sense, whatever is seen."""
    rooms = [f"enter {colour} room" for colour in ("red", "blue", "green", "white", "black", "yellow")]
    return f"Action: {rng.choice(['go east', 'go west', 'take lamp', 'take book', 'take key', *rooms])}"


def colours(spec: TaskSpec) -> list[str]:
    return [door for door in spec.key["doors"].split() if door != "-"]


def test_all_proposals_are_valued_after_the_history(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    value = CountedValue(lambda history, reply: float(len(history)))
    (episode,) = run(start(corridor, specs[4], "qlass", seed=1, proposals=4), new_env(), wanderer, value)
    asked = iter(value.requests)
    for number, (step, pairs) in enumerate(zip(episode.steps, episode.candidates, strict=True)):
        if pairs:
            request = next(asked)
            assert request.history == history_of(corridor.instruction, episode.observation, episode.steps[:number])
            assert [parse_reply(reply)[1] for reply in request.replies if "Action: who" not in reply] == [
                action for action, _ in pairs if action != "who knows"
            ]
            assert render_reply(step.thought, step.action) in request.replies
    assert next(asked, None) is None


def test_optimal_q_guides_to_the_optimum(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run
) -> None:
    """With every action among the proposals, the optimal Q gives the best reward on a shortest way."""
    policy = ScriptedPolicy(everything, corridor.normalise_action)
    for spec in specs[:9]:
        begin = start(corridor, spec, "qlass", temperature=1.0, proposals=150)
        (episode,) = run(begin, new_env(), policy, optimal(spec, corridor))
        possible = (
            "go east",
            "go west",
            "take lamp",
            "take book",
            "take key",
            *(f"enter {c} room" for c in colours(spec)),
        )
        best = max(optimal_q(spec, [action], GAMMA, MAX_STEPS) for action in possible)
        assert GAMMA ** (len(episode.steps) - 1) * episode.outcome == pytest.approx(best)


def test_guidance_solves_what_greedy_and_chance_do_not(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    solved = {"greedy": 0, "chance": 0, "guided": 0}
    for spec in specs:
        value = optimal(spec, corridor)
        chance = start(corridor, spec, "best_of_n", rollouts=1)
        solved["greedy"] += run(start(corridor, spec, "greedy"), new_env(), wanderer)[0].success
        solved["chance"] += run(chance, new_env(), wanderer, value)[0].success
        guided = start(corridor, spec, "qlass", proposals=8)
        solved["guided"] += run(guided, new_env(), wanderer, value)[0].success
    assert solved["guided"] >= 22
    assert max(solved["greedy"], solved["chance"]) <= 5


def test_only_the_chosen_action_is_executed(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    """The engine sees one action per step, the best one by value; no candidate is tried out."""
    for spec in specs[:8]:
        env, value, before = new_env(), optimal(spec, corridor), wanderer.cost
        (episode,) = run(start(corridor, spec, "qlass", number=3, seed=4, proposals=4), env, wanderer, value)
        assert env.executed == actions_of(episode)
        assert (episode.method, episode.seed, episode.task_id) == ("qlass", 3, spec.task_id)
        assert len(episode.candidates) == len(episode.steps)
        for step, pairs in zip(episode.steps, episode.candidates, strict=True):
            actions = [action for action, _ in pairs]
            assert len(set(actions)) == len(actions) != 1
            if pairs:  # max() keeps the first of equals, as the method must
                assert step.action == max(pairs, key=lambda pair: pair[1])[0]
        assert episode.cost == Cost(
            wanderer.cost.generated_tokens - before.generated_tokens,
            wanderer.cost.prompt_tokens - before.prompt_tokens,
            len(episode.steps),
            value.scored,
            len(env.executed),
        )
        assert value.scored == sum(map(len, episode.candidates))


def test_candidates_keep_the_order_of_the_proposals(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run
) -> None:
    """Equal values: the first proposal wins, also where its action was proposed again later."""

    class Fixed:
        def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
            replies = iter(["Action: go west", "Action: go east", "Thought: again\nAction: Go West."])
            policy = ScriptedPolicy(lambda history, rng: next(replies), corridor.normalise_action)
            return policy.propose(requests)

    value = CountedValue(lambda history, reply: 0.5)
    (episode,) = run(start(corridor, specs[0], "qlass", proposals=3), new_env(), Fixed(), value)
    assert set(episode.candidates) == {(("go west", 0.5), ("go east", 0.5))}
    assert set(actions_of(episode)) == {"go west"}
    assert {step.thought for step in episode.steps} == {""}


def test_one_proposal_needs_no_value(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    (episode,) = run(start(corridor, specs[0], "qlass", proposals=1), new_env(), wanderer)
    assert episode.cost.qnet_calls == 0
    assert episode.candidates == ((),) * len(episode.steps)
