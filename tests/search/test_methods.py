"""The evaluated methods on corridor, whose optimal Q is known: what they choose, execute, count and survive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import Any

import pytest

from qlass.envs.core.base import EnvDefinition
from qlass.envs.corridor import optimal_q
from qlass.errors import EnvironmentFault, ReplayDivergence
from qlass.policies.base import Propose, Proposed, Score
from qlass.policies.scripted import ScriptedPolicy, ScriptedValueFunction
from qlass.prompts import history_of, parse_reply, render_reply
from qlass.records import Cost, Episode, History, TaskSpec
from qlass.search.branch import Sampling
from qlass.search.driver import drive
from qlass.search.methods import Adaptive, best_of_n, q_guided, single

from .conftest import MAX_STEPS, CountedEnv, CountedPolicy, wander

NewEnv = Callable[[], CountedEnv]
Run = Callable[..., list[Episode]]

GAMMA = 0.97
"""High enough that bringing the item (1.0) beats entering at once without it (0.5)."""
NAMES = ("best_of_n", "best_of_n_qnet", "best_of_n_likelihood")


class CountedValue:
    """A value function that remembers what it scored."""

    def __init__(self, value: Callable[[History, str], float]) -> None:
        self._value = ScriptedValueFunction(value)
        self.scored = 0
        self.requests: list[Score] = []

    def score(self, requests: Sequence[Score]) -> list[tuple[float, ...]]:
        self.scored += sum(len(request.replies) for request in requests)
        self.requests.extend(requests)
        return self._value.score(requests)


class Likely:
    """A policy whose log probabilities come from the text: nonsense is unlikely."""

    def __init__(self, policy: CountedPolicy) -> None:
        self._policy = policy

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        return [
            Proposed(
                tuple(replace(p, logprob=-float(p.tokens) if p.valid else -99.0) for p in answer.proposals),
                answer.prompt_tokens,
            )
            for answer in self._policy.propose(requests)
        ]


def optimal(spec: TaskSpec, corridor: EnvDefinition) -> CountedValue:
    """Return the optimal Q of one task as a value function."""

    def value(history: History, reply: str) -> float:
        texts = [*(message.content for message in history if message.role == "assistant"), reply]
        actions = [corridor.normalise_action(parse_reply(text)[1]) for text in texts]
        return optimal_q(spec, actions, GAMMA, MAX_STEPS)

    return CountedValue(value)


def everything(history: History, rng: Any) -> str:
    """Propose any of the actions that could ever make sense, whatever is seen."""
    rooms = [f"enter {colour} room" for colour in ("red", "blue", "green", "white", "black", "yellow")]
    return f"Action: {rng.choice(['go east', 'go west', 'take lamp', 'take book', 'take key', *rooms])}"


def texts(episode: Episode) -> list[str]:
    return [step.action for step in episode.steps]


def test_single_plays_one_greedy_trajectory(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    for spec in specs[:6]:
        env = new_env()
        before = wanderer.cost
        start = partial(single, definition=corridor, spec=spec, sampling=Sampling(0.0, 3), method="sft", seed=5)
        (episode,) = run(start, env, wanderer)
        assert (episode.task_id, episode.category, episode.method, episode.seed) == (
            spec.task_id, spec.category, "sft", 5,
        )  # fmt: skip
        assert texts(episode) == env.executed
        assert before + episode.cost == replace(wanderer.cost, env_steps=before.env_steps + len(env.executed))
        last = episode.steps[-1]
        assert last.terminated or last.truncated
        assert not any(step.terminated or step.truncated for step in episode.steps[:-1])
        assert (episode.outcome, episode.success) == (last.reward, last.reward == 1.0)
        assert (episode.error, episode.candidates) == ("", ())
        assert run(start, new_env(), wanderer) == [episode]


def test_invalid_replies_are_steps(corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run) -> None:
    """A reply without an action, and an action that is not possible, are executed, answered and marked."""
    replies = ["who knows", "Thought: There.\nAction: open window", "Action: Go West."]

    def reply(history: History, rng: Any) -> str:
        return replies[min(len(history) // 2 - 1, 2)]

    policy = ScriptedPolicy(reply, corridor.normalise_action)
    start = partial(single, definition=corridor, spec=specs[0], sampling=Sampling(0.0, 0), method="base", seed=0)
    (episode,) = run(start, new_env(), policy)
    first, second, third = episode.steps[:3]
    assert (first.thought, first.action, first.valid) == ("", "who knows", False)
    assert (second.thought, second.action, second.valid) == ("There.", "open window", False)
    assert first.observation == second.observation == "You cannot do that."
    assert (third.action, third.valid) == ("go west", True)
    assert len(episode.steps) == MAX_STEPS
    assert episode.steps[-1].truncated


def test_best_of_n_picks(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    """Three picks of the same N rollouts; each checked against all rollouts played alone."""
    count, differs = 6, 0
    value = CountedValue(lambda history, reply: float(len(history)) + 0.1 * len(reply))
    for spec in specs[:8]:
        env, sampling = new_env(), Sampling(0.7, 1)
        before, policy = wanderer.cost, Likely(wanderer)
        start = partial(best_of_n, definition=corridor, spec=spec, sampling=sampling, rollouts=count, seed=2)
        found = run(start, env, policy, value)
        spent, executed = wanderer.cost, len(env.executed)
        assert tuple(episode.method for episode in found) == NAMES
        assert {(episode.task_id, episode.seed) for episode in found} == {(spec.task_id, 2)}
        by_reward, by_value, by_likelihood = found
        smaller = [
            run(partial(start, rollouts=fewer), new_env(), policy, value) for fewer in range(1, count)
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


def test_what_the_qnet_is_asked(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    """Best-of-N: the last reply of each rollout after what came before it. Guided: all proposals after the history."""
    spec, value = specs[4], CountedValue(lambda history, reply: float(len(history)))
    start = partial(best_of_n, definition=corridor, spec=spec, sampling=Sampling(0.7, 1), rollouts=1, seed=0)
    episode = run(start, new_env(), wanderer, value)[0]
    last = episode.steps[-1]
    before = history_of(corridor.instruction, episode.observation, episode.steps[:-1])
    assert value.requests == [Score(before, (render_reply(last.thought, last.action),))]
    value.requests.clear()
    guided = partial(q_guided, definition=corridor, spec=spec, sampling=Sampling(0.7, 1), proposals=4, seed=0)
    (episode,) = run(guided, new_env(), wanderer, value)
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


def last_value(episode: Episode) -> float:
    step = episode.steps[-1]
    return 2.0 * len(episode.steps) + 0.1 * len(render_reply(step.thought, step.action))


def likelihood(episode: Episode) -> float:
    """Mean log probability per token, as `Likely` gives it."""
    tokens = [len(render_reply(step.thought, step.action).split()) for step in episode.steps]
    nonsense = [step.action == "who knows" for step in episode.steps]
    sums = [-99.0 if bad else -float(n) for bad, n in zip(nonsense, tokens, strict=True)]
    return sum(sums) / sum(n - bad for n, bad in zip(tokens, nonsense, strict=True))


def test_the_first_of_equals_is_kept(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    start = partial(best_of_n, definition=corridor, sampling=Sampling(0.7, 1), rollouts=4, seed=0)
    value = CountedValue(lambda history, reply: 0.0)
    for spec in specs[:4]:
        first = run(partial(start, spec=spec, rollouts=1), new_env(), wanderer, value)[0]
        _, by_value, by_likelihood = run(partial(start, spec=spec), new_env(), wanderer, value)
        assert by_value.steps == by_likelihood.steps == first.steps


def test_optimal_q_guides_to_the_optimum(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run
) -> None:
    """With every action among the proposals, the optimal Q gives the best reward on a shortest way."""
    policy = ScriptedPolicy(everything, corridor.normalise_action)
    for spec in specs[:9]:
        start = partial(q_guided, definition=corridor, spec=spec, sampling=Sampling(1.0, 0), proposals=150, seed=0)
        (episode,) = run(start, new_env(), policy, optimal(spec, corridor))
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


def colours(spec: TaskSpec) -> list[str]:
    return [door for door in spec.key["doors"].split() if door != "-"]


def test_guidance_solves_what_greedy_and_chance_do_not(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    solved = {"greedy": 0, "chance": 0, "guided": 0}
    for spec in specs:
        play = partial(single, definition=corridor, spec=spec, method="sft", seed=0)
        solved["greedy"] += run(partial(play, sampling=Sampling(0.0, 0)), new_env(), wanderer)[0].success
        solved["chance"] += run(partial(play, sampling=Sampling(0.7, 0)), new_env(), wanderer)[0].success
        guided = partial(q_guided, definition=corridor, spec=spec, sampling=Sampling(0.7, 0), proposals=8, seed=0)
        solved["guided"] += run(guided, new_env(), wanderer, optimal(spec, corridor))[0].success
    assert solved["guided"] >= 22
    assert max(solved["greedy"], solved["chance"]) <= 5


def test_only_the_chosen_action_is_executed(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    """The engine sees one action per step, the best one by value; no candidate is tried out."""
    for spec in specs[:8]:
        env, value, before = new_env(), optimal(spec, corridor), wanderer.cost
        start = partial(q_guided, definition=corridor, spec=spec, sampling=Sampling(0.7, 4), proposals=4, seed=3)
        (episode,) = run(start, env, wanderer, value)
        assert env.executed == texts(episode)
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

    start = partial(q_guided, definition=corridor, spec=specs[0], sampling=Sampling(0.7, 0), proposals=3, seed=0)
    (episode,) = run(start, new_env(), Fixed(), CountedValue(lambda history, reply: 0.5))
    assert set(episode.candidates) == {(("go west", 0.5), ("go east", 0.5))}
    assert set(texts(episode)) == {"go west"}
    assert {step.thought for step in episode.steps} == {""}


def test_one_proposal_needs_no_value(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    start = partial(q_guided, definition=corridor, spec=specs[0], sampling=Sampling(0.7, 0), proposals=1, seed=0)
    (episode,) = run(start, new_env(), wanderer)
    assert episode.cost.qnet_calls == 0
    assert episode.candidates == ((),) * len(episode.steps)


def test_adaptive_with_nothing_to_add_is_qlass(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    for spec in specs[:4]:
        start = partial(q_guided, definition=corridor, spec=spec, sampling=Sampling(0.7, 4), proposals=3, seed=0)
        (plain,) = run(start, new_env(), wanderer, optimal(spec, corridor))
        (same,) = run(partial(start, adaptive=Adaptive()), new_env(), wanderer, optimal(spec, corridor))
        assert same == replace(plain, method="qlass_adaptive")


class Written:
    """A policy whose replies at a step are written down: actions and log probabilities of the first draw, the second, ..."""

    def __init__(self, corridor: EnvDefinition, *draws: dict[str, float]) -> None:
        self.asked: list[list[Propose]] = []
        """The requests of each step."""
        self._draws, self._normalise = draws, corridor.normalise_action

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        (request,) = requests
        if not self.asked or self.asked[-1][-1].history != request.history:
            self.asked.append([])
        written = self._draws[len(self.asked[-1])]
        self.asked[-1].append(request)
        actions = cycle(written)
        policy = ScriptedPolicy(lambda history, rng: f"Action: {next(actions)}", self._normalise)
        (answer,) = policy.propose(requests)
        proposals = tuple(replace(proposal, logprob=written[proposal.action]) for proposal in answer.proposals)
        return [Proposed(proposals, answer.prompt_tokens)]


@pytest.mark.parametrize(
    ("prior", "chosen"), [(0.0, "go west"), (0.09, "go west"), (0.11, "go east"), (0.5, "take lamp")]
)
def test_the_prior_is_added_to_the_q_value(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run, prior: float, chosen: str
) -> None:
    """Q 0.9, 0.8 and 0.5 with log p -3, -2 and -1: the first leads below 0.1, the last from 0.3 on."""
    values = {"go west": 0.9, "go east": 0.8, "take lamp": 0.5}
    policy = Written(corridor, {"go west": -3.0, "go east": -2.0, "take lamp": -1.0})
    value = CountedValue(lambda history, reply: values[parse_reply(reply)[1]])
    start = partial(q_guided, definition=corridor, spec=specs[0], sampling=Sampling(0.7, 0), proposals=3, seed=0)
    (episode,) = run(partial(start, adaptive=Adaptive(prior)), new_env(), policy, value)
    assert set(texts(episode)) == {chosen}
    assert set(episode.candidates) == {tuple(values.items())}


def test_redraws_where_all_values_fall(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run
) -> None:
    """Step 1 has the value 0.8. At step 2 the first draws are worth 0.3, below half of it; the second redraw is enough."""
    first, again, found = (
        {"go west": -1.0},
        {"take lamp": -1.0, "go west": -9.0},
        {"go east": -1.0, "take key": -1.0},
    )
    policy = Written(corridor, first, again, found)

    def worth(history: History, reply: str) -> float:
        step = len(history) // 2 - 1
        values = {"go west": 0.8 if step == 0 else 0.3, "take lamp": 0.39, "go east": 0.4, "take key": 0.1}
        return values[parse_reply(reply)[1]] * (1.0 if step < 2 else 0.9**step)

    value = CountedValue(worth)
    adaptive = Adaptive(max_redraws=3, redraw_below=0.5, redraw_temperature=1.5)
    start = partial(q_guided, definition=corridor, spec=specs[0], sampling=Sampling(0.7, 0), seed=0, adaptive=adaptive)
    env = new_env()
    (episode,) = run(partial(start, proposals=2), env, policy, value)
    assert env.executed[:2] == ["go west", "go east"]
    assert episode.candidates[0] == (("go west", 0.8),)
    assert episode.candidates[1] == (("go west", 0.3), ("take lamp", 0.39), ("go east", 0.4), ("take key", 0.1))
    one, two = policy.asked[:2]
    assert [request.temperature for request in two] == [0.7, 1.5, 1.5]
    assert len(one) == 1
    assert len({seed for request in two for seed in request.seeds}) == 6
    assert [len(request.replies) for request in value.requests[:4]] == [1, 1, 1, 2]  # nothing is scored twice
    assert episode.cost.policy_calls == sum(map(len, policy.asked))
    assert episode.cost.qnet_calls == value.scored == sum(map(len, episode.candidates))


def test_redraws_end(corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run) -> None:
    """Where nothing better is found, the best of all that was drawn is executed; the next step starts from its value."""
    policy = Written(corridor, *[{"go west": -1.0}] * 3)
    value = CountedValue(lambda history, reply: 0.8 if len(history) == 2 else 0.1)
    adaptive = Adaptive(max_redraws=2, redraw_below=0.5)
    start = partial(q_guided, definition=corridor, spec=specs[0], sampling=Sampling(0.7, 0), seed=0, adaptive=adaptive)
    (episode,) = run(partial(start, proposals=1), new_env(), policy, value)
    assert [len(requests) for requests in policy.asked] == [1, 3, *[1] * (MAX_STEPS - 2)]
    assert set(texts(episode)) == {"go west"}
    assert episode.cost.qnet_calls == MAX_STEPS


METHODS: dict[str, Callable[..., Any]] = {
    "single": partial(single, method="sft", seed=0),
    "best_of_n": partial(best_of_n, rollouts=3, seed=0),
    "q_guided": partial(q_guided, proposals=3, seed=0),
    "adaptive": partial(q_guided, proposals=3, seed=0, adaptive=Adaptive(0.01, max_redraws=2, redraw_below=0.9)),
}


def flat(
    value: CountedValue, policy: CountedPolicy, starts: Sequence[Any], envs: Sequence[Any]
) -> list[list[Episode]]:
    found = dict(drive(starts, envs, policy, value))
    return [found[number] for number in range(len(starts))]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 3, 10])
def test_results_do_not_depend_on_the_number_of_engines(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, method: str, count: int
) -> None:
    starts = [
        partial(METHODS[method], definition=corridor, spec=spec, sampling=Sampling(0.7, 9)) for spec in specs[:10]
    ]
    value = CountedValue(lambda history, reply: float(len(reply)))
    alone = [flat(value, wanderer, [start], [new_env()])[0] for start in starts]
    assert flat(value, wanderer, starts, [new_env() for _ in range(count)]) == alone


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("kind", [EnvironmentFault, ReplayDivergence])
def test_faults_become_failed_episodes(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, method: str, step: int,
    kind: type[Exception],
) -> None:  # fmt: skip
    """Every task yields exactly one Episode per method; a broken one says why, the others are as if alone."""
    tasks = specs[:5]
    starts = [partial(METHODS[method], definition=corridor, spec=spec, sampling=Sampling(0.7, 9)) for spec in tasks]
    value = CountedValue(lambda history, reply: -float("enter" in reply))  # nobody enters at once
    alone = flat(value, wanderer, starts, [new_env() for _ in tasks])
    engines = [new_env(), new_env()]
    for engine in engines:
        engine.faults = {(tasks[1].task_id, step): kind("the engine died"), (tasks[3].task_id, step): kind("again")}
    found = flat(value, wanderer, starts, engines)
    names = NAMES if method == "best_of_n" else (alone[0][0].method,)
    assert [tuple(episode.method for episode in episodes) for episodes in found] == [names] * len(tasks)
    for number, (episodes, expected) in enumerate(zip(found, alone, strict=True)):
        if number not in (1, 3):
            assert episodes == expected
            continue
        for episode in episodes:
            reason = "the engine died" if number == 1 else "again"
            assert episode.error == f"{kind.__name__}: {reason}"
            assert (episode.task_id, episode.category) == (tasks[number].task_id, tasks[number].category)
            assert (episode.outcome, episode.success) == (0.0, False)


@pytest.mark.parametrize("method", ["single", "q_guided"])
def test_a_failed_episode_keeps_what_it_spent(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run, method: str
) -> None:
    start = partial(METHODS[method], definition=corridor, spec=specs[0], sampling=Sampling(0.7, 9))
    value = CountedValue(lambda history, reply: -float("enter" in reply))
    (whole,) = run(start, new_env(), wanderer, value)
    assert len(whole.steps) > 3
    env, before, scored = new_env(), wanderer.cost, value.scored
    env.faults = {(specs[0].task_id, 4): EnvironmentFault("the engine died")}
    (episode,) = run(start, env, wanderer, value)
    assert episode.steps == whole.steps[:3]
    assert episode.observation == whole.observation
    assert episode.candidates == whole.candidates[:3]
    spent = Cost(
        wanderer.cost.generated_tokens - before.generated_tokens,
        wanderer.cost.prompt_tokens - before.prompt_tokens,
        4,
        value.scored - scored,
        3,
    )
    assert episode.cost == spent


def test_bugs_are_not_failed_episodes(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    env = new_env()
    env.faults = {(specs[0].task_id, 2): ZeroDivisionError("a bug")}
    start = partial(single, definition=corridor, spec=specs[0], sampling=Sampling(0.0, 0), method="sft", seed=0)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(start, env, wanderer)


def test_wander_is_not_trivial(corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run) -> None:
    """The tests above mean something only where rollouts differ."""
    policy = CountedPolicy(ScriptedPolicy(wander, corridor.normalise_action))
    played = [
        run(
            partial(single, definition=corridor, spec=specs[1], sampling=Sampling(0.7, n), method="x", seed=0),
            new_env(),
            policy,
        )[0]
        for n in range(8)
    ]
    assert len({episode.steps for episode in played}) > 4
