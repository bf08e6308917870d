"""The corpus must be right about itself: every answer is checked against the text that stands before it."""

import itertools
import re
from collections import Counter

import pytest

from pretrain.corpus import play_game
from pretrain.measure import kind_of, outcome_of
from qlass.envs.alfworld import panels
from qlass.envs.alfworld.goals import parse_goal

THING = r"[a-z]+ \d+"
Conversation = list[tuple[str, str]]


@pytest.fixture(scope="module")
def corpus() -> list[Conversation]:
    specs = itertools.islice(panels.panels({}, "train", 3), 6)
    settings = {"episodes_per_game": 4, "max_steps": 20}
    return [conversation for spec in specs for conversation in play_game((spec, settings, 5))]


def in_sight(before: Conversation) -> list[str]:
    """Return the things of the newest observation that shows any place."""
    texts = [text for role, text in before if role == "user" and ("you see" in text) and not text.endswith("?")]
    return re.findall(THING, texts[-1].rpartition("you see")[2])


def expected(question: str, before: Conversation) -> str | None:
    """Return how the answer must begin; None for the questions that are not about the newest observation or the room."""
    places = re.findall(THING, before[1][1].partition("Your task is to:")[0])
    if question == "Do you see what your task needs?":
        found = [thing for thing in in_sight(before) if thing.split()[0] == parse_goal(before[1][1]).target]
        return f"yes, {found[0]}" if found else "no"
    if asked := re.fullmatch(r"Is there a (\w+) here\?", question):
        here = [thing for thing in in_sight(before) if thing.split()[0] == asked[1]]
        return f"yes, {', '.join(here)}" if here else "no"
    if asked := re.fullmatch(rf"Is ({THING}) here\?", question):
        return "yes" if asked[1] in in_sight(before) else "no"
    if asked := re.fullmatch(rf"Does the room have a ({THING})\?", question):
        return "yes" if asked[1] in places else "no"
    if asked := re.fullmatch(r"Which (\w+)s does the room have\?", question):
        return ", ".join(
            f"{asked[1]} {number}" for number in range(1, 1 + Counter(p.split()[0] for p in places)[asked[1]])
        )
    if asked := re.fullmatch(r"Which \w+ comes after (\w+) (\d+)\?", question):
        later = f"{asked[1]} {int(asked[2]) + 1}"
        return later if later in places else "none"
    return None


def test_both_answers_are_asked_for_and_some_actions_are_refused(corpus: list[Conversation]) -> None:
    answers = Counter(
        messages[number + 1][1]
        for messages in corpus
        for number, (role, text) in enumerate(messages[:-1])
        if role == "user" and text.startswith("Can you ")
    )
    refused = sum(text == "Nothing happens." for messages in corpus for _, text in messages)
    assert min(answers["yes"], answers["no"], refused) > 5


def test_an_empty_hand_is_refused_about_as_often_as_it_takes(corpus: list[Conversation]) -> None:
    """The weights that had hardly read such refusals believed every `take` of what does not lie there."""
    outcomes: Counter[bool] = Counter()
    for messages in corpus:
        held = False
        for before, (_, text) in itertools.pairwise(messages):
            action = (
                before[1].rpartition("Action: ")[2] if before[0] == "assistant" and "Action: " in before[1] else ""
            )
            refused = text == "Nothing happens."
            if action.startswith("take ") and not held:
                outcomes[refused] += 1
            if action.startswith(("take ", "move ")) and not refused:
                held = action.startswith("take ")
    assert 0.5 < outcomes[True] / outcomes[False] < 2


def test_outcomes_are_named_by_verb() -> None:
    action = ("assistant", "Thought: I take it.\nAction: take mug 1 from desk 1")
    assert outcome_of(action, "Nothing happens.") == "outcome of `take`: refused"
    assert outcome_of(action, "You pick up the mug 1 from the desk 1.") == "outcome of `take`: executed"
    assert outcome_of(("user", "Is mug 1 here?"), "yes") is None


def test_answers_are_right(corpus: list[Conversation]) -> None:
    checked: Counter[str] = Counter()
    for messages in corpus:
        for number, (role, text) in enumerate(messages):
            if number > 1 and role == "user" and (begin := expected(text, messages[:number])) is not None:
                assert messages[number + 1][0] == "assistant"
                assert messages[number + 1][1].startswith(begin), (messages[:number], text)
                checked[" ".join(text.split()[:2]) + (" no" if begin == "no" else "")] += 1
    assert (
        min(checked[kind] for kind in ("Do you", "Do you no", "Is there", "Is there no", "Does the", "Does the no"))
        > 3
    )


def test_a_model_is_asked_about_both_answers() -> None:
    assert kind_of("Is there a mug here?", "yes, mug 1") != kind_of("Is there a mug here?", "no")
    assert kind_of("What is at desk 1?", "mug 1") is None
