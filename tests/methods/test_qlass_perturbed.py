"""QLASS with task perturbation: who sees which text of the task, and what stays as in `qlass`.

The corridor says its task once, in the first observation; WebShop says it on every page.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from qlass.envs import get_definition, make_env
from qlass.envs.core.base import EnvDefinition
from qlass.errors import Busy, SettingsError
from qlass.methods.qlass_perturbed import PerturbedSettings, note, reworded
from qlass.perturbation import rules
from qlass.policies.base import Propose, Proposed
from qlass.policies.scripted import ScriptedPolicy
from qlass.prompts import history_of
from qlass.records import Cost, Episode, History, Message, TaskSpec
from tests.engines import drive
from tests.methods.playing import SETTINGS, CountedValue, NewEnv, Run, actions_of, optimal, saying_its_task, start
from tests.policies.local_server import Server
from tests.search.conftest import CountedPolicy


def task_of(definition: EnvDefinition, observation: str) -> str:
    assert definition.partition_task is not None
    return definition.partition_task(observation)[1]


def played(episode: Episode, definition: EnvDefinition) -> list[History]:
    """Return the original history before each step."""
    return [
        history_of(definition.instruction, episode.observation, episode.steps[:number])
        for number in range(len(episode.steps))
    ]


def test_only_further_proposals_see_a_paraphrase(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    definition, value, env = (
        saying_its_task(corridor),
        CountedValue(lambda history, reply: float(len(reply))),
        new_env(),
    )
    (episode,) = run(start(definition, specs[4], "qlass_perturbed", seed=1, proposals=4), env, wanderer, value)
    task = task_of(definition, episode.observation)
    assert len(episode.steps) > 2
    assert len(wanderer.batches) == len(episode.steps)  # all requests of a step in one call
    seen = set()
    for history, requests in zip(played(episode, definition), wanderer.batches, strict=True):
        assert len(requests) == 4
        assert requests[0].history == history
        texts = [task_of(definition, request.history[1].content) for request in requests]
        assert texts[0] == task
        assert len(set(texts)) == 4
        for text, request in zip(texts, requests, strict=True):
            first = history[1].content.replace(task, text)
            assert request.history == (history[0], Message("user", first), *history[2:])
        seen.add(tuple(texts))
    assert len(seen) == 1  # each draw has its paraphrase through the episode
    asked = [pairs for pairs in episode.candidates if pairs]
    assert len(value.requests) == len(asked) > 0
    assert {request.history for request in value.requests} <= set(played(episode, definition))
    assert env.executed == actions_of(episode)
    for step, pairs in zip(episode.steps, episode.candidates, strict=True):
        if pairs:
            assert step.action == max(pairs, key=lambda pair: pair[1])[0]


def test_the_draws_are_those_of_qlass(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    """The same seeds in the same order; a policy that does not read the task plays both rows alike."""
    value = CountedValue(lambda history, reply: float(len(reply)))
    for spec in specs[:6]:
        (without,) = run(start(corridor, spec, "qlass", seed=3, proposals=3), new_env(), wanderer, value)
        asked, wanderer.batches = wanderer.batches, []
        begin = start(saying_its_task(corridor), spec, "qlass_perturbed", seed=3, proposals=3)
        (episode,) = run(begin, new_env(), wanderer, value)
        assert episode.steps == without.steps
        assert episode.candidates == without.candidates
        seeds = [tuple(seed for request in batch for seed in request.seeds) for batch in wanderer.batches]
        assert seeds == [batch[0].seeds for batch in asked]
        assert [batch[0].history for batch in wanderer.batches] == [batch[0].history for batch in asked]
        wanderer.batches = []


def test_a_paraphrase_can_be_what_solves_it(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run
) -> None:
    """A policy that stands still unless it is asked in other words; the QNet chooses what those find."""

    def stubborn(history: History, rng: random.Random) -> str:
        if " this: " not in history[1].content:
            return "Action: wait"
        rooms = [f"enter {door} room" for door in specs[0].key["doors"].split() if door != "-"]
        return f"Action: {rng.choice(['go east', 'go west', 'take lamp', 'take book', 'take key', *rooms])}"

    policy = ScriptedPolicy(stubborn, corridor.normalise_action)
    value = optimal(specs[0], corridor)
    definition = saying_its_task(corridor)
    (without,) = run(start(definition, specs[0], "qlass", proposals=80), new_env(), policy, value)
    (episode,) = run(start(definition, specs[0], "qlass_perturbed", proposals=80), new_env(), policy, value)
    assert (without.success, episode.success) == (False, True)


def test_costs_count_every_history(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    value = CountedValue(lambda history, reply: 0.0)
    begin = start(saying_its_task(corridor), specs[2], "qlass_perturbed", proposals=3)
    (episode,) = run(begin, new_env(), wanderer, value)
    steps = len(episode.steps)
    assert wanderer.cost.policy_calls == 3 * steps
    assert episode.cost == wanderer.cost + Cost(qnet_calls=value.scored, env_steps=steps)


def test_one_proposal_is_no_perturbation(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    (episode,) = run(
        start(saying_its_task(corridor), specs[0], "qlass_perturbed", row="qlass", proposals=1), new_env(), wanderer
    )
    assert [episode] == run(start(corridor, specs[0], "qlass", proposals=1), new_env(), wanderer)


def test_more_proposals_than_paraphrases(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    value = CountedValue(lambda history, reply: 0.0)
    definition = saying_its_task(corridor)
    run(start(definition, specs[0], "qlass_perturbed", proposals=40), new_env(), wanderer, value)
    texts = [task_of(definition, request.history[1].content) for request in wanderer.batches[0]]
    assert len(texts) == 40
    assert set(texts[1:]) == set(rules.paraphrases(texts[0], 99, 0))


def test_a_task_without_words_is_played_as_it_is(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    silent = replace(corridor, partition_task=lambda observation: (observation, "", ""))
    value = CountedValue(lambda history, reply: 0.0)
    (episode,) = run(start(silent, specs[0], "qlass_perturbed", row="qlass"), new_env(), wanderer, value)
    assert {request.history for batch in wanderer.batches for request in batch} == set(played(episode, corridor))
    (same,) = run(start(corridor, specs[0], "qlass"), new_env(), wanderer, value)
    assert episode.steps == same.steps


def test_an_environment_that_does_not_say_where_its_task_is(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    with pytest.raises(
        SettingsError, match=r"environment corridor: its definition does not say where the task stands"
    ):
        run(start(corridor, specs[0], "qlass_perturbed"), new_env(), wanderer)


def test_replies_that_repeat_the_task_stay() -> None:
    """Whatever the agent has done is what it has done; only what the environment said is said differently."""
    history = (
        Message("system", "buy <x>"),
        Message("user", "task <x> a"),
        Message("assistant", "Action: search[<x>]"),
        Message("user", "nothing"),
        Message("assistant", "Action: click[<x>]"),
        Message("user", "task <x> <x>"),
    )

    def partition(text: str) -> tuple[str, str, str]:
        return text.partition("<x>") if text.startswith("task") else (text, "", "")

    texts = [message.content for message in reworded(history, partition, "y")]
    assert texts == ["buy <x>", "task y a", *(message.content for message in history[2:5]), "task y <x>"]


@pytest.fixture(params=["text", "text_rich"])
def shop(request: pytest.FixtureRequest) -> dict[str, Any]:
    pytest.importorskip("rapidfuzz")
    pytest.importorskip("snowballstemmer")
    return {"size": 100, "mode": request.param}


def shopper(history: History, rng: random.Random) -> str:
    """Search, open something, choose and buy."""
    page = history[-1].content
    if "Back to Search" not in page:
        return f"Action: search[{rng.choice(['lamp', 'shoes', 'snack'])}]"
    if "Buy Now" in page:
        return f"Action: click[{rng.choice(['features', 'buy now'])}]"
    if ids := [word for word in page.replace("\n", " ").split() if word.startswith("B0") and len(word) == 10]:
        return f"Action: click[{rng.choice(ids)}]"
    return "Action: click[< prev]"


def test_every_page_of_a_shop_says_the_paraphrase(shop: dict[str, Any]) -> None:
    definition = get_definition("webshop")
    policy = CountedPolicy(ScriptedPolicy(shopper, definition.normalise_action))
    value = CountedValue(lambda history, reply: -float("buy" in reply))
    env = make_env(definition, shop, 7)
    lengths = []
    for spec in islice(definition.panels(shop, "train", 0), 5):
        policy.batches, value.requests = [], []
        begin = start(definition, spec, "qlass_perturbed", proposals=3)
        ((_, (episode,)),) = drive([begin], [env], policy, value)
        task = task_of(definition, episode.observation)
        assert task in episode.observation.replace("\n", " [SEP] ").split(" [SEP] ")
        for history, requests in zip(played(episode, definition), policy.batches, strict=True):
            assert requests[0].history == history
            texts = [task_of(definition, request.history[1].content) for request in requests]
            assert len(set(texts)) == 3
            for text, request in zip(texts, requests, strict=True):
                pages = [message for message in request.history if message.role == "user"]
                assert [task_of(definition, page.content) for page in pages] == [text] * len(pages)
                back = reworded(request.history, definition.partition_task, task)  # type: ignore[arg-type]
                assert back == history
        assert {request.history for request in value.requests} <= set(played(episode, definition))
        lengths.append(len(episode.steps))
    assert max(lengths) > 3


@pytest.fixture
def writer() -> Iterator[Server]:
    """An endpoint that puts a word and the seed before the task."""
    pytest.importorskip("httpx", reason="needs the extra serve")
    from tests.perturbation.test_endpoint import ok

    with closing(Server(lambda _, body: ok(f"you {body['messages'][1]['content']} {body['seed']}"))) as made:
        yield made


ENDPOINT: dict[str, Any] = {
    "model": "writer", "api_key_env": "", "temperature": 1.0, "max_new_tokens": 60, "concurrency": 8, "timeout_s": 5.0,
    "retries": 0,
}  # fmt: skip


def test_an_endpoint_is_asked_for_all_episodes_at_once(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, writer: Server
) -> None:
    """Once per episode, before its first step; what it costs is in the cost of the episode."""
    writer.seconds = 0.05
    definition, value = saying_its_task(corridor), CountedValue(lambda history, reply: 0.0)
    paraphraser = {**ENDPOINT, "base_url": writer.url}
    starts = [
        start(definition, spec, "qlass_perturbed", proposals=3, seed=number, paraphraser=paraphraser)
        for number, spec in enumerate(specs[:4])
    ]
    asked: list[int] = []

    class Watched(CountedPolicy):
        def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
            asked.append(len(writer.bodies))
            return super().propose(requests)

    found = dict(drive(starts, [new_env() for _ in starts], Watched(wanderer), value))
    assert set(asked) == {8}
    assert writer.peak == 8
    first = wanderer.batches[0]
    assert len(first) == 12
    for number in range(4):
        (episode,) = found[number]
        task = task_of(definition, episode.observation)
        texts = [task_of(definition, one.history[1].content) for one in first[3 * number : 3 * number + 3]]
        assert texts[0] == task
        assert all(text.startswith(f"you {task} ") for text in texts[1:])
        steps, words = len(episode.steps), 2 * (len(task.split()) + 2)
        assert episode.cost.policy_calls == 3 * steps + 1
        assert episode.cost.generated_tokens >= words
    together = sum((episode.cost for (episode,) in found.values()), Cost())
    assert together.prompt_tokens == wanderer.cost.prompt_tokens + 4 * 50


def test_an_endpoint_that_fails_ends_the_stage(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, writer: Server, run: Run
) -> None:
    """It is no fault of the environment, so the task does not count as failed."""
    writer.answer = lambda number, body: (503, {}, "busy")
    paraphraser = {**ENDPOINT, "base_url": writer.url}
    begin = start(saying_its_task(corridor), specs[0], "qlass_perturbed", paraphraser=paraphraser)
    with pytest.raises(Busy, match=r"^paraphraser: http://127.*no answer after 1 attempts"):
        run(begin, new_env(), wanderer)
    assert wanderer.batches == []


def test_the_note_says_who_paraphrases() -> None:
    drawn = PerturbedSettings(**SETTINGS["qlass_perturbed"])
    assert note(drawn)[""].endswith("all but the first see the task paraphrased by rules")
    paraphraser = {**ENDPOINT, "base_url": "http://x/v1", "api_key_env": "KEY"}
    asked = PerturbedSettings(**SETTINGS["qlass_perturbed"] | {"paraphraser": paraphraser})
    assert note(asked)[""].endswith("paraphrased by writer")
    assert (drawn.api_keys(), asked.api_keys()) == ({}, {"paraphraser": "KEY"})
