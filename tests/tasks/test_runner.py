import importlib.util
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qlass.errors import DataError, QlassError
from tasks.experiments import tracking
from tasks.running import disk

STAGE = """
import time
from pathlib import Path
from qlass.errors import DataError
from qlass.jsonl import write_json
from tasks.running.runner import StageJob, run

def main(job: StageJob) -> None:
    mode = job.cell.items["mode"]
    with job.work_folder() as folder:
        (folder / "started").touch()
        if mode == "slow":
            time.sleep(60)
        if mode == "data":
            raise DataError("data/x.jsonl:3: broken; make it again")
        if mode == "bug":
            raise ZeroDivisionError("oops")
        if mode == "full":
            Path("/dev/full").write_text("x")
        if mode == "undeclared":
            job.settings.base.seed
    write_json(Path(f"data/probe/{mode}/metrics.json"), {"gamma": job.settings.label.gamma, "inner": {"a b": 1}})
    job.tracker.metrics({"loss": 0.5}, 1)

if __name__ == "__main__":
    raise SystemExit(run("probe", main))
"""
ENTRY = """
  probe:
    matrix: {mode: [good, slow, data, bug, full, undeclared]}
    cmd: python -m tasks.probe ${item.mode}
    deps: [tasks/stages/probe.py]
    params: [label.gamma]
    outs: ["runs/probe/${item.mode}.json"]
    metrics:
      - data/probe/${item.mode}/metrics.json: {cache: false}
"""
Stage = Callable[..., tuple[int, str]]


def add_probe(project: Path) -> None:
    """Add a stage to the project's pipeline that behaves as its argument says."""
    (project / "tasks" / "stages" / "probe.py").write_text(STAGE)
    # The package that this process has imported is the repository's own.
    spec = importlib.util.spec_from_file_location("tasks.stages.probe", project / "tasks" / "stages" / "probe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules["tasks.stages.probe"] = module
    with (project / "dvc.yaml").open("a") as file:
        file.write(ENTRY)


def the_run(project: Path) -> object:
    client = tracking.connect(project)
    experiment = client.get_experiment_by_name("qlass")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    return found


def test_a_good_stage_leaves_outputs_a_run_and_a_pointer(project: Path, stage: Stage) -> None:
    add_probe(project)
    code, log = stage("probe", "good")
    assert code == 0, log
    run = the_run(project)
    assert f'"run_id": "{run.info.run_id}"' in (project / "runs/probe/good.json").read_text()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "probe@good"
    assert run.data.params == {"label.gamma": "0.9"}
    assert (run.data.metrics["gamma"], run.data.metrics["inner/a b"], run.data.metrics["loss"]) == (0.9, 1.0, 0.5)
    assert (run.data.tags["stage"], run.data.tags["mode"]) == ("probe", "good")
    assert not list((project / ".work" / "probe").iterdir())
    assert f"stage=probe@good run_id={run.info.run_id} start=1" in log


def test_an_unreachable_server_does_not_fail_a_stage(
    project: Path, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_probe(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, log = stage("probe", "good")
    assert code == 0, log
    assert log.count("tracking=down") == 1
    assert '"run_id": null' in (project / "runs/probe/good.json").read_text()
    assert (project / "data/probe/good/metrics.json").exists()


def test_our_errors_are_one_message_and_their_exit_code(project: Path, stage: Stage) -> None:
    add_probe(project)
    code, log = stage("probe", "data")
    assert code == 3
    assert log.rstrip().endswith("error=DataError exit_code=3\ndata/x.jsonl:3: broken; make it again")
    assert "Traceback" not in log
    assert not (project / "runs/probe/data.json").exists()
    assert the_run(project).info.status == "FAILED"
    assert len(list((project / ".work" / "probe").glob("*/started"))) == 1


def test_a_bug_shows_its_traceback(project: Path, stage: Stage) -> None:
    add_probe(project)
    with pytest.raises(ZeroDivisionError, match="oops"):
        stage("probe", "bug")
    assert the_run(project).info.status == "FAILED"


def test_a_full_disk_is_named(project: Path, stage: Stage) -> None:
    add_probe(project)
    code, log = stage("probe", "full")
    assert code == 8
    assert re.search(rf"error=StorageError exit_code=8\n{project}: no space left on the disk \([\d,]+ MiB free\)", log)
    assert "[Errno 28] No space left on device; what was finished is kept" in log
    assert "Traceback" not in log
    assert the_run(project).info.status == "FAILED"


@pytest.mark.parametrize(
    ("error", "free", "named"),
    [
        (
            RuntimeError("[enforce fail] . unexpected pos 576 vs 534"),
            4096,
            True,
        ),  # torch.save; says nothing about the disk
        (RuntimeError("[enforce fail] . unexpected pos 576 vs 534"), 1 << 30, False),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1 << 30, True),  # safetensors, file removed
        (sqlite3.OperationalError("database or disk is full"), 1 << 30, True),
        (QlassError("2 ranks failed: No space left on device"), 1 << 30, True),  # a rank's error, told by its parent
        (DataError("data/x.jsonl:3: broken"), 4096, False),  # has its name and its place already
    ],
)
def test_what_a_full_disk_looks_like(
    monkeypatch: pytest.MonkeyPatch, error: Exception, free: int, named: bool
) -> None:
    monkeypatch.setattr(disk, "_free", lambda folder: free)
    found = disk.full(error)
    assert (found is not None) == named
    if found:
        assert str(error) in str(found)
        assert f"({free >> 20:,} MiB free)" in str(found)


def test_an_undeclared_setting_is_refused(project: Path, stage: Stage) -> None:
    add_probe(project)
    code, log = stage("probe", "undeclared")
    assert code == 2
    assert "stage probe@undeclared reads base.seed, but declares only label.gamma" in log


def test_arguments_are_those_of_the_matrix(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        stage("expert", "moon")
    assert caught.value.code == 2
    assert re.search(r"invalid choice: 'moon' \(choose from '?corridor", capsys.readouterr().err)


@pytest.mark.slow
def test_sigterm_closes_the_run_and_keeps_the_work(project: Path) -> None:
    add_probe(project)
    command = [sys.executable, "-m", "tasks.stages.probe", "slow"]
    env = {**os.environ, "PYTHONPATH": str(project)}
    with subprocess.Popen(command, cwd=project, env=env, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list((project / ".work").glob("probe/*/started")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        second = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert second.returncode == 75
    assert f"process {process.pid} (`" in second.stderr
    client = tracking.connect(project)
    runs = client.search_runs([str(client.get_experiment_by_name("qlass").experiment_id)])
    assert [run.info.status for run in runs] == ["KILLED"]
    assert not (project / "runs").exists()
