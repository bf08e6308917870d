"""Exploration with a real (random) model: interrupted, resumed, spread over processes; the bytes stay the same."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.project import paths

SMALL = {
    "explore.tasks": 6,
    "explore.depth": 2,
    "explore.max_nodes": 40,
    "base.max_new_tokens": 4,
    "explore.shard_size": 2,
}
Params = Callable[[dict[str, Any]], None]


@pytest.mark.slow
def test_interrupted_and_spread_exploration_gives_the_same_bytes(
    project: Path, params: Params, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params(SMALL)
    monkeypatch.setenv("PYTHONPATH", str(project))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # tracking is not what is tested here
    for policy in (paths.BASE_POLICY, paths.policy("corridor", "sft")):
        shutil.copytree(tiny_policy, project / policy)
    subprocess.run([sys.executable, "-m", "tasks.stages.expert", "corridor"], cwd=project, check=True)
    command = [sys.executable, "-m", "tasks.stages.explore", "corridor"]
    output = project / paths.trees("corridor")

    with subprocess.Popen(command, cwd=project) as process:
        deadline = time.monotonic() + 200
        while not list(project.glob(".work/explore/*/shard-*.jsonl")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert not output.exists()
    done = len(list(project.glob(".work/explore/*/shard-*.jsonl")))
    assert 1 <= done < 3
    again = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True)
    assert f"resumed={2 * done}/6" in again.stderr
    assert not list(project.glob(".work/explore/*"))
    interrupted = output.read_bytes()
    assert interrupted.count(b"\n") == 7

    params({"base.workers": 3})
    subprocess.run(command, cwd=project, check=True)
    assert output.read_bytes() == interrupted
