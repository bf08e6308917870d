"""Shards on a real Ray cluster of two nodes, both on this machine; and on the Ray that a stage starts for itself."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from qlass.errors import Busy, DataError, DependencyNotInstalled, SettingsError
from qlass.records import TaskSpec
from tasks.project import paths, variables
from tasks.running import ray_pool, shards
from tests.tasks.toy_shards import alive, command, drive, pids, start, wait_for

pytest.importorskip("ray")

HEALTH = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 8}
"""A silent node is given up after eight seconds, not fifteen; a silent worker is out of reach after three."""

OWN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64, "OMP_NUM_THREADS": "3"}
"""Environment variables of all nodes."""

SPLITS = ("test_seen", "test_unseen")
"""The test splits of the corridor."""

Drive = Callable[..., subprocess.CompletedProcess[str]]


class Cluster:
    """Nodes of two CPUs, started by the commands of docs/operations.md; each is a group of processes on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.variables = variables.DEFAULTS | os.environ | OWN | {"RAY_TMPDIR": str(folder)}

    def start(self) -> None:
        """Start two nodes."""
        self._start("--head", "--port=0", "--include-dashboard=false", f"--system-config={json.dumps(HEALTH)}")
        self.variables["RAY_ADDRESS"] = (self.folder / "ray" / "ray_current_cluster").read_text()
        self.add()

    def add(self) -> None:
        """Start one more."""
        self._start(f"--address={self.variables['RAY_ADDRESS']}")

    def _start(self, *options: str) -> None:
        line = [Path(sys.executable).with_name("ray"), "start", "--block", "--num-cpus=2", *options]
        with (self.folder / "log").open("wb") as log:
            node = subprocess.Popen(line, env=self.variables, stdout=log, stderr=log, start_new_session=True)
        self.nodes.append(node)
        wait_for(lambda: "Ray runtime started" in (self.folder / "log").read_text(), 120)

    def remove(self) -> None:
        """Lose the node that was added last, as in a power cut."""
        node = self.nodes.pop()
        os.killpg(node.pid, signal.SIGKILL)
        node.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Return a cluster of two nodes."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # pytest's own are too long for the sockets in it
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            while cluster.nodes:
                cluster.remove()


@pytest.fixture
def on_ray(cluster: Cluster) -> Drive:
    """Return `drive` with the workers of the cluster."""
    return partial(drive, fanout="ray", variables=cluster.variables)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files that processes write, by name."""
    folder = tmp_path_factory.mktemp("processes")
    assert drive(folder).returncode == 0
    return written(folder)


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.jsonl")}


def test_ray_writes_the_bytes_of_processes(tmp_path: Path, on_ray: Drive, expected: dict[str, bytes]) -> None:
    folder = tmp_path / "new"  # as each split has one in the folder of its stage
    done = on_ray(folder, workers=4)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert written(folder) == expected
    assert len(expected) == 6
    found = list(folder.glob("pid-*"))
    assert len(found) == 4
    assert {path.read_text() for path in found} == {"threads=1"}
    assert sorted(pids(folder, "closed-")) == sorted(pids(folder))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 5])  # there are four CPUs
def test_worker_count_changes_no_byte(tmp_path: Path, on_ray: Drive, expected: dict[str, bytes], workers: int) -> None:
    assert on_ray(tmp_path, workers=workers).returncode == 0
    assert written(tmp_path) == expected
    assert len(pids(tmp_path)) == workers


def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path, on_ray: Drive, expected: dict[str, bytes]) -> None:
    done = on_ray(tmp_path, "kill-once")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed").exists()
    assert "worker=dead shard=1 retry=1 reason='ActorDiedError: " in done.stderr
    assert written(tmp_path) == expected


def test_a_shard_that_kills_twice_is_an_error_and_the_others_are_kept(tmp_path: Path, on_ray: Drive) -> None:
    done = on_ray(tmp_path, "kill-always", workers=1)
    assert done.returncode == 1
    assert "WorkerDied: test: shard 1 ended its worker process twice (ActorDiedError: " in done.stderr
    assert list(written(tmp_path)) == ["shard-00000.jsonl"]


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("error", "DataError: task 4 is broken"),
        pytest.param("bug", "RuntimeError: ZeroDivisionError: oops", marks=pytest.mark.slow),
    ],
)
def test_an_error_in_a_worker_is_the_error_of_the_stage(
    tmp_path: Path, on_ray: Drive, mode: str, message: str
) -> None:
    done = on_ray(tmp_path, mode, workers=1)
    assert done.returncode == 1
    assert message in done.stderr
    assert "in a worker process" in done.stderr
    assert list(written(tmp_path)) == ["shard-00000.jsonl"]


def test_a_cluster_without_gpus_is_no_place_for_workers_that_need_one(tmp_path: Path, on_ray: Drive) -> None:
    done = on_ray(tmp_path, "gpu")
    assert "SettingsError: base.device: found cuda; allowed: auto | cpu, because Ray (" in done.stderr


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("127.0.0.1:1", Busy, "RAY_ADDRESS: found 127.0.0.1:1, where no Ray cluster answers .*refused"),
        ("cluster", SettingsError, "RAY_ADDRESS: found 'cluster'; allowed: host:port of a Ray cluster; "),
    ],
)
def test_an_address_without_a_cluster_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, error: type[Exception], message: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(error, match=message):
        shards.run_shards(plan(tmp_path), range(3))
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.slow
def test_a_cluster_that_wants_a_token_says_so(tmp_path: Path, cluster: Cluster) -> None:
    done = drive(tmp_path, fanout="ray", variables=cluster.variables | {"RAY_AUTH_MODE": "disabled"})
    assert "Authentication token is missing" in done.stderr
    assert f"Busy: RAY_ADDRESS: found {cluster.variables['RAY_ADDRESS']}, where no Ray cluster answers" in done.stderr


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DependencyNotInstalled, match=r"pip install qlass\[ray\]"):
        shards.run_shards(plan(tmp_path), range(3))


def test_without_work_no_ray_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert list(shards.run_shards(plan(tmp_path), [])) == []


@pytest.mark.parametrize("absent", ["folder", "model"])
def test_a_machine_that_does_not_see_the_project_is_named(tmp_path: Path, absent: str) -> None:
    (tmp_path / "work").mkdir()
    project = tmp_path / "elsewhere" if absent == "folder" else tmp_path
    found = ray_pool._Actor().work(plan(Path("work"), reads=(Path("policy"),)), project, [1])
    assert isinstance(found, DataError)
    missing = project / ("work" if absent == "folder" else "policy")
    assert str(found).startswith(
        f"{missing}: no such folder on {socket.gethostname()}; all machines of the Ray cluster need"
    )


@pytest.mark.slow
def test_code_that_a_machine_does_not_have_is_named(tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "only_here.py").write_text("def start(setup): return list")
    code = "from pathlib import Path; from only_here import start; from tasks.running.shards import *; import sys\n"
    code += "run_shards(Plan(start, None, str, Path(sys.argv[1]), 4, Crew(1, 'ray'), 'test'), range(3))"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    variables = {**cluster.variables, "PYTHONPATH": path}
    line = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, env=variables)
    found = "DataError: a Ray worker cannot load the project: ModuleNotFoundError: No module named 'only_here'; all machines"
    assert found in done.stderr


def plan(folder: Path, reads: tuple[Path, ...] = ()) -> shards.Plan:
    return shards.Plan(start, ("plain", folder), TaskSpec, folder, 4, shards.Crew(1, "ray"), "test", reads)


@pytest.mark.slow
def test_a_lost_node_costs_nothing_but_time(
    tmp_path: Path, cluster: Cluster, on_ray: Drive, expected: dict[str, bytes]
) -> None:
    line, log = command(tmp_path, "hold", 4, "ray"), tmp_path / "stderr"
    with log.open("w") as file, subprocess.Popen(line, env=cluster.variables, stderr=file) as process:
        wait_for(lambda: (tmp_path / "log").exists() and len((tmp_path / "log").read_text().split()) == 5, 120)
        cluster.remove()  # and with it two of the four workers; the others keep the CPUs that are left
        wait_for(lambda: log.read_text().count("worker=dead") == 2 or process.poll() is not None, 120)
        (tmp_path / "go").touch()
        process.wait(120)
    cluster.add()
    assert process.returncode == 0, log.read_text()
    assert log.read_text().count("The actor died because its node has died") == 2
    assert written(tmp_path) == expected


@pytest.mark.slow
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9), (signal.SIGINT, -2)])
def test_an_interrupted_run_leaves_no_worker_and_goes_on(
    tmp_path: Path, cluster: Cluster, expected: dict[str, bytes], *, local: bool, number: int, code: int
) -> None:
    variables = cluster.variables
    if local:
        variables = {name: value for name, value in variables.items() if name not in ("RAY_ADDRESS", *OWN)}
        variables |= {"HOME": str(tmp_path), "RAY_TMPDIR": str(cluster.folder)}
    line = command(tmp_path, "hold", 3, "ray")
    with subprocess.Popen(line, env=variables, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        wait_for(lambda: len(pids(tmp_path)) == 3 and (tmp_path / "shard-00000.jsonl").exists(), seconds=120)
        os.killpg(process.pid, number)  # as a terminal does
        assert process.wait(60) == code
    wait_for(lambda: not any(map(alive, pids(tmp_path))), seconds=60)
    assert list(written(tmp_path)) == ["shard-00000.jsonl"]
    (tmp_path / "go").touch()
    (tmp_path / "log").unlink()
    assert drive(tmp_path, "hold", 3, "ray", variables).returncode == 0
    assert written(tmp_path) == expected
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == [4, 8, 12, 16]  # shard 0 was not done again
    assert not (tmp_path / ".ray").exists()  # where Ray would keep a token that later clusters ask for


@pytest.mark.slow
def test_stages_write_the_bytes_of_processes(
    project: Path,
    params: Callable[[dict[str, Any]], None],
    tiny_policy: Path,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tiny = {"tasks": 6, "depth": 2, "max_nodes": 40, "shard_size": 2}
    params({f"explore.{key}": value for key, value in tiny.items()})
    params({"base.max_new_tokens": 4, "evaluate.shard_size": 4})
    monkeypatch.setenv("PYTHONPATH", str(project))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # tracking is not what is tested here
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", *OWN):
        monkeypatch.setenv(name, cluster.variables[name])
    for policy in (paths.BASE_POLICY, paths.policy("corridor", "sft")):
        shutil.copytree(tiny_policy, project / policy)
    outputs = []
    for fanout in ("processes", "ray"):
        params({"base.fanout": fanout, "base.workers": 2})
        log = ""
        for stage in ("expert corridor", "explore corridor", "evaluate corridor sft"):
            line = [sys.executable, "-m", *f"tasks.stages.{stage}".split()]
            log += subprocess.run(line, cwd=project, check=True, capture_output=True, text=True).stderr
        pools = 2 + len(SPLITS)  # the evaluation has one for each split
        assert log.count("from=tasks.running.ray_pool ray=") == (pools if fanout == "ray" else 0)
        files = (
            paths.trajectories("corridor"),
            paths.trees("corridor"),
            *(paths.episodes("corridor", "sft", split) for split in SPLITS),
        )
        outputs.append([file.read_bytes() for file in files])
    assert outputs[0] == outputs[1]
