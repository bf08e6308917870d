"""Replies: a table of what is understood, and the round trip."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlass.prompts import history_of, parse_reply, render_reply
from qlass.records import Message, Step

lines = st.text(st.characters(exclude_characters="\n"), max_size=30).map(str.strip)
actions = lines.filter(bool)
thoughts = st.lists(lines.filter(lambda line: not line.startswith("Action:")), max_size=3).map(
    lambda parts: "\n".join(parts).strip()
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Thought: I go.\nAction: go east", ("I go.", "go east", True)),
        ("Action: go east", ("", "go east", True)),
        ("Action:go east", ("", "go east", True)),
        ("  Thought:  I go. \n\n  Action:\tgo east  ", ("I go.", "go east", True)),
        ("Thought: I go. Action: go east", ("I go.", "go east", True)),
        ("Thought: first\nsecond\nAction: go east", ("first\nsecond", "go east", True)),
        ("Action: go east\nObservation: cell 2\nAction: go west", ("", "go east", True)),
        ("Thought: a\nAction: b\nThought: c\nAction: d", ("a", "b", True)),
        ("Thought: my Action: is clear\nAction: go east", ("my Action: is clear", "go east", True)),
        ("Sure!\nAction: go east", ("", "go east", True)),
        ("Action:\nAction: go east", ("", "go east", True)),
        ("Thought: I go.\nAction: go east\r\n", ("I go.", "go east", True)),
        ("go east", ("", "go east", False)),
        ("  go east \n", ("", "go east", False)),
        ("Thought: I go.", ("", "Thought: I go.", False)),
        ("Action:", ("", "Action:", False)),
        ("Action: \n go east", ("", "Action: \n go east", False)),
        ("action: go east", ("", "action: go east", False)),
        ("", ("", "", False)),
    ],
)
def test_table(text: str, expected: tuple[str, str, bool]) -> None:
    assert parse_reply(text) == expected


def test_rendered_forms() -> None:
    assert render_reply("I go.", "go east") == "Thought: I go.\nAction: go east"
    assert render_reply("", "go east") == "Action: go east"


@given(thought=thoughts, action=actions)
def test_round_trip(thought: str, action: str) -> None:
    assert parse_reply(render_reply(thought, action)) == (thought, action, True)


@given(text=st.text(st.sampled_from("Thought:Action \n.ab"), max_size=40) | st.text())
def test_what_was_understood_is_stable(text: str) -> None:
    """A reply in the history is written anew; reading that gives the same thought and action."""
    thought, action, parsed = parse_reply(text)
    if parsed:
        assert action
        assert "\n" not in action
        assert parse_reply(render_reply(thought, action)) == (thought, action, True)
    else:
        assert (thought, action) == ("", text.strip())


def test_history_alternates() -> None:
    steps = (Step("I go.", "go east", "cell 2", 0.0, False, False), Step("", "enter", "done", 1.0, True, False))
    assert history_of("You walk.", "cell 1", steps) == (
        Message("system", "You walk."),
        Message("user", "cell 1"),
        Message("assistant", "Thought: I go.\nAction: go east"),
        Message("user", "cell 2"),
        Message("assistant", "Action: enter"),
        Message("user", "done"),
    )
    assert history_of("You walk.", "cell 1", ()) == (Message("system", "You walk."), Message("user", "cell 1"))
