"""Questions about what was just read, and lists to repeat: text that teaches reading, with no action of an expert."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from qlass.envs.alfworld.goals import Goal, parse_goal

_THING = r"[a-z]+ \d+"


@dataclass
class Notes:
    """What a reader of the observations knows so far: places in the order of the listing, and what was seen where."""

    observation: str
    places: list[str] = field(init=False)
    contents: dict[str, list[str]] = field(default_factory=dict)
    visited: list[str] = field(default_factory=list)
    held: str = ""
    here: str = field(init=False)

    def __post_init__(self) -> None:
        """Begin in the middle of the room: at no place, which the first one stands in for."""
        self.places = re.findall(_THING, self.observation.partition("Your task is to:")[0])
        self.here = self.places[0]

    def read(self, action: str, observation: str) -> None:
        """Take in one step."""
        if (go := re.fullmatch(rf"go to ({_THING})", action)) and "arrive" in observation:
            self.here = go[1]
            if go[1] not in self.visited:
                self.visited.append(go[1])
        for place, things in re.findall(
            rf"(?:On the|The) ({_THING})(?: is open\. In it|), you see (.*?)\.", observation
        ):
            self.contents[place] = re.findall(_THING, things)
        if found := re.search(rf"You pick up the ({_THING}) from the ({_THING})", observation):
            self.held = found[1]
            self.contents[found[2]] = [thing for thing in self.contents.get(found[2], []) if thing != found[1]]
        elif found := re.search(rf"You move the ({_THING}) to the ({_THING})", observation):
            self.held = ""
            self.contents.setdefault(found[2], []).append(found[1])

    def question(self, rng: random.Random) -> tuple[str, str]:
        """Draw a question and its answer."""
        seen = [(thing, place) for place, things in self.contents.items() for thing in things]
        kinds = ["goal", "unvisited", "been", "held", "holds", "kind"] + ["where", "list", "where", "kind"] * bool(
            seen
        )
        match rng.choice(kinds):
            case "goal":
                return "What is your task?", goal_text(self.observation)
            case "unvisited":
                left = [place for place in self.places if place not in self.visited]
                return "Which places have you not been to?", ", ".join(left[:6]) or "none"
            case "been":
                place = rng.choice(self.places)
                return f"Have you been to {place}?", "yes" if place in self.visited else "no"
            case "held":
                return "What do you hold?", self.held or "nothing"
            case "holds":
                near = (
                    f"{self.held.split()[0]} {rng.randint(1, 4)}"
                    if self.held
                    else rng.choice(seen or [("mug 1", "")])[0]
                )
                thing = self.held if self.held and rng.random() < 0.5 else near
                return f"Do you hold {thing}?", "yes" if thing == self.held else "no"
            case "kind":
                word = rng.choice([thing.split()[0] for thing, _ in seen] or ["mug"])
                if rng.random() < 0.4:
                    word = rng.choice(("mug", "plate", "book", "egg", "pen", "cloth", "candle", "apple", "vase", "cd"))
                found = [f"{thing} at {place}" for thing, place in seen if thing.split()[0] == word]
                return f"Did you see a {word}?", ", ".join(found[:4]) or "no"
            case "where":
                thing, _ = rng.choice(seen)
                return f"Where is {thing}?", ", ".join(place for other, place in seen if other == thing)
            case _:
                place = rng.choice(list(self.contents))
                return f"What is at {place}?", ", ".join(self.contents[place]) or "nothing"


def recall_conversation(names: Sequence[str], rng: random.Random) -> list[tuple[str, str]]:
    """Make up a list of things at places (names like "mug 2", at least 14 of them), then ask for it in several ways."""
    count = rng.randint(4, 14)
    facts = list(zip(rng.sample(names, count), rng.choices(names, k=count), strict=True))
    messages = [("user", " ".join(f"The {thing} is at {place}." for thing, place in facts))]
    for _ in range(rng.randint(3, 8)):
        thing, place = rng.choice(facts)
        match rng.randint(0, 4):
            case 0:
                messages.append(("user", f"Where is {thing}?"))
                messages.append(("assistant", place))
            case 1:
                messages.append(("user", "Repeat."))
                messages.append(("assistant", " ".join(f"The {a} is at {b}." for a, b in facts)))
            case 2:
                start = rng.randrange(len(facts))
                messages.append(("user", f"Which things come after {facts[start][0]}?"))
                messages.append(("assistant", ", ".join(a for a, _ in facts[start + 1 : start + 5]) or "none"))
            case 3:
                there = [a for a, b in facts if b == place]
                messages.append(("user", f"What is at {place}?"))
                messages.append(("assistant", ", ".join(there)))
            case _:
                gone = rng.sample([a for a, _ in facts], min(len(facts), rng.randint(1, 5)))
                messages.append(("user", "Not these: " + ", ".join(gone) + ". Which are left?"))
                messages.append(("assistant", ", ".join(a for a, _ in facts if a not in gone) or "none"))
    return messages


def with_reading_questions(messages: list[tuple[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    """Give a random episode a goal about something that it meets, and ask about what is in sight.

    The player never knew its goal, so another target is as good as the first. Matching the goal with what is seen, and
    telling the places that exist from those that do not, is reading; what to do about it stays for the expert's data.
    """
    goal = parse_goal(messages[1][1])
    met = [thing.split()[0] for _, text in messages[2:] if (place := _seen(text)) for thing in place[1]]
    target = rng.choice(met) if met and rng.random() < 0.8 else goal.target
    listing, marker, sentence = messages[1][1].partition("Your task is to:")
    sentence = re.sub(rf"\b{goal.target}\b", target, sentence, count=1)
    places = re.findall(_THING, listing)
    density = rng.choice((0.1, 0.5, 0.9))
    asked = [messages[0], ("user", f"{listing}{marker}{sentence}")]
    for role, text in messages[2:]:
        asked.append((role, text.replace(goal_text(messages[1][1]), sentence.strip())))
        place = _seen(text) if role == "user" else None
        if place is None:
            continue
        found = [thing for thing in place[1] if thing.split()[0] == target]
        if rng.random() < (0.9 if found else 0.6 * density):
            answer = f"yes, {found[0]} at {place[0]}" if found else "no"
            asked += [("user", "Do you see what your task needs?"), ("assistant", answer)]
        if rng.random() < density:
            asked += _sight_question(place, met, rng)
        if rng.random() < 0.5 * density:
            asked += _place_question(places, rng)
        if rng.random() < 0.05:
            needs = f"{target}, {goal.receptacle or goal.toggle}"
            asked += [("user", "What does your task need?"), ("assistant", needs)]
        if rng.random() < 0.1:
            asked += [("user", f"What must be done with the {target}?"), ("assistant", _treatment(goal))]
    return asked


def _treatment(goal: Goal) -> str:
    """Say what the task sentence asks for besides bringing the thing somewhere."""
    if goal.category == "look":
        return f"look at it under the {goal.toggle}"
    return f"{goal.category} it" if goal.category in {"clean", "heat", "cool"} else f"put it in {goal.receptacle}"


def _sight_question(place: tuple[str, list[str]], met: Sequence[str], rng: random.Random) -> list[tuple[str, str]]:
    """Ask whether a thing, or a kind of thing, is in sight; half of the answers are yes where anything is."""
    there = place[1]
    if rng.random() < 0.6:
        kind = (rng.choice(there) if there else rng.choice(met or ["mug"])).split()[0]
        thing = rng.choice(there) if there and rng.random() < 0.5 else f"{kind} {rng.randint(1, 4)}"
        return [("user", f"Is {thing} here?"), ("assistant", "yes" if thing in there else "no")]
    kind = rng.choice(there).split()[0] if there and rng.random() < 0.5 else rng.choice(met or ["mug"])
    here = [thing for thing in there if thing.split()[0] == kind]
    return [("user", f"Is there a {kind} here?"), ("assistant", f"yes, {', '.join(here)}" if here else "no")]


def _place_question(places: Sequence[str], rng: random.Random) -> list[tuple[str, str]]:
    """Ask which places of a kind the room has, or whether it has the next one by number."""
    kind = rng.choice(places).split()[0]
    same = sorted((place for place in places if place.split()[0] == kind), key=lambda place: int(place.split()[1]))
    if rng.random() < 0.3:
        return [("user", f"Which {kind}s does the room have?"), ("assistant", ", ".join(same))]
    if rng.random() < 0.5:
        number = rng.randint(1, len(same) + 2)
        return [
            ("user", f"Does the room have a {kind} {number}?"),
            ("assistant", "yes" if f"{kind} {number}" in same else "no"),
        ]
    number = rng.randint(1, len(same))
    later = f"{kind} {number + 1}"
    return [
        ("user", f"Which {kind} comes after {kind} {number}?"),
        ("assistant", later if later in same else "none"),
    ]


def goal_text(observation: str) -> str:
    """Return the goal sentence of a first observation."""
    return observation.partition("Your task is to:")[2].strip()


def _seen(observation: str) -> tuple[str, list[str]] | None:
    """Return the place that an observation shows, and the things there; None where it shows none."""
    found = re.search(rf"(?:On the|The) ({_THING})(?: is open\. In it|), you see (.*?)\.", observation)
    return (found[1], re.findall(_THING, found[2])) if found else None
