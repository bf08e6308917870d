"""ReAct replies: `Thought: ...` and `Action: ...`, written and read (Yao et al., arXiv 2210.03629)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qlass.records import History, Message, Step

_ACTION_LINE = re.compile(r"^[ \t]*Action:[ \t]*(\S[^\n]*)", re.MULTILINE)
_ACTION_INLINE = re.compile(r"Action:[ \t]*(\S[^\n]*)")


def render_reply(thought: str, action: str) -> str:
    """Write a reply in the one form that training, acting and scoring share.

    Args:
        thought: may be empty; then the reply is `Action: ...` alone.
        action: the command. An unparsable reply stays in the history as the action it was taken for.

    Returns:
        The text of the assistant message.
    """
    return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"


def parse_reply(text: str) -> tuple[str, str, bool]:
    """Read (thought, action, parsed) from a reply; the inverse of `render_reply`.

    The first line that starts with an action counts, or else the first action inside a line; whatever follows it is
    ignored. Without one, `parsed` is False and the stripped text takes the action's place, so that the environment can
    answer that it does not understand.
    """
    found = _ACTION_LINE.search(text) or _ACTION_INLINE.search(text)
    if found is None:
        return "", text.strip(), False
    _, _, thought = text[: found.start()].partition("Thought:")
    return thought.strip(), found.group(1).strip(), True


def history_of(instruction: str, observation: str, steps: Sequence[Step]) -> History:
    """Build the chat messages of an episode so far.

    Returns:
        system (instruction), user (first observation), then assistant (reply) and user (observation) per step.
    """
    messages = [Message("system", instruction), Message("user", observation)]
    for step in steps:
        messages.append(Message("assistant", render_reply(step.thought, step.action)))
        messages.append(Message("user", step.observation))
    return tuple(messages)
