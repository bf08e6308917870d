"""WebShop: steps per CPU second, and branching from a state in the middle of an episode.

webshop_step_warm_vs_cold   the expert's episodes once more, when pages, hits and rewards are known, against the first time
webshop_branch_vs_replay    one action from a kept state (restore) against the released code's way: reset, replay the prefix

Each side of a comparison plays on the same engine, the generated catalogue with its default options. The first row needs
a process that has not played yet.
"""

from __future__ import annotations

import random
from importlib.util import find_spec
from itertools import islice
from time import process_time

from benchmarks.rows import Row, cpu_seconds
from qlass.envs import get_definition
from qlass.envs.core.base import Snapshot, StepResult, TextEnv
from qlass.envs.webshop.expert import PATIENCE
from qlass.records import TaskSpec

WEBSHOP = get_definition("webshop")

Episode = tuple[TaskSpec, list[str]]
"""A task and actions."""

Fork = tuple[TaskSpec, list[str], list[str]]
"""A task, the actions that lead to a state, and the actions to try there."""


def first_play(env: TextEnv, spec: TaskSpec) -> tuple[list[str], list[StepResult], float]:
    """Let the expert play a task; return actions, answers, and the CPU seconds of the engine alone."""
    expert = WEBSHOP.make_expert(spec, 0)
    actions: list[str] = []
    answers: list[StepResult] = []
    start = process_time()
    observation, _ = env.reset(spec)
    seconds, over = process_time() - start, False
    while not over and len(actions) < PATIENCE:
        actions.append(expert.act(observation)[1])
        start = process_time()
        answers.append(env.step(actions[-1]))
        seconds += process_time() - start
        observation, _, over, _, _ = answers[-1]
    return actions, answers, seconds


def play(env: TextEnv, episodes: list[Episode]) -> list[StepResult]:
    """Play given actions."""
    answers = []
    for spec, actions in episodes:
        env.reset(spec)
        answers += [env.step(action) for action in actions]
    return answers


def forks(env: TextEnv, episodes: list[Episode], branches: int) -> tuple[list[Fork], list[Snapshot]]:
    """Return what to try at each state of the episodes, the action taken there or others that are offered, and the states."""
    rng, found, kept = random.Random(0), [], []
    for spec, actions in episodes:
        offered = env.reset(spec)[1]["admissible_actions"]
        for place, action in enumerate(actions):
            found.append((spec, actions[:place], rng.choices([action, *offered], k=branches)))
            kept.append(env.snapshot())
            offered = env.step(action)[4]["admissible_actions"]
    return found, kept


def branched(env: TextEnv, tried: list[Fork], kept: list[Snapshot]) -> list[StepResult]:
    """Try each action from a kept state."""
    answers = []
    for (_, _, actions), state in zip(tried, kept, strict=True):
        for action in actions:
            env.restore(state)
            answers.append(env.step(action))
    return answers


def replayed(env: TextEnv, tried: list[Fork]) -> list[StepResult]:
    """Try each action as the released code does: reset, play the prefix again, act."""
    answers = []
    for spec, prefix, actions in tried:
        for action in actions:
            env.reset(spec)
            for before in prefix:
                env.step(before)
            answers.append(env.step(action))
    return answers


def rows(tasks: int = 200, branches: int = 4, rounds: int = 5) -> list[Row]:
    """Measure both comparisons."""
    if not all(map(find_spec, WEBSHOP.packages)):
        print("webshop: left out, its packages are not installed (extra `webshop`)")
        return []
    env = WEBSHOP.make({})
    episodes, expected, cold = [], [], 0.0
    for spec in islice(WEBSHOP.panels({}, "train", 0), tasks):
        actions, answers, seconds = first_play(env, spec)
        episodes.append((spec, actions))
        expected += answers
        cold += seconds
    if play(env, episodes) != expected:
        raise SystemExit("webshop: a second play differs from the first")
    warm = cpu_seconds(lambda: [play(env, episodes) for _ in range(rounds)]) / rounds
    tried, kept = forks(env, episodes, branches)
    if branched(env, tried, kept) != replayed(env, tried):
        raise SystemExit("webshop: branching and replay differ")
    ours = cpu_seconds(lambda: [branched(env, tried, kept) for _ in range(rounds)]) / rounds
    other = cpu_seconds(lambda: [replayed(env, tried) for _ in range(rounds)]) / rounds
    steps, count = len(expected), len(tried) * branches
    played = f"{tasks} episodes of the expert, {steps} steps, {WEBSHOP.label_of({})}"
    return [
        Row.of("webshop_step_warm_vs_cold", steps / warm, steps / cold, "steps per CPU second", played),
        Row.of(
            "webshop_branch_vs_replay",
            count / ours,
            count / other,
            "branches per CPU second",
            f"{played}; {branches} actions at each state, pages known; other: reset, replay, act",
        ),
    ]
