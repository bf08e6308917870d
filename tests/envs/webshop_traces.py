"""Episodes on the generated catalogue, frozen in webshop_traces.jsonl: a change of a page or a reward shows as a diff.

Run `python -m tests.envs.webshop_traces` to play them again, after a change that is meant to be seen.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from qlass.envs import get_definition
from qlass.envs.core.base import Info, TextEnv
from qlass.envs.webshop.pages import MODES
from qlass.jsonl import to_json
from qlass.records import TaskSpec

FILE = Path(__file__).with_name("webshop_traces.jsonl")
N_EPISODES, MAX_STEPS = 8, 12
JUNK = ("", "search[]", "click[search]", "click[a[b]]", "Click[buy now]", "search[the of]")
"""What an agent may write, too."""

WEBSHOP = get_definition("webshop")


def options(mode: str) -> dict[str, Any]:
    """Return the options of the frozen episodes."""
    return {"size": 200, "seed": 0, "mode": mode}


def row(action: str | None, observation: str, reward: float, terminated: bool, info: Info) -> dict[str, Any]:
    """Return what is frozen of a step; the first one has no action."""
    return {
        "action": action,
        "observation": observation,
        "admissible": list(info["admissible_actions"]),
        "valid": info["valid"],
        "reward": reward,
        "terminated": terminated,
    }


def replay(env: TextEnv, spec: TaskSpec, actions: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of an episode."""
    observation, info = env.reset(spec)
    yield row(None, observation, 0.0, False, info)
    for action in actions:
        observation, reward, terminated, _, info = env.step(action)
        yield row(action, observation, reward, terminated, info)


def play(env: TextEnv, spec: TaskSpec, number: int) -> list[dict[str, Any]]:
    """Let the expert play, or chance in every second episode."""
    rng, expert = random.Random(number), WEBSHOP.make_expert(spec, number)
    observation, info = env.reset(spec)
    rows = [row(None, observation, 0.0, False, info)]
    while len(rows) <= MAX_STEPS and not rows[-1]["terminated"]:
        if number % 4 < 2:
            action = expert.act(observation)[1]
        elif rng.random() < 0.25 or not info["admissible_actions"]:
            action = rng.choice([*JUNK, *[f"search[{rng.choice(['blue', 'soft', 'set of 2'])} {spec.category}]"] * 3])
        else:
            action = rng.choice(info["admissible_actions"])
        observation, reward, terminated, _, info = env.step(action)
        rows.append(row(action, observation, reward, terminated, info))
    return rows


def main() -> None:
    """Write the file."""
    lines = []
    for number, spec in enumerate(islice(WEBSHOP.panels(options("text"), "train", 0), N_EPISODES)):
        mode = MODES[number % 2]
        steps = play(WEBSHOP.make(options(mode)), spec, number)
        lines.append(json.dumps({"mode": mode, "spec": to_json(spec), "steps": steps}))
    FILE.write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
