"""Ask a model the corpus's questions about training games that its corpus does not hold; print how many answers are right.

    python -m pretrain.measure models/reader-3m

Answers are forced: a token counts where it is the most likely one after the right tokens before it, an answer where all
of its tokens count. It also says how often the model foresees that the engine refuses an action ("Nothing happens."), or does not.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from transformers import PreTrainedModel

from pretrain.conversations import Conversation
from pretrain.corpus import play_game
from qlass.envs.alfworld import panels
from qlass.envs.alfworld.engine import NOTHING_HAPPENS
from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.models.folders import load_checked_tokenizer, load_model, load_tokenizer
from qlass.prompts import ChatFormat, load_chat_format, parse_reply, render_reply
from qlass.records import Message, TaskSpec
from qlass.training.core.attention import choose_attention

KINDS = {
    "Do you see what your task needs?": "is what the task needs in sight (look up the goal, then compare)",
    "Is there a ": "is a named kind of thing in sight (compare only)",
    "Is ": "is a thing of this name in sight",
    "Do you hold ": "is this thing held",
    "What does your task need?": "what does the task need (look up the goal only)",
    "Does the room have a ": "does the room have this place",
    "Have you been to ": "has this place been visited",
    "Which places have you not been to?": "which places are left (a list)",
    "Where is ": "where was this thing seen",
    "Can you ": "would this action be executed",
    "What must be done with ": "what must be done with the thing",
    "What do you hold?": "what is held",
}


def kind_of(question: str, answer: str) -> str | None:
    """Name the row of a question; those that are answered with yes or no get two, for guessing one of them is easy."""
    kind = next((kind for start, kind in KINDS.items() if question.startswith(start)), None)
    word = answer.partition(",")[0]
    return f"{kind}: {word}" if kind and word in {"yes", "no"} else kind


def outcome_of(before: tuple[str, str], observation: str) -> str | None:
    """Name the row of an action's outcome, None where the message before is not an action: is a refusal foreseen?"""
    role, text = before
    _, action, is_action = parse_reply(text)
    if role != "assistant" or not is_action:
        return None
    return f"outcome of `{action.split()[0]}`: {'refused' if observation == NOTHING_HAPPENS else 'executed'}"


class Reading(NamedTuple):
    """A conversation as a model read it.

    Attributes:
        ids: its tokens.
        likely: for each place, the token that the model took for the most likely next one.
        ends: for each message, the place behind its last token.
    """

    ids: list[int]
    likely: list[int]
    ends: list[int]

    def right(self, number: int) -> bool:
        """Return whether the model would have written a reply, each token after the right ones before it."""
        tokens = range(self.ends[number - 1] + 1, self.ends[number])  # the first one opens the reply
        return all(self.likely[token - 1] == self.ids[token] for token in tokens)


@torch.no_grad()
def read(model: PreTrainedModel, chat: ChatFormat, messages: Sequence[tuple[str, str]]) -> Reading:
    """Read a conversation of (role, text)."""
    segments = list(chat.segments(tuple(Message(role, text) for role, text in messages)))
    ids = list(itertools.chain.from_iterable(segments))
    likely = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
    return Reading(ids, likely, list(itertools.accumulate(map(len, segments))))


def load_reader(folder: Path) -> tuple[PreTrainedModel, ChatFormat]:
    """Load a model that reads, on the CPU, and its chat format."""
    model = load_model(folder).eval()
    choose_attention(model, torch.device("cpu"))
    return model, load_chat_format("qlass", load_checked_tokenizer(folder))


def print_table(found: Mapping[str, tuple[int, int]]) -> None:
    """Print (right, asked) by kind of question."""
    print("| question | right | asked |\n|---|---|---|")
    for kind, (right, asked) in found.items():
        print(f"| {kind} | {100 * right / asked:.0f} % | {asked} |")


def ask(folder: Path, conversations: Iterable[Conversation]) -> dict[str, tuple[int, int]]:
    """Return (right, asked) by kind of exercise; those that are answered with yes, no or none get rows of their own."""
    model, chat = load_reader(folder)
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for messages in conversations:
        reading = read(model, chat, messages)
        for number, kind in messages.kinds.items():
            word = re.search(r"(?:^|\? )(yes|no|none)\.?$", messages[number][1])
            row = f"{kind}: {word[1]}" if word else kind
            found[row][0] += reading.right(number)
            found[row][1] += 1
    return {kind: (right, asked) for kind, (right, asked) in sorted(found.items())}


def expert_episode(env: TextEnv, definition: EnvDefinition, spec: TaskSpec, max_steps: int) -> tuple[Message, ...]:
    """Play one of the expert's episodes, actions in their normal form."""
    expert = definition.make_expert(spec, 0)
    observation, _ = env.reset(spec)
    messages = [Message("system", definition.instruction), Message("user", observation)]
    for _ in range(max_steps):
        thought, action = expert.act(observation)
        messages.append(Message("assistant", render_reply(thought, definition.normalise_action(action))))
        observation, _, terminated, _, _ = env.step(action)
        if terminated:
            break
        messages.append(Message("user", observation))
    return tuple(messages)


def print_lengths(folder: Path, definition: EnvDefinition, tasks: int) -> None:
    """Print the tokens of the expert's episodes under the options of params.yaml, by split."""
    chat = load_chat_format("qlass", load_tokenizer(folder))
    params = yaml.safe_load(Path("params.yaml").read_text())["envs"][definition.name]
    env = definition.make(params["options"])
    print("| split | median | 95th percentile | longest |\n|---|---|---|---|")
    for split in ("train", "test_seen", "test_unseen"):
        specs = itertools.islice(definition.panels(params["options"], split, 0), tasks)
        episodes = (expert_episode(env, definition, spec, params["max_steps"]) for spec in specs)
        lengths = [sum(map(len, chat.segments(messages))) for messages in episodes]
        median, longest = statistics.median(lengths), max(lengths)
        print(f"| {split} | {median:.0f} | {statistics.quantiles(lengths, n=20)[-1]:.0f} | {longest} |")
    env.close()


def measure(folder: Path, games: int) -> dict[str, tuple[int, int]]:
    """Return (right, asked) by kind of question."""
    params = yaml.safe_load(Path("pretrain/params.yaml").read_text())
    model, chat = load_reader(folder)
    begin = params["corpus"]["games"]
    refusal = next(chat.segments((Message("user", NOTHING_HAPPENS),)))[1]
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for spec in itertools.islice(panels.panels({}, "train", params["seed"]), begin, begin + games):
        for messages in play_game((spec, params["corpus"] | {"episodes_per_game": 2}, params["seed"])):
            reading = read(model, chat, messages)
            for number in range(1, len(messages)):
                if outcome := outcome_of(messages[number - 1], messages[number][1]):
                    first = reading.ends[number - 1] + 1  # of the observation's text
                    found[outcome][0] += (reading.likely[first - 1] == refusal) == outcome.endswith("refused")
                    found[outcome][1] += 1
                kind = kind_of(messages[number - 1][1], messages[number][1])
                if messages[number][0] == "assistant" and kind:
                    found[kind][0] += reading.right(number)
                    found[kind][1] += 1
    return {kind: (right, asked) for kind, (right, asked) in sorted(found.items())}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--games", type=int, default=60)
    given = parser.parse_args()
    print_table(measure(given.model, given.games))


if __name__ == "__main__":
    main()
