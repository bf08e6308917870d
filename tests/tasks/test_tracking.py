import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from qlass.errors import StorageError
from qlass.jsonl import read_json, write_json
from qlass.records import Cost, Episode, Step
from tasks.experiments import identity, registry, tracking
from tasks.project import paths
from tests.ports import closed_port

HOLDER = """
import sys, time
from tasks.experiments import tracking
print(tracking.open_run("sft@corridor", "qlass").run_id, flush=True)
time.sleep(100)
"""
STEPS = (Step("a thought", "go west", "a door", 0.0, False, False), Step("", "enter", "a room", 1.0, True, False))


def episode(number: int) -> Episode:
    candidates = ((("go west", 0.5), ("go east", 0.1)), (("enter", 0.9),))
    return Episode(f"corridor/dev/{number}", "enter", "qlass", 0, 1.0, True, "start", STEPS, Cost(), "", candidates)


def test_everything_about_a_run_is_found_again(project: Path) -> None:
    parent = tracking.start_pipeline_run(project, tags={"extra": 1})
    tracker = tracking.open_run("sft@corridor", "qlass", tags={"stage": "sft"}, parent=parent)
    tracker.params({"sft": {"lr": 0.1, "lora": {"r": 8}}, "many": {str(n): n for n in range(150)}})
    for step in range(1200):
        tracker.metrics({"loss": 1 / (step + 1), "by": {"a b": 1, "text": "no"}}, step)
    write_json(project / "data" / "sft" / "metrics.json", {"loss": 1})
    tracker.dataset("data/base/policy", "0123456789abcdef0123456789abcdef.dir")
    tracker.artifact(project / "data" / "sft" / "metrics.json")
    tracker.table([{"a": 1, "b": "x"}], "table.json")
    tracker.episodes([episode(n) for n in range(3)], limit=2)
    tracker.finish()
    assert tracker.client is not None

    client = tracking.connect(project)
    run = client.get_run(str(tracker.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.params["sft.lora.r"] == "8"
    assert len(run.data.params) == 152
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 1200
    assert "by/a b" in run.data.metrics
    assert "by/text" not in run.data.metrics
    (found,) = run.inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("data/base/policy", "0123456789abcdef0123456789abcdef.dir")
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {"metrics.json", "table.json"}
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(project / "mlruns")
    assert client.load_table(tracker.experiment, "table.json", [run.info.run_id]).values.tolist() == [[1, "x"]]
    traces = client.search_traces(locations=[str(tracker.experiment)], run_id=run.info.run_id)
    assert len(traces) == 2
    spans = {span.name: span for span in traces[0].data.spans}
    assert len(spans) == 3
    assert spans["go west"].inputs == {"observation": "start"}
    assert spans["go west"].attributes["candidates"][0] == {"action": "go west", "q": 0.5}


def test_the_five_identities_are_tags(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "wide-trees")
    monkeypatch.setenv("DVC_STAGE", "sft@corridor")
    monkeypatch.setenv("QLASS_FLOW_RUN_ID", "flow-1")
    for command in ("init -q", "add params.yaml", "-c user.name=a -c user.email=a@b commit -q -m x"):
        subprocess.run(["git", *command.split()], cwd=project, check=True)
    tracker = tracking.open_run("sft@corridor", "qlass")
    tags = tracking.connect(project).get_run(str(tracker.run_id)).data.tags
    assert len(tags["git.commit"]) == 40
    assert tags["git.dirty"] == "true"  # the rest of the project is not committed
    assert (tags["dvc.exp_name"], tags["dvc.stage"]) == ("wide-trees", "sft@corridor")
    assert tags["prefect.flow_run_id"] == "flow-1"


@pytest.mark.parametrize(
    ("written", "dirty"),
    [
        ("dvc.lock", "false"),
        ("data/report/summary.json", "false"),
        ("qlass/envs/corridor/installed.json", "false"),
        ("params.yaml", "false"),
        ("qlass/envs/corridor/rules.py", "true"),
        ("dvc.yaml", "true"),
    ],
)
def test_what_a_run_writes_is_no_change_of_the_code(tmp_path: Path, written: str, dirty: str) -> None:
    for path in (tmp_path / "dvc.yaml", tmp_path / "params.yaml", tmp_path / "qlass/envs/corridor/__init__.py"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for command in ("init -q", "add --all", "-c user.name=a -c user.email=a@b commit -q -m x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    (tmp_path / written).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / written).write_text("new")
    assert identity.identities(tmp_path)["git.dirty"] == dirty


@contextmanager
def holder(project: Path, root: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process of a checkout that holds a run in the project's store; yield it with the id of its run."""
    env = {**os.environ, "PYTHONPATH": str(project), "MLFLOW_TRACKING_URI": tracking.tracking_uri(project)}
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_only_a_dead_run_of_this_checkout_is_closed_by_the_next(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers of DVC's queue run the same stage side by side; another checkout may write into the same store."""
    monkeypatch.setenv("DVC_STAGE", "sft@corridor")
    with ExitStack() as stack:
        elsewhere, foreign = stack.enter_context(holder(project, tmp_path_factory.mktemp("other")))
        worker, run = stack.enter_context(holder(project, project))
        client = tracking.connect(project)
        tracking.open_run("sft@corridor", "qlass").finish()
        assert client.get_run(run).info.status == "RUNNING"
        for process in (elsewhere, worker):
            process.send_signal(signal.SIGKILL)
            process.wait()
        tracking.open_run("another stage", "qlass").finish()
        assert client.get_run(run).info.status == "KILLED"
        assert client.get_run(foreign).info.status == "RUNNING"


def test_a_process_is_known_by_more_than_its_id(tmp_path: Path) -> None:
    mine = identity.process_tags(tmp_path)
    assert not identity.is_dead(mine, tmp_path)
    number = mine["process"].split()[0]
    assert identity.is_dead({**mine, "process": f"{number} 1.00"}, tmp_path)  # the id is used again
    for name in ("host", "pid_namespace", "root"):
        assert not identity.is_dead({**mine, "process": f"{number} 1.00", name: "another"}, tmp_path)
    assert not identity.is_dead({"host": mine["host"], "root": mine["root"]}, tmp_path)  # of an earlier version


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from tasks.experiments import identity; print(identity.process_tags(Path(sys.argv[1]))['process'])"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        named = {**identity.process_tags(tmp_path), "process": process.stdout.read().strip()}
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{process.pid}").exists()
        assert identity.is_dead(named, tmp_path)


def test_results_are_those_of_the_present_cells(project: Path, params: Callable[[dict[str, Any]], None]) -> None:
    for method in ("sft", "qlass", "best_of_n"):
        write_json(project / paths.metrics("evaluate", "corridor", method), {"test_seen": {"success_rate": 50.0}})
    params({"run.searches": ["qlass"]})  # best_of_n was among them
    run_id = tracking.start_pipeline_run(project)
    tracking.finish_pipeline_run(project, run_id)
    assert tracking.connect(project).get_run(str(run_id)).data.metrics == {
        "eval/corridor/sft-test_seen/success_rate": 50.0,
        "eval/corridor/qlass-test_seen/success_rate": 50.0,
    }


def test_mlflow_run_id_does_not_merge_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tracking.open_run("a", "qlass")
    monkeypatch.setenv("MLFLOW_RUN_ID", str(first.run_id))
    assert tracking.open_run("b", "qlass").run_id != first.run_id


def test_an_unreachable_server_is_a_warning(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port()}")
    tracker = tracking.open_run("sft@corridor", "qlass")
    tracker.metrics({"loss": 1.0})
    tracker.episodes([episode(0)], 1)
    tracker.finish()
    tracker.write_pointer(project / "runs" / "sft.json")
    assert read_json(project / "runs" / "sft.json") == {"run_id": None, "experiment_id": None}
    assert len([record for record in caplog.records if "tracking=down" in record.message]) == 1
    assert tracking.start_pipeline_run(project) is None
    assert tracking.finish_pipeline_run(project, None) == []


def test_what_mlflow_refuses_is_a_warning_and_the_run_is_closed(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = tracking.open_run("sft@corridor", "qlass")
    tracker.params({"a": 1})
    tracker.params({"a": 2})  # MLflow does not let a parameter change
    tracker.metrics({"loss": 1.0})
    tracker.finish()
    assert len([record for record in caplog.records if "tracking=down" in record.message]) == 1
    assert tracking.connect(project).get_run(str(tracker.run_id)).info.status == "FINISHED"


def test_a_broken_store_is_one_warning(
    project: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A full disk, say; MLflow alone would also log the traceback of each attempt."""
    tracker = tracking.open_run("sft@corridor", "qlass")
    with closing(sqlite3.connect(project / "mlflow.db")) as store:
        store.execute("DROP TABLE latest_metrics")
    tracker.metrics({"loss": 1.0})
    tracker.finish()
    assert len([record for record in caplog.records if "tracking=down" in record.message]) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_registering_is_strict(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port()}")
    with pytest.raises(StorageError, match=r"cannot register qlass-corridor.*run `python -m tasks.register`"):
        registry.Registry("qlass-corridor", "qlass", project)


@pytest.mark.parametrize("left", ["..", "other"])
def test_what_another_project_left_in_dvc_root_is_not_the_store(
    project: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(project / left))
    assert tracking.tracking_uri() == f"sqlite:///{project / 'mlflow.db'}"


def test_the_store_lies_in_the_repository_also_for_queued_experiments(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking.tracking_uri() == f"sqlite:///{project / 'mlflow.db'}"
    monkeypatch.setenv("DVC_ROOT", str(project))
    copy = project / ".dvc" / "tmp" / "exps" / "standalone" / "tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert paths.repository() == project
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert tracking.tracking_uri() == "http://127.0.0.1:1"
