"""What a flow run leaves on its page in Prefect: the table of stages, the results and the links."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.project import REPORT, RESULTS
from tasks.experiments.tracking import ui_command

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from flows.plan import PlannedStage
    from flows.stages import StageResult

Row = dict[str, str]
USABLE = ("ran", "restored", "unchanged", "reused")


def table_of(
    root: Path, plan: Sequence[PlannedStage], results: Mapping[str, StageResult], failed: Collection[str]
) -> list[Row]:
    """Return one row per planned stage: stage, status, why, seconds, and the MLflow run that made its outputs.

    Args:
        root: the project.
        plan: every stage, whether it had to run or not.
        results: of the stages that succeeded in this flow run.
        failed: names of the stages that failed in it.
    """
    rows = []
    for stage in plan:
        done = results.get(stage.name)
        status = done.outcome if done else "failed" if stage.name in failed else "not run" if stage.runs else "reused"
        run_id = run_of(root, stage) if status in USABLE else ""
        seconds = f"{done.seconds:.1f}" if done else ""
        rows.append({"stage": stage.name, "status": status, "why": stage.why, "seconds": seconds, "run_id": run_id})
    return rows


def run_of(root: Path, stage: PlannedStage) -> str:
    """Return the MLflow run that made the outputs which lie there now, be it weeks ago; "" where there is none."""
    for out in stage.outs:
        if out.startswith("runs/") and (root / out).is_file():
            return json.loads((root / out).read_text(encoding="utf-8")).get("run_id") or ""
    return ""


def publish(root: Path, plan: Sequence[PlannedStage], rows: Sequence[Row], run_id: str | None) -> None:
    """Create the artifacts of a pipeline run.

    Args:
        root: the project.
        plan: the stages behind the rows.
        rows: the table.
        run_id: the pipeline's MLflow run; None where nothing ran or tracking is down.
    """
    create_table_artifact([dict(row) for row in rows], key="stages", description="What ran, what was reused, and why")
    reporter = {stage.name for stage in plan if RESULTS in stage.outs}
    if any(row["stage"] in reporter and row["status"] in USABLE for row in rows):  # else the file is of an older run
        page = (root / REPORT).as_uri()
        text = (root / RESULTS).read_text(encoding="utf-8")
        create_markdown_artifact(f"{text}\n\nThe whole report: [{REPORT}]({page})\n", key="results")
        create_link_artifact(page, link_text="report", key="report")
    if run_id:
        publish_run(root, run_id)


def publish_run(root: Path, run_id: str) -> None:
    """Create a link to an MLflow run, or say which command shows it where tracking has no web server."""
    viewer = ui_command(root)
    if viewer.startswith("http"):
        page = f"{viewer.rstrip('/')}/#/runs/{run_id}"
        create_link_artifact(page, link_text=f"MLflow run {run_id}", key="mlflow-run")
    else:
        create_markdown_artifact(f"MLflow run `{run_id}`, shown by\n\n    {viewer}\n", key="mlflow-run")
