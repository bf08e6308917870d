"""Steps per second of ALFWorld's three engines, side by side in one process: `python benchmarks/alfworld_step.py`.

stock      textworld.envs.pddl.PddlEnv with alfworld's names, as AlfredTWEnv plays
textworld  qlass.envs.alfworld.engine: the same state machine and parsers, made fast
native     qlass.envs.alfworld.native: plain Python

All play the same random actions in the same games and must answer alike, else the run fails. A step is: execute a
command, say whether the goal holds, list the admissible commands (the stock engine does all three whether asked or not).
Times are CPU seconds of this process; a first episode of a game fills memories, later ones have other actions.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

from qlass.envs.alfworld.engine import TextworldEngine
from qlass.envs.alfworld.games import load_game
from qlass.envs.alfworld.gamestore import GameStore
from qlass.envs.alfworld.library import require_alfworld
from qlass.envs.alfworld.native import NativeEngine
from qlass.envs.alfworld.native.engine import shared_game
from qlass.envs.alfworld.panels import panels

Episode = list[str]
"""Commands."""

Answer = tuple[str, bool, list[str]]
"""Feedback, whether the goal holds, admissible commands."""


class Stock:
    """The stock engine with the methods of ours."""

    def __init__(self) -> None:
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.envs.pddl import PddlEnv

        self._env = AlfredDemangler(PddlEnv(), shuffle=False)

    def load(self, game: dict[str, Any]) -> None:
        """Load a game."""
        argv = sys.argv
        self._env.load(game)
        sys.argv = argv

    def reset(self) -> str:
        """Go to the first state; return the introduction."""
        argv = sys.argv
        self._state = self._env.reset()
        sys.argv = argv
        return str(self._state.feedback)

    def step(self, command: str) -> tuple[str, bool]:
        """Execute a command; return (feedback, True)."""
        self._state, _, _ = self._env.step(command)
        return self._state.feedback, True

    def won(self) -> bool:
        """Return whether the goal holds."""
        return bool(self._state["won"])

    def admissible_commands(self) -> list[str]:
        """Return the admissible commands, sorted."""
        return list(self._state["admissible_commands"])


class Cost(NamedTuple):
    """CPU seconds: of load and first reset per game; per step in first and in later episodes."""

    load: float
    first: float
    later: float


def draw_episodes(game: dict[str, Any], rng: random.Random, episodes: int, steps: int) -> list[Episode]:
    """Return random episodes of a game: a kind of command is drawn first, walking half of the time."""
    engine, drawn = NativeEngine(), []
    engine.load(game)
    for _ in range(episodes):
        engine.reset()
        drawn.append([])
        for _ in range(steps):
            commands = engine.admissible_commands()
            going = [command for command in commands if command.startswith("go ")]
            verb = rng.choice(sorted({command.split()[0] for command in commands} - {"go", "help"}))
            doing = [command for command in commands if command.split()[0] == verb]
            drawn[-1].append(rng.choice(going if rng.random() < 0.5 else doing))
            engine.step(drawn[-1][-1])
    return drawn


def play(engine: Any, episodes: list[Episode], *, listed: bool = True) -> tuple[list[float], list[Answer]]:
    """Play episodes of the loaded game; return CPU seconds per step of each, and the answers."""
    costs, answers = [], []
    for episode in episodes:
        engine.reset()
        start = process_time()
        for command in episode:
            feedback, _ = engine.step(command)
            answers.append((feedback.strip(), engine.won(), engine.admissible_commands() if listed else []))
        costs.append((process_time() - start) / len(episode))
    return costs, answers


def measure(
    make: Callable[[], Any], games: list[dict[str, Any]], plans: list[list[Episode]], *, listed: bool = True
) -> tuple[Cost, list[Answer]]:
    """Play all games on one engine; return mean costs and all answers."""
    gc.collect()  # else the collector's visits to what the engines before have left fall into somebody's time
    gc.freeze()
    engine, loads, first, later, answers = make(), [], [], [], []
    for game, episodes in zip(games, plans, strict=True):
        start = process_time()
        engine.load(game)
        engine.reset()
        loads.append(process_time() - start)
        costs, said = play(engine, episodes, listed=listed)
        first, later, answers = [*first, costs[0]], [*later, *costs[1:]], [*answers, *said]
    return Cost(_mean(loads), _mean(first), _mean(later or first)), answers


def forget() -> None:
    """Forget the games that the native engine has read in this process."""
    shared_game.cache_clear()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _line(name: str, cost: Cost, stock: Cost) -> str:
    cells = [f"{name:<28}", f"{1e3 * cost.load:9.1f} ms"]
    for mine, theirs in ((cost.first, stock.first), (cost.later, stock.later)):
        cells.append(f"{1e6 * mine:9.1f} us {1 / mine:10,.0f}/s {theirs / mine:8,.0f}x")
    return "  ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=8, help="games of the split train, all task types (default 8)")
    parser.add_argument("--episodes", type=int, default=4, help="episodes per game (default 4)")
    parser.add_argument("--steps", type=int, default=30, help="steps per episode (default 30)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        require_alfworld(Path(folder))
        games = [load_game(spec.key, {}) for spec in islice(panels({}, "train", 0), arguments.games)]
        rng = random.Random(0)
        plans = [draw_episodes(game, rng, arguments.episodes, arguments.steps) for game in games]
        forget()
        translated = GameStore(Path(folder))
        for game in games:
            translated.get(game)  # once per problem and disk, as every user of the engine `textworld` has it
        stock, expected = measure(Stock, games, plans)
        rows = {}
        for name, make in (("textworld", lambda: TextworldEngine(GameStore(Path(folder)))), ("native", NativeEngine)):
            rows[name], answers = measure(make, games, plans)
            if answers != expected:
                raise SystemExit(f"{name} and stock differ")
            forget()
            rows[f"{name}, nothing listed"], _ = measure(make, games, plans, listed=False)
    print(f"{arguments.games} games, {len(expected)} steps, all answers equal; load average {os.getloadavg()[0]:.1f}")
    print(f"{'CPU time':<28}  {'load, reset':>12}  {'step, first episode':>36}  {'step, later episodes':>36}")
    for name, cost in {"stock": stock, **rows}.items():
        print(_line(name, cost, stock))


if __name__ == "__main__":
    main()
