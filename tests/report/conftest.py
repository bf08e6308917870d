"""Small but real-shaped inputs of a report, written with the writers that the stages use; equal arguments give equal files."""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from qlass.jsonl import write_json, write_records
from qlass.labels.backup import label_tree
from qlass.labels.table import labels_to_parquet
from qlass.records import Cost, Episode, ExplorationTree, Node, Step
from qlass.report import EnvInputs, ReportInputs

CATEGORIES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
MAX_STEPS = 40
TRAPS = 0.07
SKILL = {
    "base": 0.05,
    "sft": 0.55,
    "best_of_n": 0.62,
    "best_of_n_likelihood": 0.2,
    "qlass": 0.72,
    "qlass_adaptive": 0.75,
}
NASTY = "You see <script>alert('x')</script> & a \"mug\" </td><img src=http://example.com/x.png onerror=alert(1)>."

_PLACES = (
    "countertop 1",
    "cabinet 3",
    "fridge 1",
    "sinkbasin 1",
    "drawer 2",
    "shelf 1",
    "coffeemachine 1",
    "diningtable 1",
)
_THINGS = (
    "a mug 2",
    "an apple 1",
    "a saltshaker 3, and a spoon 1",
    "a dishsponge 2, a knife 1, and a tomato 3",
    "nothing",
)


@dataclass
class World:
    """A game reduced to its length: `left` right actions still to do, wrong ones only cost time."""

    rng: random.Random
    left: int
    taken: int = 0

    def step(self, skill: float) -> Step:
        """Act with the given share of right actions."""
        self.taken += 1
        right = self.rng.random() < skill
        self.left -= right
        if not right and self.rng.random() < TRAPS:
            self.left = 10 * MAX_STEPS  # some mistakes cannot be undone
        place = self.rng.choice(_PLACES)
        actions = (f"go to {place}", f"open {place}", f"take mug 2 from {place}", "examine mug 2", "inventory")
        action = self.rng.choice(actions)
        done = self.left <= 0
        if done:
            action, place = "move mug 2 to coffeemachine 1", "coffeemachine 1"
        observation = f"You arrive at {place}. On the {place}, you see {self.rng.choice(_THINGS)}."
        if done:
            observation = "You move the mug 2 to the coffeemachine 1."
        elif not right and self.rng.random() < 0.25:
            observation = "Nothing happens."
        return Step(
            thought="I still have to find a mug & clean it." if self.taken % 3 == 1 else "",
            action=action,
            observation=observation,
            reward=float(done),
            terminated=done,
            truncated=not done and self.taken >= MAX_STEPS,
            valid=observation != "Nothing happens.",
        )


def play(rng: random.Random, skill: float, length: int) -> tuple[Step, ...]:
    """Play one episode."""
    world, steps = World(rng, length), []
    while not steps or not (steps[-1].terminated or steps[-1].truncated):
        steps.append(world.step(skill))
    return tuple(steps)


def first_observation(number: int) -> str:
    """Return a room and a goal."""
    places = ", ".join(f"a {place}" for place in _PLACES)
    return (
        f"You are in the middle of a room. Looking quickly around you, you see {places}.\n\n"
        f"Your task is to: put a clean mug in coffeemachine. (game {number})"
    )


def episode(method: str, split: str, number: int, seed: int) -> Episode:
    """Return one evaluated episode."""
    rng = random.Random(f"{method} {split} {number} {seed}")
    steps = play(rng, SKILL[method], 7 + number % 6 * 2)
    candidates: list[tuple[tuple[str, float], ...]] = []
    if method == "qlass":
        for step in steps:
            q = rng.random()
            others = [(f"go to {rng.choice(_PLACES)} again", q * rng.random()) for _ in range(rng.randrange(3))]
            candidates.append(((step.action, q), *others))
    rollouts = {"best_of_n": 6, "qlass": 4}.get(method, 1)
    tokens = sum(6 + len(step.action) // 4 for step in steps) * rollouts
    return Episode(
        task_id=f"alfworld/{split}/{number:05d}",
        category=CATEGORIES[number % len(CATEGORIES)],
        method=method,
        seed=seed,
        outcome=steps[-1].reward,
        success=steps[-1].terminated,
        observation=first_observation(number) if number else f"{first_observation(number)}\n{NASTY}",
        steps=steps,
        cost=Cost(tokens, 40 * tokens, len(steps) * rollouts, len(steps) * 4 * (method == "qlass"), len(steps)),
        error="",
        candidates=tuple(candidates),
    )


def tree(number: int, width: int = 2, depth: int = 5, skill: float = 0.45) -> ExplorationTree:
    """Return one exploration tree, grown as the explore stage grows it: rollouts first, then siblings along them."""
    rng = random.Random(f"tree {number}")
    length = 6 + number % 5
    nodes: list[Node] = []
    left: dict[int, int] = {-1: length}
    queue = [-1]
    stopped = 0

    def rollout(parent: int, origin: str) -> list[int]:
        at = nodes[parent].depth if parent >= 0 else 0
        world, made = World(rng, left[parent], at), []
        while not made or not (nodes[-1].step.terminated or nodes[-1].step.truncated):
            step = world.step(1.0 if origin == "expert" else skill)
            kind = origin if origin == "expert" or not made else "rollout"
            nodes.append(Node(len(nodes), parent, at + len(made) + 1, step, kind, -rng.random()))  # type: ignore[arg-type]
            parent = len(nodes) - 1
            left[parent] = world.left
            made.append(parent)
        return made

    queue.extend(rollout(-1, "expert")[:depth])
    while queue:
        parent = queue.pop(0)
        children = sum(node.parent_id == parent for node in nodes)
        while children < width and (parent < 0 or not nodes[parent].step.terminated):
            made = rollout(parent, "expansion")
            children += 1
            if nodes[made[-1]].step.reward > 0:
                queue.extend(node for node in made if nodes[node].depth < depth)
            else:
                stopped += 1
    tokens = sum(6 + len(node.step.action) // 4 for node in nodes)
    cost = Cost(tokens, 30 * tokens, len(nodes), 0, len(nodes))
    task = f"alfworld/train/{number:05d}"
    return ExplorationTree(task, first_observation(number), tuple(nodes), number % 7, number % 2, stopped, False, cost)


def write_samples(root: Path, tasks: int = 12, seeds: Sequence[int] = (0, 1), trees: int = 6) -> ReportInputs:
    """Write every input file under `root` and return what `build_report` takes."""
    episodes = {}
    for method in SKILL:
        for split in ("test_seen", "test_unseen"):
            path = root / "evaluate" / "alfworld" / f"{method}-{split}" / "episodes.jsonl"
            # Greedy methods run once.
            runs = seeds if method in ("qlass", "best_of_n") else seeds[:1]
            write_records(path, [episode(method, split, n, s) for n in range(tasks) for s in runs], Episode)
            episodes[method, split] = path
    grown = [tree(number) for number in range(trees)]
    write_records(root / "explore" / "alfworld" / "trees.jsonl", grown, ExplorationTree)
    labels = [label for one in grown for label in label_tree(one, gamma=0.9)]
    labels_to_parquet(root / "label" / "alfworld" / "labels.parquet", labels)
    _write_series(root)
    panels = {}
    for split in ("test_seen", "test_unseen"):
        panels[split] = root / "expert" / "alfworld" / "panels" / f"{split}.json"
        write_json(
            panels[split], {"split": split, "env": "alfworld", "count": tasks, "sha256": "ab" * 32, "tasks": []}
        )
    write_json(
        root / "sft" / "alfworld" / "metrics.json", {"loss": 0.1234, "steps": 200, "tokens": {"trained": 71234}}
    )
    ranking = {
        "mse": 0.0312,
        "baseline_mse": 0.0521,
        "pairwise_low": 0.55,
        "pairwise_high": 0.64,
        "rank_correlation": None,
    }
    write_json(root / "qnet" / "alfworld" / "metrics.json", ranking)
    env = EnvInputs(
        name="alfworld",
        label="ALFWorld engine, generated games",
        episodes=episodes,
        categories=CATEGORIES,
        panels=panels,
        trees=root / "explore" / "alfworld" / "trees.jsonl",
        labels=root / "label" / "alfworld" / "labels.parquet",
        method_notes={"qlass": "M = 4 proposals per step", "best_of_n": "N = 6, picked by the QNet"},
        policy_loss={name: root / name / "alfworld" / "loss.csv" for name in ("base", "sft")},
        qnet_loss=root / "qnet" / "alfworld" / "loss.csv",
        calibration=root / "qnet" / "alfworld" / "calibration.csv",
        siblings=root / "qnet" / "alfworld" / "siblings.csv",
        metrics={stage: root / stage / "alfworld" / "metrics.json" for stage in ("sft", "qnet")},
    )
    return ReportInputs(
        out=root / "report",
        envs=(env,),
        facts=(("base model", "models/reader-3m"), ("step limit", "40"), ("temperature", "0.7")),
        differences=root / "docs" / "differences.md",
    )


def _write_series(root: Path) -> None:
    """Write the CSV files of the training stages."""
    rng = random.Random(0)
    loss = [(step, step / 60, 3 * 0.985**step + 0.12 + 0.08 * rng.random(), 1e-3, 4000) for step in range(5, 400, 5)]
    _write_csv(root / "base" / "alfworld" / "loss.csv", ("step", "epoch", "loss", "lr", "tokens"), [])
    _write_csv(root / "sft" / "alfworld" / "loss.csv", ("step", "epoch", "loss", "lr", "tokens"), loss)
    loss = [
        (step, step / 80, 0.11 * 0.99**step + 0.02 + 0.015 * rng.random(), 3e-4, 9000) for step in range(5, 300, 5)
    ]
    _write_csv(root / "qnet" / "alfworld" / "loss.csv", ("step", "epoch", "loss", "lr", "tokens"), loss)
    bins: list[tuple[object, ...]] = []
    for index in range(10):
        n = int(800 * (1 - index / 10) ** 2 + 30) if index != 8 else 0
        middle = (index + 0.5) / 10
        target = min(max(middle + rng.uniform(-0.08, 0.06), 0), 1)
        bins.append((index / 10, (index + 1) / 10, n, middle, target) if n else (0.8, 0.9, 0, "", ""))
    _write_csv(
        root / "qnet" / "alfworld" / "calibration.csv",
        ("bin_low", "bin_high", "n", "mean_predicted", "mean_target"),
        bins,
    )
    ranks: list[tuple[object, ...]] = [
        (depth, 140 // depth, 0.5 + 0.05 * depth - 0.004 * depth**2, 70 // depth, 0.1 * depth) for depth in range(1, 9)
    ]
    ranks.append((9, 0, "", 0, ""))
    header = ("depth", "n_pairs", "pairwise_accuracy", "n_groups", "rank_correlation")
    _write_csv(root / "qnet" / "alfworld" / "siblings.csv", header, ranks)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


@pytest.fixture
def samples():
    """Everything in this file; an import of a test helper by name would depend on how pytest was started."""
    return sys.modules[__name__]
