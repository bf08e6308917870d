"""Best-of-N on corridor: what each rule keeps, and what the rollouts cost."""

from __future__ import annotations

from dataclasses import replace

from qlass.envs.core.base import EnvDefinition
from qlass.errors import EnvironmentFault
from qlass.policies.base import Score
from qlass.prompts import history_of, render_reply
from qlass.records import Cost, Episode, TaskSpec
from tests.methods.playing import BEST_OF_N, CountedValue, Likely, NewEnv, Run, start
from tests.search.conftest import CountedPolicy


def test_each_rule_keeps_its_best(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    """Three picks of the same N rollouts; each checked against all rollouts played alone."""
    count, differs = 6, 0
    value = CountedValue(lambda history, reply: float(len(history)) + 0.1 * len(reply))
    for spec in specs[:8]:
        env = new_env()
        before, policy = wanderer.cost, Likely(wanderer)
        found = run(start(corridor, spec, "best_of_n", number=2, seed=1, rollouts=count), env, policy, value)
        spent, executed = wanderer.cost, len(env.executed)
        assert tuple(episode.method for episode in found) == BEST_OF_N
        assert {(episode.task_id, episode.seed) for episode in found} == {(spec.task_id, 2)}
        by_reward, by_value, by_likelihood = found
        smaller = [
            run(start(corridor, spec, "best_of_n", number=2, seed=1, rollouts=fewer), new_env(), policy, value)
            for fewer in range(1, count)
        ]  # the first rollouts are the same whatever N is
        assert by_reward.outcome == max([episodes[0].outcome for episodes in smaller] + [by_reward.outcome])
        assert [episodes[0].outcome for episodes in smaller] == sorted(episodes[0].outcome for episodes in smaller)
        assert last_value(by_value) == max(map(last_value, found + [e for es in smaller for e in es]))
        assert likelihood(by_likelihood) == max(map(likelihood, found + [e for es in smaller for e in es]))
        differs += len({episode.steps for episode in found}) > 1
        expected = Cost(
            spent.generated_tokens - before.generated_tokens,
            spent.prompt_tokens - before.prompt_tokens,
            spent.policy_calls - before.policy_calls,
            0,
            executed,
        )
        assert by_reward.cost == by_likelihood.cost == expected
        assert by_value.cost == replace(expected, qnet_calls=count)
        assert all(episode.candidates == () for episode in found)
    assert differs


def test_without_log_probabilities_the_likeliest_is_not_measured(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    """The first rollout would be kept, since all are equally likely: no row rather than a wrong one, failures included."""
    value = CountedValue(lambda history, reply: float(len(history)))
    for fault in (False, True):
        engines = [new_env(), new_env()]
        if fault:
            engines[0].faults = engines[1].faults = {(specs[0].task_id, 1): EnvironmentFault("the engine died")}
        with_all, without = (
            run(start(corridor, specs[0], "best_of_n", seed=1, logprobs=logprobs), engine, wanderer, value)
            for logprobs, engine in zip((True, False), engines, strict=True)
        )
        assert tuple(episode.method for episode in with_all) == BEST_OF_N
        assert without == with_all[:2]
        assert bool(without[0].error) == fault


def test_the_last_reply_is_valued_after_what_came_before_it(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    value = CountedValue(lambda history, reply: float(len(history)))
    episode = run(start(corridor, specs[4], "best_of_n", seed=1, rollouts=1), new_env(), wanderer, value)[0]
    last = episode.steps[-1]
    before = history_of(corridor.instruction, episode.observation, episode.steps[:-1])
    assert value.requests == [Score(before, (render_reply(last.thought, last.action),))]


def test_the_first_of_equals_is_kept(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    value = CountedValue(lambda history, reply: 0.0)
    for spec in specs[:4]:
        first = run(start(corridor, spec, "best_of_n", seed=1, rollouts=1), new_env(), wanderer, value)[0]
        four = run(start(corridor, spec, "best_of_n", seed=1, rollouts=4), new_env(), wanderer, value)
        _, by_value, by_likelihood = four
        assert by_value.steps == by_likelihood.steps == first.steps


def last_value(episode: Episode) -> float:
    step = episode.steps[-1]
    return 2.0 * len(episode.steps) + 0.1 * len(render_reply(step.thought, step.action))


def likelihood(episode: Episode) -> float:
    """Mean log probability per token, as `Likely` gives it."""
    tokens = [len(render_reply(step.thought, step.action).split()) for step in episode.steps]
    nonsense = [step.action == "who knows" for step in episode.steps]
    sums = [-99.0 if bad else -float(n) for bad, n in zip(nonsense, tokens, strict=True)]
    return sum(sums) / sum(n - bad for n, bad in zip(tokens, nonsense, strict=True))
