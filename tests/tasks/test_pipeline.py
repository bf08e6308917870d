"""The real pipeline below real DVC, with a random model of two layers: every stage, once; then what is reused."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qlass.jsonl import read_json
from tasks import pipeline
from tasks.experiments import registry, store, tracking
from tasks.project import dvcfiles, paths
from tests.tasks.test_store import ODD

SMALL = {
    "envs.corridor.panel": {"train": 12, "dev": 3, "test_seen": 4, "test_unseen": 4},
    "recipes.sft.trajectories": 8,
    "recipes.sft.epochs": 1,
    "recipes.sft.backend": "torch",
    "explore.tasks": 6,
    "explore.depth": 2,
    "explore.max_nodes": 40,
    "base.max_new_tokens": 4,
    "qnet.epochs": 1,
    "qnet.backend": "torch",
    "qnet.head_width": 16,
    "qnet.tail": 8,
    "qnet.validation_fraction": 0.4,
    "methods.qlass.proposals": 4,
    "methods.qlass.seeds": [0],
    "tracking.max_traces": 20,
}
Params = Callable[[dict[str, Any]], None]


def dvc(project: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def small(project: Path, params: Params, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project in which every stage takes seconds."""
    params(SMALL)
    shutil.copytree(tiny_policy, project / "models" / "reader-3m")
    # The code of a stage is that of the project, also where this process has the repository's.
    monkeypatch.setenv("PYTHONPATH", str(project))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    dvc(project, "init", "--no-scm", "-q")
    return project


def parents(project: Path) -> list[object]:
    client = tracking.connect(project)
    experiment = client.get_experiment_by_name("qlass")
    assert experiment is not None
    query = "tags.kind = 'pipeline'"
    return list(client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"]))


def pointers(project: Path) -> dict[str, str]:
    return {str(path): read_json(path)["run_id"] for path in sorted((project / paths.RUNS).rglob("*.json"))}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_pipeline_runs_and_reuses(small: Path, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline.main([]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"qnet@corridor +ran +run [0-9a-f]{32}", shown)
    assert "qlass-corridor version 1 (champion)" in shown
    assert f"report: {small / 'data/report/index.html'}" in shown
    assert f"mlflow ui --backend-store-uri sqlite:///{small / 'mlflow.db'}" in shown
    outs = [small / out for cell in dvcfiles.cells(small) for out in cell.outs]
    assert [str(out) for out in outs if not out.exists()] == []
    assert not [path for path in (small / ".work").rglob("*") if path.is_file()]

    client = tracking.connect(small)
    (parent,) = parents(small)
    assert "eval/corridor/qlass-test_seen/success_rate" in parent.data.metrics
    lock = dvcfiles.read_lock(small)
    first = pointers(small)
    for cell in dvcfiles.cells(small):
        if cell.always:
            continue
        run = client.get_run(read_json(small / cell.pointer)["run_id"])
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["dvc.stage"] == cell.name
        assert run.data.tags["dvc.lock"] == dvcfiles.lock_hash(lock[cell.name])
    qnet = client.get_run(read_json(small / paths.run_pointer("qnet", "corridor"))["run_id"])
    digests = {item.dataset.name: item.dataset.digest for item in qnet.inputs.dataset_inputs}
    assert digests["data/policy/corridor/sft/model"] == dvcfiles.output_hashes(small)["data/policy/corridor/sft/model"]
    evaluated = client.get_run(read_json(small / paths.run_pointer("search", "corridor", "qlass"))["run_id"])
    assert len(client.search_traces(locations=[evaluated.info.experiment_id], run_id=evaluated.info.run_id)) == 8
    assert json.loads(dvc(small, "status", "--json")) == {
        "env@corridor": ["always changed"],  # the two look at what DVC cannot see, and find what they found before
        "source": ["always changed"],
    }
    assert (
        read_json(small / paths.metrics("policy", "corridor", "sft"))["trajectories"]
        == SMALL["recipes.sft.trajectories"]
    )

    assert pipeline.main([]) == 0
    assert re.search(rf"qnet@corridor +reused +run {qnet.info.run_id}", capsys.readouterr().out)
    assert pointers(small) == first

    params({"methods.qlass.proposals": 2})
    assert pipeline.main([]) == 0
    assert {key for key, run in pointers(small).items() if run != first[key]} == {
        str(small / paths.run_pointer("search", "corridor", "qlass")),
        str(small / paths.run_pointer("report")),
    }
    params({"methods.qlass.proposals": 4})
    dvc(small, "repro")  # without the pipeline program: from the run cache, with the runs that made it
    # The report runs again: DVC's run cache leaves out stages that have an output outside the cache (results.md).
    assert {key for key, run in pointers(small).items() if run != first[key]} == {
        str(small / paths.run_pointer("report"))
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_pipeline_runs_in_a_folder_of_any_name(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = small / ODD
    place.mkdir()
    for path in [path for path in small.iterdir() if path != place]:
        path.rename(place / path.name)
    monkeypatch.chdir(place)
    monkeypatch.delenv("PYTHONPATH")  # a list with colons
    done = subprocess.run([sys.executable, "-m", "tasks.pipeline"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "tracking=down" not in done.stderr
    assert "qlass-corridor version 1 (champion)" in done.stdout
    assert [str(out) for cell in dvcfiles.cells(place) for out in cell.outs if not (place / out).exists()] == []
    client = tracking.connect(place)
    for path, run_id in pointers(place).items():
        folder = store.local_path(client.get_run(run_id).info.artifact_uri)
        assert folder is not None
        assert folder.is_relative_to(place / "mlruns")
        written = {item.name for item in folder.iterdir()} if folder.exists() else set()  # `base` has no small outputs
        assert written == {item.path for item in client.list_artifacts(run_id)}, path
        assert bool(written) == ("base" not in path)
    registered = registry.Registry("qlass-corridor", "qlass", place)
    champion = registered.champion()
    assert champion is not None
    assert (registered.files(champion, place / "fetched") / "policy" / "config.json").exists()
    (line,) = re.findall("^runs: +(.*)$", done.stdout, re.MULTILINE)
    shown = shlex.split(line)
    assert shown == ["cd", str(place), "&&", "mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db"]
    assert list(small.iterdir()) == [place]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "status"),
    [(signal.SIGTERM, 143, "KILLED"), (signal.SIGINT, 130, "KILLED"), (signal.SIGKILL, -signal.SIGKILL, "RUNNING")],
)
def test_a_stopped_pipeline_leaves_no_process_and_closed_runs(
    small: Path, number: signal.Signals, code: int, status: str
) -> None:
    with (small / "tasks" / "stages" / "expert.py").open("r+") as file:
        text = file.read().replace("    name, settings = ", "    import time; time.sleep(120)\n    name, settings = ")
        file.seek(0)
        file.write(text)
    with subprocess.Popen([sys.executable, "-m", "tasks.pipeline", "expert@corridor"], cwd=small) as process:
        deadline = time.monotonic() + 120
        while not children_of("tasks.stages.expert corridor") or not parents_children(small):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(60) == code
    while children_of("tasks.stages.expert corridor"):  # killed, we cannot wait for the stage
        assert number == signal.SIGKILL
        assert time.monotonic() < deadline + 60
        time.sleep(0.1)
    (parent,) = parents(small)
    assert parent.info.status == status  # a later run closes what nobody could
    (child,) = parents_children(small)
    assert child.info.status == "KILLED"


def parents_children(project: Path) -> list[Any]:
    """Return the runs that stages have opened."""
    client = tracking.connect(project)
    experiment = client.get_experiment_by_name("qlass")
    if experiment is None:
        return []
    return [run for run in client.search_runs([experiment.experiment_id]) if run.data.tags.get("kind") != "pipeline"]


def children_of(text: str) -> list[int]:
    """Return the processes with this text in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            cwd = str((folder / "cwd").readlink())
        except OSError:
            continue
        if text in command and cwd == str(Path.cwd()):
            found.append(int(folder.name))
    return found


@pytest.mark.slow
def test_a_failing_stage_fails_the_pipeline(small: Path, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    params({"envs.corridor.max_steps": 1})
    earlier = small / paths.REPORT / "results.md"
    earlier.parent.mkdir(parents=True)
    earlier.write_text("the table of an earlier run")
    assert pipeline.main(["expert@corridor"]) != 0
    assert "earlier run" not in capsys.readouterr().out
    (parent,) = parents(small)
    assert parent.info.status == "FAILED"
    logged = {item.path for item in tracking.connect(small).list_artifacts(parent.info.run_id)}
    assert "params.yaml" in logged
    assert "results.md" not in logged
