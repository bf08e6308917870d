"""How the driver keeps the models busy: `qlass.search.driver` played with and without what `inference` of params.yaml offers.

overlap (slow environment)   steps of 20 ms outside this process (a server, a virtual machine), by the clock: the halves of
                             `overlap: true` against one batch whose steps the models wait for
overlap (fast environment)   the same with ALFWorld's native engine as it is, in CPU seconds: what the smaller batches cost
slots                        as many episodes as tasks at once, against a quarter of them and the next as soon as one ends
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.rows import Row, cpu_seconds
from benchmarks.training import LONGEST, MODEL, OPTIONS
from qlass.envs import get_definition, make_env
from qlass.envs.core.base import Info, Snapshot, StepResult, TextEnv
from qlass.envs.core.pool import EnvPool
from qlass.methods.base import Assignment
from qlass.methods.qlass import METHOD, QlassSettings
from qlass.models.folders import load_model
from qlass.models.qnet import QNet, save_qnet
from qlass.policies.load import LocalSettings, local_models
from qlass.records import TaskSpec
from qlass.search.driver import drive

STEPS = 6
DELAY_S = 0.02


class Slow(TextEnv):
    """An environment whose every step waits for something outside this process."""

    def __init__(self, env: TextEnv) -> None:
        """Wrap an environment."""
        self._env = env

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        """See `TextEnv`."""
        return self._env.reset(spec, seed=seed)

    def step(self, action: str) -> StepResult:
        """Wait, then step."""
        time.sleep(DELAY_S)
        return self._env.step(action)

    def snapshot(self) -> Snapshot:
        """See `TextEnv`."""
        return self._env.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """See `TextEnv`."""
        self._env.restore(snapshot)

    def close(self) -> None:
        """See `TextEnv`."""
        self._env.close()


def clock(work: Any) -> float:
    """Return the seconds that some work takes by the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Play:
    """Q-guided episodes of generated ALFWorld games with the base policy."""

    def __init__(self, folder: Path, tasks: int) -> None:
        """Write a QNet and choose the tasks."""
        self.definition = get_definition("alfworld")
        self.specs = list(islice(self.definition.panels(OPTIONS, "train", 0), tasks))
        self.qnet = folder / "qnet"
        torch.manual_seed(0)
        save_qnet(QNet(cast("Any", load_model(MODEL)).model), self.qnet, MODEL)

    def engines(self, count: int, *, slow: bool = False) -> list[TextEnv]:
        """Make environments."""
        made = [make_env(self.definition, OPTIONS, STEPS) for _ in range(count)]
        return [Slow(env) for env in made] if slow else made

    def __call__(self, engines: list[TextEnv], *, overlap: bool = False) -> None:
        """Play every task once, with models that have cached nothing."""
        how = LocalSettings("qlass", LONGEST, 48, "cpu")
        models = local_models(MODEL, self.qnet, how, self.definition.normalise_action)
        settings = QlassSettings(seeds=(0,), temperature=0.7, proposals=4)

        def start(env: TextEnv, spec: TaskSpec) -> Any:
            return METHOD.routine(Assignment(env, self.definition, spec, "qlass", number=0, seed=0), settings)

        starts = [partial(start, spec=spec) for spec in self.specs]
        lent = EnvPool(iter(engines).__next__)
        played = list(drive(starts, lent, *models, slots=len(engines), overlap=overlap))
        assert len(played) == len(self.specs)  # noqa: S101


def rows(tasks: int = 16, rounds: int = 3) -> list[Row]:
    """Measure; both ways take turns, and the best round of each counts."""
    with tempfile.TemporaryDirectory() as folder:
        play = Play(Path(folder), tasks)
        few = max(tasks // 4, 1)
        ways: dict[str, tuple[Any, Any, Any]] = {
            "overlap (slow environment)": (
                clock,
                partial(play, play.engines(tasks, slow=True), overlap=True),
                partial(play, play.engines(tasks, slow=True)),
            ),
            "overlap (fast environment)": (
                cpu_seconds,
                partial(play, play.engines(tasks), overlap=True),
                partial(play, play.engines(tasks)),
            ),
            "slots": (cpu_seconds, partial(play, play.engines(tasks)), partial(play, play.engines(few))),
        }
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds + 1):
            for name, (measure, ours, other) in ways.items():
                seconds[name].append((measure(ours), measure(other)))
    said = {
        "overlap (slow environment)": ("second", f"steps wait {1000 * DELAY_S:.0f} ms; halves against one batch"),
        "overlap (fast environment)": ("CPU second", "native engine; halves against one batch"),
        "slots": ("CPU second", f"all {tasks} at once against {few} at a time, refilled"),
    }
    found = []
    for name, (unit, how) in said.items():
        ours, other = (min(column) for column in zip(*seconds[name][1:], strict=True))  # the first round warms up
        work = f"{tasks} tasks, {STEPS} steps, 4 replies a step; {how}"
        found.append(Row.of(name, tasks / ours, tasks / other, f"episodes per {unit}", work))
    return found
