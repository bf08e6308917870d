"""ALFWorld's engines: steps per CPU second, and branching from a state in the middle of an episode.

alfworld_step_vs_stock      steps with admissible commands, as `alfworld_step.py` (which prints more) compares them
alfworld_branch_vs_replay   one action from a kept state (restore) against the stock engine's way: reset, replay the prefix
"""

from __future__ import annotations

import random
import tempfile
from itertools import islice
from pathlib import Path

from benchmarks.alfworld_step import Stock, draw_episodes, forget, measure
from benchmarks.rows import Row, cpu_seconds
from qlass.envs.alfworld.engine import TextworldEngine
from qlass.envs.alfworld.games import load_game
from qlass.envs.alfworld.gamestore import GameStore
from qlass.envs.alfworld.library import require_alfworld
from qlass.envs.alfworld.native import NativeEngine
from qlass.envs.alfworld.panels import panels

Answers = list[tuple[str, bool]]
"""Feedback, and whether the goal holds."""


def replayed(engine: Stock, prefix: list[str], actions: list[str]) -> Answers:
    """Try each action after a prefix as the released code does: reset, play the prefix again, act."""
    found = []
    for action in actions:
        engine.reset()
        for command in [*prefix, action]:
            feedback, _ = engine.step(command)
        found.append((feedback.strip(), engine.won()))
    return found


def branched(engine: TextworldEngine | NativeEngine, prefix: list[str], actions: list[str]) -> tuple[Answers, float]:
    """Try each action from a kept state; return the answers and the CPU seconds, the one way to the state not counted."""
    engine.reset()
    for command in prefix:
        engine.step(command)
    kept = engine.snapshot()
    found: Answers = []

    def work() -> None:
        for action in actions:
            engine.restore(kept)  # type: ignore[arg-type]  # each engine gets its own
            feedback, _ = engine.step(action)
            found.append((feedback.strip(), engine.won()))

    return found, cpu_seconds(work)


def rows(games: int = 4, episodes: int = 2, steps: int = 20, branches: int = 4) -> list[Row]:
    """Measure both comparisons, for the engine of the default run and for the native one."""
    with tempfile.TemporaryDirectory() as folder:
        require_alfworld(Path(folder))
        loaded = [load_game(spec.key, {}) for spec in islice(panels({}, "train", 0), games)]
        rng = random.Random(0)
        plans = [draw_episodes(game, rng, episodes, steps) for game in loaded]
        store = GameStore(Path(folder))
        for game in loaded:
            store.get(game)  # once per problem and disk
        makers = {"textworld": lambda: TextworldEngine(store), "native": NativeEngine}
        stock, expected = measure(Stock, loaded, plans)
        found = []
        for name, make in makers.items():
            forget()
            cost, answers = measure(make, loaded, plans)
            if answers != expected:
                raise SystemExit(f"{name} and stock differ")
            how = f"{games} games, {len(expected)} random steps, commands listed; engine {name}, second episode of a game"
            found.append(
                Row.of(
                    f"alfworld_step_vs_stock ({name})", 1 / cost.later, 1 / stock.later, "steps per CPU second", how
                )
            )
        seconds = dict.fromkeys(["stock", *makers], 0.0)
        engine = Stock()
        for game, (plan, *_) in zip(loaded, plans, strict=True):
            prefix, actions = plan[: steps // 2], plan[steps // 2 : steps // 2 + branches]
            engine.load(game)
            expected_here: Answers = []
            seconds["stock"] += cpu_seconds(lambda: expected_here.extend(replayed(engine, prefix, actions)))  # noqa: B023
            for name, make in makers.items():
                forget()
                ours = make()
                ours.load(game)
                answers_here, spent = branched(ours, prefix, actions)
                if answers_here != expected_here:
                    raise SystemExit(f"{name}: branching and replay differ")
                seconds[name] += spent
    count = games * branches
    how = f"{games} games, {branches} actions each after {steps // 2} steps; stock: reset, replay, act"
    unit = "branches per CPU second"
    return found + [
        Row.of(f"alfworld_branch_vs_replay ({name})", count / seconds[name], count / seconds["stock"], unit, how)
        for name in makers
    ]
