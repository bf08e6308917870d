"""The corpus of the reader of ScienceWorld: every answer is checked against the texts, by rules of the test's own."""

import random
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("scienceworld", reason="needs the extra sciworld")
pytest.importorskip("py4j", reason="needs the extra sciworld")

import pretrain.sciworld
from pretrain.conversations import Conversation
from pretrain.sciworld import exercises
from pretrain.sciworld.corpus import Turn, Walk, schedule, tell, walk
from pretrain.sciworld.tokens import REFUSALS
from pretrain.sciworld.world import LIFE_SPANS, specs
from qlass.envs.sciworld import DEFINITION
from qlass.envs.sciworld.adapter import SciworldEnv, normalise_action
from qlass.envs.sciworld.golden import GOLDSMITH
from qlass.envs.sciworld.panels import SPLITS
from qlass.prompts import parse_reply
from qlass.records import TaskSpec

SETTINGS = {"questions": 12, "renamed": 0.4}
TYPES = 10
AGES = "adult|baby|caterpillar|egg|hatchling|juvenile|larva|pupa|tadpole"


@pytest.fixture(scope="module")
def env():
    engine = SciworldEnv({})
    yield engine
    engine.close()
    GOLDSMITH.close()


@pytest.fixture(scope="module")
def walks(env: SciworldEnv) -> list[Walk]:
    return [walk(env, spec, 16, random.Random(number)) for number, spec in schedule(4, 5)]


@pytest.fixture(scope="module")
def told(walks: list[Walk]) -> list[Conversation]:
    return [tell(one, SETTINGS, random.Random(number)) for one in walks for number in range(10)]


class Past(NamedTuple):
    """What was read and done before an exercise."""

    task: str
    turns: list[tuple[str, str]]

    @property
    def listing(self) -> str:
        """The newest list of what is around; a teleport leads away from it."""
        for action, text in reversed(self.turns):
            if text.startswith("You teleport to"):
                return ""
            if action == "look around":
                return text
        return ""

    @property
    def lines(self) -> list[str]:
        return [line[1:] for line in self.listing.partition("You also see:")[0].splitlines() if line.startswith("\t")]

    @property
    def held(self) -> list[str]:
        held = []
        for action, text in self.turns:
            if text.startswith("You move the ") and action.startswith("pick up "):
                held += [action[8:]] if action[8:] not in held else []
            elif text.startswith("You move the "):
                held = [thing for thing in held if not action.startswith(f"move {thing} to ")]
        return held

    def last(self, pattern: str) -> str:
        return next((m[1] for _, text in reversed(self.turns) if (m := re.search(pattern, text))), "none")

    def limit(self) -> str:
        return self.task.split(" temperature is above ")[1].split(".0")[0]


def listed(names) -> str:
    return ", ".join(dict.fromkeys(names)) or "none"


def yes(right) -> str:
    return "yes" if right else "no"


def place(room: str) -> str:
    return room if room == "outside" else f"in the {room}"


def plain(line: str) -> str:
    return re.sub(r"^(an?|the|A) ", "", re.split(r"[.,(]| in the \w+ stage", line)[0].strip()).removeprefix(
        "substance called "
    )


def need(task: str) -> str:
    if "find a(n)" in task:
        kind = task.split("find a(n) ")[1].split(".", maxsplit=1)[0]
        return f"an {kind}" if kind == "animal" else f"a {kind}"
    return re.split(r"ocus on the ", task)[1].split(".")[0]


def names(past: Past) -> list[str]:
    """Return everything that a list names, cut at all that can stand between two names."""
    text = "; ".join(past.lines)
    text = re.sub(
        r", which is [a-z ]+|, currently reading a temperature of -?\d+ degrees celsius| in the \w+ stage( with a \w+ height)?",
        "",
        text,
    )
    text = re.sub(r"The [^.;]+? door is (open|closed)\.", ";", text)
    text = re.sub(r"\(containing |[.)]+|\b(?:On|In) the [^:]+? is:", ";", text)
    parts = [re.sub(r"^(an?|the|A) |^", "", part.strip()).strip() for part in re.split(r"[;,]| \(", text)]
    return [part.removeprefix("substance called ") for part in parts if part and part != "nothing"]


def animals(past: Past) -> list[str]:
    return [plain(line) for line in past.lines if re.search(rf"\b(?:{AGES})\b", plain(line))]


def wires(past: Past) -> list[str]:
    return re.findall(r"\ba ([a-z]+ wire)\b", past.listing)


def connected(past: Past) -> list[str]:
    said = " ".join(text for _, text in past.turns if " is now connected to " in text)
    return [wire for wire in wires(past) if f"on {wire}" in said]


def is_in(past: Past, name: str, holder: str) -> bool:
    inner = rf"(?<=[ (]){re.escape(name)}(?=[ ,.)]|$)"
    holder = re.escape(holder)
    return any(
        re.search(rf"\b{holder} \(containing [^()]*{inner}|[OI]n the {holder} is:.*{inner}", line)
        for line in past.lines
    )


def lives(past: Past, which: str) -> str:
    spans = {animal: LIFE_SPANS[re.sub(rf" ?\b(?:{AGES})\b ?", "", animal)] for animal in animals(past)}
    return (max if which == "longest" else min)(spans, key=spans.__getitem__)


RULES = {
    r"What do I need\?": lambda past: need(past.task),
    r"What must I focus on\?": lambda past: listed(
        part.split(".")[0] for part in re.split("ocus on the ", past.task)[1:]
    ),
    r"Which box does the task name\?": lambda past: past.task.split("move it to the ")[1].split(" in ")[0],
    r"Where is (.+ box)\?": lambda past, box: place(past.task.split(f"{box} in the ")[1].rstrip(".")),
    r"Where are the boxes\?": lambda past: place(past.task.split("boxes are located around the ")[1].rstrip(".")),
    r"Where are the animals\?": lambda past: place(past.task.split("'")[1]),
    r"Where is (.+)\?": lambda past, _: place(past.task.split("located around the ")[1].split(".")[0]),
    r"Is (-?\d+) above (-?\d+)\?": lambda past, one, other: yes(int(one) > int(other) == int(past.limit())),
    r"Which box is for (above|below)\?": lambda past, side: (
        past.task.split(f"is {side} ")[1].split("place it in the ")[1].split(".")[0]
    ),
    r"Which animals are here\?": lambda past: listed(animals(past)),
    r"Which lives (longest|shortest)\?": lives,
    r"Which plants are here\?": lambda past: listed(
        re.findall(r"(?:, |\ba |\ban )([a-z -]+?) in the \w+ stage", past.listing)
    ),
    r"Which wires are here\?": lambda past: listed(wires(past)),
    r"Which did I connect\?": lambda past: listed(connected(past)),
    r"What is empty here\?": lambda past: (
        ", ".join(re.findall(r"\b(?:an?|the) ([a-z0-9 ]+?) \(containing nothing\)", past.listing)) or "none"
    ),
    r"Is (.+) here\?": lambda past, name: yes(name in names(past)),
    r"Which doors are here\?": lambda past: listed(re.findall(r"\tA door to the ([a-z ]+?) \(", past.listing)),
    r"What is here\?": lambda past: ", ".join(map(plain, past.lines)),
    r"What do I have\?": lambda past: listed(past.held),
    r"Do I have (.+)\?": lambda past, name: yes(name in past.held),
    r"What did I focus on\?": lambda past: past.last(r"^You focus on the (.+)\.$"),
    r"Where am I\?": lambda past: place(
        past.last(r"^You teleport to the (.+)\.$|x{9}")
        if not past.listing
        else re.search(r"called the ([a-z ]+)\.", past.listing)[1]
    ),
    r"Did I go to (.+)\?": lambda past, room: yes(
        any(text == f"You teleport to the {room}." for _, text in past.turns)
    ),
    r"How warm is it\?": lambda past: past.last(r"measures a temperature of (-?\d+)"),
    r"What did I do last\?": lambda past: past.turns[-1][0],
}
"""The answer by question, from the texts alone; `What is X in?` is checked by itself."""

HOLDER = r"What is (.+) in\?"


def exercises_of(messages: Conversation):
    """Yield (kind, question, what the assistant said, what was before)."""
    past = Past(messages[1][1], [])
    for number in range(2, len(messages)):
        role, text = messages[number]
        if number in messages.kinds:
            yield messages.kinds[number], messages[number - 1][1], text, past
        elif role == "assistant":
            past.turns.append((parse_reply(text)[1], messages[number + 1][1]))


def chain_of(text: str) -> list[tuple[str, str]]:
    """Cut what was said into questions and answers."""
    return re.findall(r"([A-Z][^?]*\?) (.+?)\.(?= [A-Z]|$)", text)


def checked(question: str, answer: str, past: Past) -> bool:
    """Return whether an answer is what the texts say."""
    if asked := re.fullmatch(HOLDER, question):
        return is_in(past, asked[1], answer)
    for pattern, rule in RULES.items():
        if asked := re.fullmatch(pattern, question):
            return rule(past, *asked.groups()) == answer
    raise AssertionError(f"no rule for {question}")


def test_answers_are_what_the_texts_say(told: list[Conversation]) -> None:
    count: Counter[str] = Counter()
    for messages in told:
        for kind, question, said, past in exercises_of(messages):
            chain = chain_of(said)
            assert chain[-1][0] == question
            for part, answer in chain:
                assert checked(part, answer, past), (part, answer, past.task, past.turns[-3:])
            count[kind] += 1
    asked = {kind for group in (exercises.TASK, exercises.HERE, exercises.MEMORY) for kind in group}
    assert set(count) == asked
    assert min(count.values()) >= 3


def test_answers_of_yes_and_no_are_both_frequent(told: list[Conversation]) -> None:
    answers: dict[str, Counter[str]] = {}
    for messages in told:
        for kind, _, said, _ in exercises_of(messages):
            if (word := said.split()[-1]) in ("yes.", "no."):
                answers.setdefault(kind, Counter())[word] += 1
    assert len(answers) == 4
    for kind, count in answers.items():
        assert min(count.values()) > 0.2 * count.total(), (kind, count)


def test_thoughts_ask_what_exercises_ask(told: list[Conversation]) -> None:
    thoughts = [parse_reply(text)[0] for messages in told for role, text in messages if role == "assistant"]
    asked = [part for thought in thoughts for part, _ in chain_of(thought)]
    assert len(asked) > 100
    assert all(any(re.fullmatch(rule, part) for rule in (*RULES, HOLDER)) for part in asked)


def test_the_expert_asks_what_exercises_ask(env: SciworldEnv) -> None:
    asked = 0
    for name in ("lifespan-longest-lived", "find-plant", "find-non-living-thing"):
        key = {"task": name, "variation": 3, "containers": "open"}
        spec = TaskSpec("x", "sciworld", "train", name, key)
        expert, (text, _) = DEFINITION.make_expert(spec, 0), env.reset(spec)
        past, over = Past(text, []), False
        while not over:
            thought, action = expert.act(text)
            for part, answer in chain_of(thought):
                assert checked(part, answer, past), (part, answer)
                asked += 1
            text, _, over, _, _ = env.step(action)
            past.turns.append((action, text))
    assert asked >= 10


def test_life_spans_are_the_packages(env: SciworldEnv) -> None:
    animals = env._simulator._gateway.jvm.scienceworld.objects.livingthing.animals
    for name, years in LIFE_SPANS.items():
        kind = getattr(animals, {"common toad": "Toad"}.get(name, name.title().replace(" ", "")))()
        assert (kind.name(), kind.propLife().get().lifespanTypical()) == (name, pytest.approx(years))


def test_its_tasks_are_those_of_train_and_none_of_another_split() -> None:
    mine = {(spec.key["task"], spec.key["variation"]) for spec in specs()}
    splits = {
        split: {(spec.key["task"], spec.key["variation"]) for spec in DEFINITION.panels({}, split, 0)}
        for split in SPLITS
    }
    assert splits.pop("train") <= mine
    assert all(mine.isdisjoint(others) for others in splits.values())
    assert len(mine) == len(specs())


def test_every_type_gets_as_many_walks() -> None:
    tasks = schedule(12, 5)
    assert [number for number, _ in tasks] == list(range(120))
    assert set(Counter(spec.category for _, spec in tasks).values()) == {12}
    assert len({spec.task_id for _, spec in tasks if spec.category == "power-component"}) == 8
    assert tasks == schedule(12, 5) != schedule(12, 6)


def test_no_golden_path_is_asked_for() -> None:
    for path in Path(pretrain.sciworld.__file__).parent.glob("*.py"):
        if path.name != "measure.py":
            assert not re.search(r"GOLDSMITH|Goldsmith|[Ee]xpert\(|make_expert|golden=", path.read_text()), path


def test_most_actions_are_possible_and_in_normal_form(walks: list[Walk]) -> None:
    turns = [turn for one in walks for turn in one.turns]
    refused = sum(turn.text.startswith(REFUSALS) for turn in turns)
    assert 0 < refused < 0.15 * len(turns)
    assert all(turn.action == normalise_action(turn.action) for turn in turns)
    assert len({turn.action.split()[0] for turn in turns}) >= 12


def test_a_walk_is_the_same_again(env: SciworldEnv) -> None:
    _, spec = schedule(1, 5)[2]
    first, again, other = (walk(env, spec, 10, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert tell(first, SETTINGS, random.Random(1)) == tell(again, SETTINGS, random.Random(1))


def test_made_up_names_stand_wherever_the_names_stood() -> None:
    listing = "This room is called the hallway. In it, you see: \n\tthe agent\n\ta baby wolf\n\ta lighter\n"
    one = Walk(
        "Your task is to turn it on. It is above 50.0 degrees celsius",
        [
            Turn("look around", listing),
            Turn("focus on baby wolf", "You focus on the baby wolf."),
            Turn("use thermometer on lighter", "the thermometer measures a temperature of 50 degrees celsius"),
        ],
    )
    animals, degrees = set(), set()
    for seed in range(12):
        text = "\n".join(said for _, said in tell(one, {"questions": 1, "renamed": 1.0}, random.Random(seed))[1:])
        found = set(re.findall(r"baby (\w+)", text))
        assert len(found) == 1
        animals |= found
        found = set(re.findall(r"(-?\d+)(?:\.0)? degrees", text))
        assert len(found) == 1
        degrees |= found
        assert "\tthe agent\n" in text
        assert "called the hallway" in text
    assert len(animals) >= 4
    assert len(degrees) >= 10
