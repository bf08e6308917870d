"""Shares of a play: what is timed, whose it is, and what is said where there is nothing to play."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import torch

from benchmarks import rows, shares
from benchmarks.rows import Row
from qlass.envs import get_definition, make_env
from qlass.envs.core.panels import build_panel, save_panel
from qlass.envs.core.pool import EnvPool, Watched
from qlass.envs.corridor import CorridorEnv
from qlass.errors import EnvironmentFault
from qlass.jsonl import write_records
from qlass.models.folders import load_model
from qlass.models.qnet import QNet, save_qnet
from qlass.policies.scripted import ScriptedPolicy, ScriptedValueFunction
from qlass.records import TaskSpec, Trajectory
from qlass.search.driver import drive
from tasks.playing import demonstrate
from tasks.project import paths
from tests.methods.playing import start
from tests.tasks import tiny_policy
from tests.tasks.conftest import NO_OVERRIDES, REPOSITORY, set_params

ENV = "corridor"
CORRIDOR = get_definition(ENV)
OPTIONS = {"length": 3, "rooms": 2}
MAX_STEPS = 8
SMALL = {
    "run.envs": [ENV],
    "run.searches": ["best_of_n", "qlass"],
    "base.max_new_tokens": 8,
    f"envs.{ENV}": {
        "max_steps": MAX_STEPS,
        "panel": {"train": 4, "dev": 4, "test_seen": 4, "test_unseen": 4},
        "options": OPTIONS,
        "overrides": NO_OVERRIDES,
    },
    "recipes.sft.trajectories": None,
    "explore.tasks": None,
    "explore.max_nodes": 12,
    "explore.candidates": "admissible",  # a random model writes no action
    "evaluate.candidates": "admissible",
    "evaluate.shard_size": 2,
}
PLAYS = {"sft": False, "best_of_n": True, "qlass": True, "explore": False}
"""Whether it asks the QNet."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project in which nothing has run; it is the working directory."""
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    set_params(tmp_path, SMALL)
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # what the program sets is undone in the end
    monkeypatch.setattr(rows, "RESULTS", tmp_path / "results")
    return tmp_path


@pytest.fixture
def finished(project: Path) -> Path:
    """The project after a run on four tasks of each panel, with random models."""
    for split in ("dev", "train"):
        save_panel(paths.panel(ENV, split), build_panel(CORRIDOR, OPTIONS, split, 4, 0))
    env = make_env(CORRIDOR, OPTIONS, MAX_STEPS)
    experts = [demonstrate.play(env, CORRIDOR, spec, seed=0, thoughts=True) for spec in tasks("train")]
    write_records(paths.trajectories(ENV), experts, Trajectory)
    policy = paths.policy(ENV, "sft")
    tiny_policy.main(policy)
    torch.manual_seed(0)
    save_qnet(QNet(load_model(policy).base_model, width=8), paths.qnet(ENV), policy)
    return project


def tasks(split: str) -> list[TaskSpec]:
    return list(islice(CORRIDOR.panels(OPTIONS, split, 0), 4))


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The steps that engines have executed so far, by task."""
    counted, playing, reset, step = Counter[str](), dict[int, str](), Watched.reset, Watched.step

    def begin(self: Watched, spec: TaskSpec, **named: Any) -> Any:
        playing[id(self)] = spec.task_id
        return reset(self, spec, **named)

    def execute(self: Watched, action: str) -> Any:
        counted[playing[id(self)]] += 1
        return step(self, action)

    monkeypatch.setattr(Watched, "reset", begin)
    monkeypatch.setattr(Watched, "step", execute)
    return counted


@pytest.mark.parametrize("play", PLAYS)
def test_a_play_is_divided(finished: Path, stepped: Counter[str], play: str) -> None:
    """Three of four tasks, in two shards; the fourth warms up. What shares a rollout is counted once."""
    found = shares.measure(ENV, play, 3)
    asked = {"environment", "policy", "rest"} | ({"QNet"} if PLAYS[play] else set())
    assert set(found.parts) == asked
    assert all(part.cpu > 0 and part.wall > 0 for part in found.parts.values())
    assert sum(part.cpu for part in found.parts.values()) == pytest.approx(found.whole.cpu)
    assert sum(part.wall for part in found.parts.values()) == pytest.approx(found.whole.wall)
    assert found.parts["policy"].cpu > found.parts["rest"].cpu
    panel = [spec.task_id for spec in tasks("train" if play == "explore" else "dev")]
    assert set(stepped) == set(panel)
    assert found.cost.env_steps == sum(stepped[task_id] for task_id in panel[:3])
    assert found.cost.generated_tokens >= found.cost.policy_calls > 0


def burn(seconds: float) -> None:
    start = process_time()
    while process_time() - start < seconds:
        pass


def test_seconds_belong_to_whoever_spends_them() -> None:
    replies, values = [], []

    def reply(history: Any, rng: Any) -> str:
        burn(0.01)
        replies.append(rng.choice(["go east", "go west", "enter"]))
        return f"Action: {replies[-1]}"

    def value(history: Any, text: str) -> float:
        burn(0.002)
        values.append(text)
        return 0.0

    calls = {
        "environment": [(Watched, "step"), (Watched, "restore")],
        "policy": [(ScriptedPolicy, "propose")],
        "QNet": [(ScriptedValueFunction, "score")],
        "nobody": [(Watched, "close")],
    }
    before = Watched.step
    begin = start(CORRIDOR, tasks("dev")[0], "qlass")
    envs = EnvPool(partial(make_env, CORRIDOR, OPTIONS, MAX_STEPS))
    with shares.timing(calls) as spent:
        list(drive([begin], envs, ScriptedPolicy(reply, str), ScriptedValueFunction(value), slots=1))
    assert Watched.step is before
    assert replies and values  # noqa: PT018
    assert 0.01 * len(replies) <= spent["policy"].cpu < 0.015 * len(replies)
    assert 0.002 * len(values) <= spent["QNet"].cpu < 0.004 * len(values)
    assert 0 < spent["environment"].cpu < spent["QNet"].cpu
    assert spent["nobody"] == shares.Spent()


def test_a_call_that_fails_is_timed() -> None:
    class Fails:
        def call(self) -> None:
            burn(0.01)
            raise EnvironmentFault("x")

    with shares.timing({"environment": [(Fails, "call")]}) as spent, pytest.raises(EnvironmentFault):
        Fails().call()
    assert spent["environment"].cpu >= 0.01


def test_seconds_of_processes_that_engines_start() -> None:
    code = "from time import process_time\nwhile process_time() < 0.3: pass\nprint(1, flush=True)\ninput()"
    before = shares.started_seconds()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        living = shares.started_seconds() - before
        child.communicate(b"\n")
    ended = shares.started_seconds() - before
    assert 0.25 < living <= ended < 3


def test_they_are_the_environment_s(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "started_seconds", iter([1.0, 31.0]).__next__)
    found = shares.measure(ENV, "sft", 1)
    assert 30 < found.parts["environment"].cpu < found.whole.cpu < 60
    assert found.parts["rest"].cpu < 20


def test_models_run_here(finished: Path) -> None:
    """Whatever params.yaml says of a server, a GPU, and threads of environments."""
    server = {
        "base_url": "http://127.0.0.1:9/v1", "model": "other", "api": "chat", "api_key_env": "", "concurrency": 1,
        "timeout_s": 1.0, "retries": 0, "request_per_seed": True, "logprobs": True, "version": "1",
    }  # fmt: skip
    changes = {"inference.server": server, "inference.overlap": True, "base.device": "cuda"}
    set_params(finished, {**changes, "evaluate.candidates": "generate", "explore.candidates": "generate"})
    found = shares.measure(ENV, "sft", 1)
    assert found.cost.generated_tokens > 0


def test_a_lost_task_is_an_error(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reset, broken = CorridorEnv.reset, tasks("dev")[1].task_id

    def fail(self: CorridorEnv, spec: TaskSpec, **named: Any) -> Any:
        if spec.task_id == broken:
            raise EnvironmentFault("the map is torn")
        return reset(self, spec, **named)

    monkeypatch.setattr(CorridorEnv, "reset", fail)
    with pytest.raises(EnvironmentFault, match=f"1 of 2 tasks .* {broken} .*the map is torn"):
        shares.measure(ENV, "sft", 2)


def remove(path: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    "path", [paths.panel(ENV, "dev"), paths.trajectories(ENV), paths.policy(ENV, "sft"), paths.qnet(ENV)], ids=str
)
def test_what_an_unfinished_run_lacks(finished: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shares.missing(ENV) == []
    remove(path)()
    assert shares.main([ENV]) == 3
    said = capsys.readouterr().err
    assert f"has no finished run on {ENV}: {path} not found;" in said
    assert "run `make run`" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["corrido"], "ENV: found 'corrido'; allowed: alfworld, "),
        ([ENV, "--tasks", "4"], "--tasks: found 4; allowed: 1 to 3, "),
        ([ENV, "--tasks", "0"], "--tasks: found 0; allowed: 1 to 3, "),
    ],
)
def test_wrong_arguments(finished: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shares.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_without_a_finished_run_nothing_is_measured(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in a fresh clone."""
    assert shares.rows() == []
    assert f"shares: {ENV} left out, there is no finished run on it here" in capsys.readouterr().out


def test_the_table_has_a_line_per_play() -> None:
    measured = [
        ("share_of_environment (maze, sft)", 2.04, 100.0),
        ("alfworld_step_vs_stock (native)", 28000.0, 17.5),
        ("share_of_policy (maze, sft)", 97.0, 100.0),
        ("share_of_rest (maze, sft)", 0.96, 100.0),
        ("steps_alone_vs_in_play (maze, sft)", 12345.6, 251.0),
        ("tokens_alone_vs_in_play (maze, sft)", 1500.0, 1400.0),
        ("share_of_qnet (maze, qlass)", 15.0, 100.0),
    ]
    lines = shares.table([Row.of(name, ours, other, "", "") for name, ours, other in measured]).splitlines()
    assert lines == [
        "| play | environment | policy | QNet | rest | steps/s | tokens/s |",
        "|---|---:|---:|---:|---:|---:|---:|",
        "| `maze, sft` | 2.0 | 97.0 | - | 1.0 | 12,346 | 1,500 |",
        "| `maze, qlass` | - | - | 15.0 | - | - | - |",
    ]


@pytest.mark.slow
def test_the_program(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_params(finished, {"run.searches": ["qlass"]})
    assert shares.main([ENV, "--tasks", "1"]) == 0
    said = capsys.readouterr().out
    (file,) = (finished / "results").glob(f"*-shares-{ENV}.json")
    assert f"written: {file}" in said
    written = [Row(**row) for row in json.loads(file.read_text())["rows"]]
    assert {row.name for row in written} == {
        f"{what} ({ENV}, {play})"
        for play in ("sft", "qlass", "explore")
        for what in shares.COLUMNS
        if what != "share_of_qnet" or PLAYS[play]
    }
    assert shares.table(written) in said
    for play in ("sft", "qlass", "explore"):
        whole = [row.ours for row in written if row.name.startswith("share_of_") and row.name.endswith(f", {play})")]
        assert sum(whole) == pytest.approx(100)
    assert all(row.ours > row.other for row in written if "_alone_vs_in_play" in row.name)
