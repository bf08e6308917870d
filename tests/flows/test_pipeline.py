"""The flows drive a real DVC project: what runs, what is reused, what a failure and a kill leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.usefixtures("prefect_api"),
    # DVC, MLflow and Prefect run in this process, with newer versions of pygtrie, SQLAlchemy and pandas than they knew.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def flows():
    """Import the flows late: prefect takes seconds, and its home must be set before."""
    import flows.pipeline

    return flows.pipeline


def run(flow, *arguments, **keywords):
    """Run a flow; return its final state, its table as {stage: result}, its artifacts by key, its task runs by name."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, FlowRunFilter, FlowRunFilterId

    state = flow(*arguments, **keywords, return_state=True)
    run_id = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        )
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
    found = {artifact.key: artifact.data for artifact in artifacts}
    rows = json.loads(found.get("stages", "[]"))
    table = {row["stage"]: row["status"] for row in rows}
    names = {task.name: task.state.name for task in tasks}
    return SimpleNamespace(state=state, rows=rows, table=table, artifacts=found, tasks=names)


def test_first_run_then_reuse_then_downstream_of_a_change(project, flows, monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("MLFLOW_RUN_ID", "poison")
    first = run(flows.pipeline)
    assert first.state.is_completed()
    assert set(first.table.values()) == {"ran"}
    calls = project.take_calls()
    assert [call["stage"] for call in calls] == ["base", "expert@corridor", "explore@corridor", "report"]
    parents = {call["QLASS_PARENT_RUN_ID"] for call in calls}
    assert len(parents) == 1
    assert len(parents.pop()) == 32
    assert {call["QLASS_FLOW_RUN_ID"] for call in calls} == {str(first.state.state_details.flow_run_id)}
    assert {call["MLFLOW_RUN_ID"] for call in calls} == {None}
    assert "| qlass | 0.9 |" in first.artifacts["results"]
    assert {"report", "mlflow-run"} <= first.artifacts.keys()

    second = run(flows.pipeline)
    assert second.state.is_completed()
    assert set(second.table.values()) == {"reused"}
    assert project.ran() == []
    assert list(second.tasks) == ["plan"]
    assert "mlflow-run" not in second.artifacts
    made_by = {row["stage"]: row["run_id"] for row in first.rows}
    assert {row["stage"]: row["run_id"] for row in second.rows} == made_by
    assert len(set(made_by.values())) == 4

    project.change("width", 9)
    third = run(flows.pipeline)
    assert project.ran() == ["explore@corridor", "report"]
    assert third.table == {"base": "reused", "expert@corridor": "reused", "explore@corridor": "ran", "report": "ran"}
    assert third.rows[2]["why"] == "params changed: explore.width 2 -> 9"
    assert third.rows[0]["run_id"] == made_by["base"]

    project.change("width", 2)
    fourth = run(flows.pipeline)
    assert project.ran() == ["report"]  # DVC restores no stage with an uncached output, as results.md is
    assert fourth.table["explore@corridor"] == "restored"
    assert fourth.rows[2]["run_id"] == made_by["explore@corridor"]

    project.change("searches", "[qlass]")
    project.change("width", 11)
    fifth = run(flows.pipeline)
    assert fifth.state.is_completed()
    assert [call["stage"] for call in project.take_calls()] == ["explore@corridor", "report", "register"]


def test_what_runs_always_makes_nothing_else_run_unless_it_finds_something(project, flows):
    graph = project.root / "dvc.yaml"
    looks = "stages:\n  look: {cmd: cp outside.txt seen.txt, always_changed: true, outs: [seen.txt: {cache: false}]}\n"
    graph.write_text(graph.read_text().replace("stages:\n", looks).replace("[code.txt]", "[code.txt, seen.txt]"))
    (project.root / "outside.txt").write_text("version 1")
    first = run(flows.pipeline)
    assert first.state.is_completed(), first.state.message
    assert first.table == dict.fromkeys(["base", "expert@corridor", "explore@corridor", "report"], "ran")

    project.take_calls()
    second = run(flows.pipeline)
    assert set(second.table.values()) == {"reused"}
    assert second.tasks["look"] == "Completed"
    assert (project.ran(), "mlflow-run" in second.artifacts) == ([], False)

    (project.root / "outside.txt").write_text("version 2")
    third = run(flows.pipeline)
    assert third.table["expert@corridor"] == "ran"
    assert third.rows[1]["why"] == "dep modified: seen.txt"
    assert project.ran()[0] == "expert@corridor"


def test_a_failing_stage_leaves_independent_ones_alone(project, flows, monkeypatch, caplog):
    monkeypatch.setenv("TOY_FAIL", "base")
    failed = run(flows.pipeline, max_parallel=2)
    assert failed.state.is_failed()
    assert failed.table == {"base": "failed", "expert@corridor": "ran", "explore@corridor": "ran", "report": "ran"}
    for part in (
        "stage base failed with exit code 3",
        "python toy.py base -",
        "about to fail: base",
        "dvc repro base",
    ):
        assert part in failed.state.message
        assert part in caplog.text
    assert failed.tasks["base"] == "Failed"

    monkeypatch.setenv("TOY_FAIL", "expert@corridor")
    (project.root / "code.txt").write_text("2")
    failed = run(flows.pipeline, ["report"])
    assert failed.table == {"expert@corridor": "failed", "explore@corridor": "not run", "report": "not run"}
    assert "results" not in failed.artifacts  # those that lie there are of an earlier run


def test_only_temporary_failures_are_tried_again(project, flows, monkeypatch):
    monkeypatch.setattr("flows.stages.run_stage.retry_delay_seconds", [0])
    monkeypatch.setenv("TOY_FAIL", "base")
    run(flows.pipeline, ["base"])
    assert project.ran() == ["base"]
    monkeypatch.setenv("TOY_CODE", "75")
    failed = run(flows.pipeline, ["base"])
    assert failed.state.is_failed()
    assert project.ran() == ["base"] * 4
    assert "exit code 75" in failed.state.message


def test_the_champion_is_evaluated_by_its_program(project, flows, monkeypatch):
    done = run(flows.evaluate_champion)  # of the first environment that params.yaml runs
    assert done.state.is_completed()
    assert "making evaluate_champion@corridor" in done.artifacts["champion"]
    monkeypatch.setenv("TOY_FAIL", "evaluate_champion@corridor")
    failed = run(flows.evaluate_champion, "corridor")
    assert failed.state.is_failed()
    for part in ("evaluate_champion failed with exit code 3", "python -m tasks.evaluate_champion corridor"):
        assert part in failed.state.message


def test_report_only_and_mistaken_targets(project, flows):
    failed = run(flows.pipeline, ["nothing"])
    assert failed.state.is_failed()
    assert "Its stages: base, expert@corridor" in failed.state.message
    run(flows.pipeline)
    project.take_calls()
    project.change("width", 9)
    (project.root / "data/report/results.md").unlink()
    (project.root / "data/report/index.html").write_text("edited")
    only = run(flows.report_only)
    assert only.state.is_completed()
    assert list(only.table) == ["report"]
    assert "explore@corridor" not in project.ran()


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_flow_leaves_no_process(project, prefect_api, watch, kill):
    env = {**os.environ, "PREFECT_API_URL": prefect_api, "TOY_HANG": "base"}
    command = [sys.executable, "-m", "flows.pipeline", "base"]
    flow = subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pids = project.hanging()
    flow.send_signal(kill)
    assert flow.wait(120) != 0
    watch.all_dead(pids, 10)
    assert not (project.root / "dvc.lock").exists()
