"""Tracking in MLflow: the only file that imports mlflow.

Logging is best effort: when MLflow fails, a warning says so once, the run logs nothing more and the stage goes on.
Registering a model (`tasks.experiments.registry`) is strict. Every call names its run, so threads and processes cannot mix
runs up. The store is SQLite in the repository unless MLFLOW_TRACKING_URI says otherwise; no server is needed.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec

from qlass.errors import QlassError, StorageError
from qlass.jsonl import write_json
from tasks.experiments import store
from tasks.experiments.identity import identities, is_dead, process_tags
from tasks.project import paths, variables

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from qlass.records import Episode

logger = logging.getLogger(__name__)

PARENT = "QLASS_PARENT_RUN_ID"
"""Variable with the MLflow run of the whole pipeline run; stages become its children. (MLFLOW_RUN_ID would merge them.)"""

Status = Literal["FINISHED", "FAILED", "KILLED"]
P = ParamSpec("P")

_FLUSH_COUNT, _FLUSH_S = 500, 5.0
"""A metric costs 20 ms alone and 0.1 ms in a batch, so they are collected up to this many or this long."""


def tracking_uri(root: Path | None = None) -> str:
    """Return MLFLOW_TRACKING_URI, or the SQLite store of the repository as an absolute address."""
    return os.environ.get("MLFLOW_TRACKING_URI") or store.address(_own(root))


def _own(root: Path | None) -> Path:
    """Return the SQLite store of the repository."""
    return (root or paths.repository()).resolve() / store.NAME


def connect(root: Path | None = None) -> MlflowClient:
    """Return a client; the first one of a repository creates the SQLite store (about 8 s), one process at a time.

    The store of a project that was copied or moved is brought to its new place before.

    Raises:
        StorageError: the store is damaged, read-only, of another version of MLflow, or lies in a folder that MLflow
            cannot name.
    """
    variables.apply(root)
    import mlflow
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # the traceback of what it then raises
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_uri(root)
    database = store.file_of(uri)
    with store.named_faults(database), store.locked(database):
        if database == _own(root):
            store.check_name(database)
            store.settle(database)
        given = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(store.reached(uri))
        # MLflow sets the variable, and what we start later would take our default for the user's choice.
        if given is None:
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        else:
            os.environ["MLFLOW_TRACKING_URI"] = given
        _artifact_repos_cache.clear()  # by run: that of another store may be a copy of this one's
        client = mlflow.MlflowClient(store.reached(uri))
        client.search_experiments(max_results=1)
    return client


def experiment_id(client: MlflowClient, name: str, root: Path | None = None) -> str:
    """Return the id of an experiment, created where missing; a SQLite store has its artifacts beside it, in `mlruns`.

    Raises:
        StorageError: somebody deleted it, or it keeps artifacts in a place that is not there.
    """
    uri = tracking_uri(root)
    database = store.file_of(uri)
    with store.locked(database):
        found = client.get_experiment_by_name(name)
        if found is None:
            local = store.artifacts(database, name) if database else None
            return str(client.create_experiment(name, artifact_location=local))
    if found.lifecycle_stage != "active":
        raise StorageError(
            f"MLflow at {uri}: the experiment {name!r} was deleted, so nothing can be logged or registered there; restore "
            f"it: `MLFLOW_TRACKING_URI={shlex.quote(uri)} mlflow experiments restore --experiment-id "
            f"{found.experiment_id}`, or name another one in tracking.experiment of params.yaml"
        )
    place = store.local_path(found.artifact_location)
    if database and place and not place.is_relative_to(database.parent) and not place.parent.exists():
        raise StorageError(
            f"{database}: the experiment {name!r} keeps its artifacts in {place}, and there is no {place.parent} here; "
            "bring that folder back (is its disk mounted?), or name another experiment in tracking.experiment of "
            "params.yaml"
        )
    return str(found.experiment_id)


def _best_effort(
    method: Callable[Concatenate[Tracker, P], None],
) -> Callable[Concatenate[Tracker, P], None]:
    """Let a method of Tracker do nothing without a run, and turn its failure into one warning."""

    @wraps(method)
    def guarded(self: Tracker, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.client is None:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  whatever MLflow raises, a stage must not fail of it
            self.give_up(error)

    return guarded  # type: ignore[return-value]  # mypy names the first argument, the type cannot


class Tracker:
    """One MLflow run. Without a client (tracking is down, or was told to give up) every method does nothing."""

    def __init__(self, client: Any, experiment: str | None, run_id: str | None) -> None:
        """Wrap a run; `open_run` makes one."""
        self.client = self._opened = client
        self.experiment = experiment
        self.run_id = run_id
        self._buffer: list[Any] = []
        self._flushed = time.monotonic()
        self._monitor: Any = None

    def give_up(self, error: Exception) -> None:
        """Stop logging, and say why."""
        said = str(error) if isinstance(error, QlassError) else repr(error)
        logger.warning("tracking=down uri=%s error=%s; the stage goes on without", tracking_uri(), said)
        self.client = None

    @_best_effort
    def params(self, values: Mapping[str, Any]) -> None:
        """Log settings; nested mappings get dotted names."""
        from mlflow.entities import Param

        flat = [Param(name, _text(value)[:6000]) for name, value in flatten(values, ".").items()]
        for start in range(0, len(flat), 100):  # MLflow's limit per call
            self.client.log_batch(self.run_id, params=flat[start : start + 100])

    @_best_effort
    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; None is left out."""
        from mlflow.entities import RunTag

        tags = [RunTag(name, _text(value)[:8000]) for name, value in values.items() if value is not None]
        self.client.log_batch(self.run_id, tags=tags)

    @_best_effort
    def metrics(self, values: Mapping[str, Any], step: int = 0) -> None:
        """Log the numbers of a (nested) mapping at a step; names are joined by `/`, other values are left out."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for name, value in flatten(values, "/").items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self._buffer.append(Metric(_metric_name(name), float(value), now, step))
        if len(self._buffer) >= _FLUSH_COUNT or time.monotonic() - self._flushed > _FLUSH_S:
            self._flush()

    @_best_effort
    def results(self, root: Path) -> None:
        """Log what the evaluations of a pipeline run measured."""
        from tasks.experiments.outcome import result_metrics

        self.metrics(result_metrics(root))

    @_best_effort
    def dataset(self, path: str, digest: str, context: str = "input") -> None:
        """Name a file or folder that was read, with its DVC hash."""
        from mlflow.data.dataset_source_registry import resolve_dataset_source
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag

        with warnings.catch_warnings():  # MLflow registers its reader of local files twice, and says so each time
            warnings.simplefilter("ignore", UserWarning)
            source = resolve_dataset_source(_text(paths.repository() / path))
        data = MetaDataset(source=source, name=path, digest=digest[:36])._to_mlflow_entity()  # type: ignore[abstract]
        self.client.log_inputs(self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

    @_best_effort
    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Upload one small file or folder. Weights do not belong here: DVC keeps them."""
        upload = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        upload(self.run_id, str(path), folder)

    @_best_effort
    def table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Log rows as a table that the MLflow UI shows (the format of `log_table`, which would import pandas)."""
        columns = list(rows[0]) if rows else []
        self.client.log_dict(self.run_id, {"columns": columns, "data": [list(row.values()) for row in rows]}, name)
        self.client.set_tag(self.run_id, "mlflow.loggedArtifacts", json.dumps([{"path": name, "type": "table"}]))

    @_best_effort
    def episodes(self, episodes: Sequence[Episode], limit: int) -> None:
        """Make traces of the first `limit` episodes: one span per step, with the candidates and their Q."""
        import mlflow

        with warnings.catch_warnings():  # about MLflow's own type hints, at the first span
            warnings.simplefilter("ignore", UserWarning)
            for episode in episodes[:limit]:
                _trace(episode, self.experiment, self.run_id)
        mlflow.flush_trace_async_logging()

    @_best_effort
    def watch_system(self) -> None:
        """Log CPU, memory, disk and GPU use every 10 s until `finish`."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(self.run_id, tracking_uri=self.client.tracking_uri)  # type: ignore[no-untyped-call]
        self._monitor.start()

    def finish(self, status: Status = "FINISHED") -> None:
        """Write what is buffered and close the run, also where logging was given up in between."""
        self._write_rest()
        if self._opened is None:
            return
        try:
            self._opened.set_terminated(self.run_id, status)
        except Exception as error:  # noqa: BLE001  see _best_effort
            if self.client is not None:
                self.give_up(error)

    def write_pointer(self, path: Path) -> None:
        """Write the run pointer, an output of the stage; its fields are null where the run could not be opened."""
        write_json(path, {"run_id": self.run_id, "experiment_id": self.experiment})

    @_best_effort
    def _write_rest(self) -> None:
        """Stop the monitor and send what is buffered."""
        if self._monitor is not None:
            self._monitor.finish()
        self._flush()

    def _flush(self) -> None:
        """Send the buffered metrics."""
        while self._buffer:
            batch, self._buffer = self._buffer[:1000], self._buffer[1000:]
            self.client.log_batch(self.run_id, metrics=batch)
        self._flushed = time.monotonic()


def open_run(
    name: str, experiment: str, *, tags: Mapping[str, Any] = {}, parent: str | None = None, root: Path | None = None
) -> Tracker:
    """Open a run; when MLflow cannot be reached, warn and return a Tracker that does nothing.

    Args:
        name: shown in the UI.
        experiment: name of the MLflow experiment (`tracking.experiment`).
        tags: beside the five identities and the process.
        parent: run id of the parent; QLASS_PARENT_RUN_ID by default.
        root: the repository.
    """
    try:
        return create_run(name, experiment, tags=tags, parent=parent, root=root)
    except Exception as error:  # noqa: BLE001  see _best_effort
        tracker = Tracker(None, None, None)
        tracker.give_up(error)
        return tracker


def create_run(
    name: str, experiment: str, *, tags: Mapping[str, Any] = {}, parent: str | None = None, root: Path | None = None
) -> Tracker:
    """Open a run as `open_run` does, but raise what MLflow raises."""
    root = root or paths.repository()
    parent = parent or os.environ.get(PARENT)  # "" where tracking was down when the pipeline run began
    all_tags = {**identities(root), **process_tags(root), **tags}
    if parent:
        all_tags["mlflow.parentRunId"] = parent
    client = connect(root)
    with store.named_faults(store.file_of(tracking_uri(root))):
        experiment_key = experiment_id(client, experiment, root)
        _close_dead(client, experiment_key, root)
        run = client.create_run(experiment_key, run_name=name, tags={key: _text(tag) for key, tag in all_tags.items()})
    return Tracker(client, experiment_key, str(run.info.run_id))


def start_pipeline_run(root: Path, *, name: str = "pipeline", tags: Mapping[str, Any] = {}) -> str | None:
    """Open the parent run of one pipeline run, in the experiment of params.yaml.

    Give the id to every stage in the variable QLASS_PARENT_RUN_ID (the constant PARENT), and end with
    `finish_pipeline_run`.

    Args:
        root: absolute path of the repository.
        name: shown in the UI.
        tags: beside the five identities, for example {"prefect.flow_run_id": ...}.

    Returns:
        The MLflow run id, or None when tracking is down (the stages then run without a parent).
    """
    from tasks.project.settings import load_all

    settings = load_all(root / paths.PARAMS)
    return open_run(name, settings.tracking.experiment, tags={"kind": "pipeline", **tags}, root=root).run_id


def finish_pipeline_run(root: Path, run_id: str | None, status: Status = "FINISHED") -> list[dict[str, Any]]:
    """Close the parent run: log the table of stages, params.yaml, dvc.lock and the results of a run that succeeded; tag the stages' runs.

    Doing it twice is harmless. `run_id` None (tracking was down) still returns the table, without who ran.

    Returns:
        One row per stage in `dvc.lock`: {"stage", "status": "ran" | "reused" | "unknown", "run_id", "dvc_lock"}; the
        run is the one that produced the outputs, whenever that was.
    """
    from tasks.experiments.outcome import stage_rows

    tracker = _reopen(root, run_id)
    try:
        rows = stage_rows(root, _children(tracker))
    except (OSError, QlassError) as error:  # params.yaml was edited meanwhile, say: the work is done all the same
        logger.warning("stages=unknown error=%r", error)
        rows = []
    for row in rows:
        Tracker(tracker.client if row["run_id"] else None, tracker.experiment, row["run_id"]).tags(
            {"dvc.lock": row["dvc_lock"], "dvc.stage": row["stage"]}
        )
    tracker.table(rows, "stages.json")
    logged = [paths.PARAMS, paths.DVC_LOCK]
    if status == "FINISHED":  # else the results that lie there are those of an earlier run
        tracker.results(root)
        logged.append(paths.REPORT / "results.md")
    for path in logged:
        if (root / path).exists():
            tracker.artifact(root / path)
    tracker.finish(status)
    return rows


def ui_command(root: Path) -> str:
    """Return the command, for a shell, or the address that shows the runs."""
    uri = tracking_uri(root)
    if uri.startswith("http"):
        return uri
    if store.reached(uri) == uri:
        return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    return f"cd {shlex.quote(str(_own(root).parent))} && mlflow ui --backend-store-uri sqlite:///{store.NAME}"


def _reopen(root: Path, run_id: str | None) -> Tracker:
    """Return a Tracker of an existing run."""
    if run_id is None:
        return Tracker(None, None, None)
    try:
        client = connect(root)
        return Tracker(client, str(client.get_run(run_id).info.experiment_id), run_id)
    except Exception as error:  # noqa: BLE001  see _best_effort
        tracker = Tracker(None, None, run_id)
        tracker.give_up(error)
        return tracker


def _children(tracker: Tracker) -> set[str] | None:
    """Return the run ids below a parent, or None where MLflow cannot say."""
    if tracker.client is None:
        return None
    try:
        query = f"tags.`mlflow.parentRunId` = '{tracker.run_id}'"
        return {str(run.info.run_id) for run in tracker.client.search_runs([tracker.experiment], query)}
    except Exception as error:  # noqa: BLE001  see _best_effort
        tracker.give_up(error)
        return None


def _close_dead(client: MlflowClient, experiment: str, root: Path) -> None:
    """Mark as KILLED the runs of this checkout whose process ended without closing them.

    Other processes of the checkout may well live: the workers of DVC's queue run the same stage side by side.
    """
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if not is_dead(run.data.tags, root):
            continue
        # Once more, as it may have closed its run before it ended. Now that it has, nothing changes any more.
        if client.get_run(run.info.run_id).info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")


def _trace(episode: Episode, experiment: str | None, run_id: str | None) -> None:
    """Make one trace of an episode: a root span, below it one span per step."""
    import mlflow
    from mlflow.entities import SpanType

    facts = {"task_id": episode.task_id, "category": episode.category, "method": episode.method}
    root = mlflow.start_span_no_context(
        name=episode.task_id,
        span_type=SpanType.AGENT,
        inputs={"observation": episode.observation},
        attributes={**facts, "seed": str(episode.seed)},
        tags={**facts, "success": str(episode.success).lower()},
        metadata={"mlflow.sourceRun": str(run_id)},
        experiment_id=experiment,
    )
    seen = episode.observation
    for number, step in enumerate(episode.steps):
        span = mlflow.start_span_no_context(
            name=step.action[:80] or "(empty)", span_type=SpanType.TOOL, parent_span=root, inputs={"observation": seen}
        )
        if number < len(episode.candidates):
            span.set_attribute("candidates", [{"action": a, "q": q} for a, q in episode.candidates[number]])
        span.end(outputs={"thought": step.thought, "action": step.action, "observation": step.observation})
        seen = step.observation
    root.end(outputs={"outcome": episode.outcome, "success": episode.success, "error": episode.error})


def flatten(values: Mapping[str, Any], joint: str) -> dict[str, Any]:
    """Return a nested mapping as one of depth one, names joined by `joint`."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat.update({f"{name}{joint}{inner}": leaf for inner, leaf in flatten(value, joint).items()})
        else:
            flat[str(name)] = value
    return flat


def _text(value: object) -> str:
    """Return a value as text that a database takes: a file name that is not UTF-8 is no such text."""
    return str(value).encode("utf-8", "backslashreplace").decode("utf-8")


def _metric_name(name: str) -> str:
    """Replace what MLflow does not allow in the name of a metric."""
    return "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)
