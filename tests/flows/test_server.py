"""`prefect.yaml` on a real Prefect server with a real worker, each a process of its own, as a user starts them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import yaml

from qlass.processes import Running
from tests.ports import closed_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prefect.client.orchestration import SyncPrefectClient

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOYMENTS = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
NAMES = [f"{deployment['entrypoint'].split(':')[1]}/{deployment['name']}" for deployment in DEPLOYMENTS]


class Server:
    """A running Prefect server; `start` runs more prefect commands against it."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        port = closed_port()
        self.folder, self.stack = folder, stack
        self.env = {**os.environ, "PREFECT_HOME": str(folder / "home"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        self.env |= {"PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "PREFECT_WORKER_QUERY_SECONDS": "1"}
        self.start("server", "start", "--host", "127.0.0.1", "--port", str(port))

    def start(self, *arguments: str) -> None:
        """Start a prefect command in the background, in a foreign working directory; it is ended with the test.

        Under the supervisor, which kills after a while: a worker of Prefect 3.8.8 that has cancelled a run can ignore SIGTERM.
        """
        log = self.folder / f"{arguments[0]}.log"
        command = ["sh", "-c", f'exec "$0" "$@" > "{log}" 2>&1', sys.executable, "-m", "prefect", *arguments]
        self.stack.enter_context(Running(command, cwd=self.folder, env=self.env, captured=False))

    def answers(self, path: str) -> bool:
        """Tell whether a GET succeeds."""
        try:
            return httpx.get(self.env["PREFECT_API_URL"] + path, timeout=30).is_success
        except httpx.TransportError:
            return False

    def connect(self) -> SyncPrefectClient:
        """Return a client of this server."""
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        self.stack.enter_context(temporary_settings({PREFECT_API_URL: self.env["PREFECT_API_URL"]}))
        return self.stack.enter_context(get_client(sync_client=True))


@pytest.fixture
def server(project, tmp_path, watch) -> Iterator[SyncPrefectClient]:
    """Start server and worker, deploy prefect.yaml as it is, and return a client."""
    with contextlib.ExitStack() as stack:
        made = Server(tmp_path, stack)
        watch.until(lambda: made.answers("/health"), 240)
        made.start("worker", "start", "--pool", "local-process", "--type", "process", "--limit", "1")
        watch.until(lambda: made.answers("/work_pools/local-process"), 120)
        deploy = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
        subprocess.run(deploy, cwd=REPOSITORY, env=made.env, check=True, capture_output=True)
        yield made.connect()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_deployment_runs_and_is_cancelled(server, project, watch):
    from prefect.states import Cancelling

    full, *others = (server.read_deployment_by_name(name) for name in NAMES)
    assert len(others) == 2
    assert [(schedule.active, schedule.slug) for schedule in full.schedules] == [(False, "weekly")]
    assert full.global_concurrency_limit.limit == 1
    assert full.concurrency_options.collision_strategy.value == "ENQUEUE"
    assert [list(step.values()) for step in full.pull_steps] == [[{"directory": str(REPOSITORY)}]]

    def state(run):
        return server.read_flow_run(run.id).state

    run = server.create_flow_run_from_deployment(full.id, parameters={"targets": ["report"]})
    watch.until(lambda: state(run).is_final(), 240)
    assert state(run).is_completed(), state(run)
    assert project.ran() == ["expert@corridor", "explore@corridor", "report"]

    hang = {"env": {"TOY_HANG": "base"}}
    run = server.create_flow_run_from_deployment(full.id, parameters={"targets": ["base"]}, job_variables=hang)
    pids = project.hanging()
    server.set_flow_run_state(run.id, Cancelling())
    watch.all_dead(pids, 120)
    watch.until(lambda: state(run).is_cancelled(), 120)


def test_prefect_yaml_names_flows_and_no_machine():
    import flows.pipeline

    text = (REPOSITORY / "prefect.yaml").read_text()
    assert str(REPOSITORY) not in text
    for deployment in DEPLOYMENTS:
        path, name = deployment["entrypoint"].split(":")
        assert (REPOSITORY / path).is_file()
        accepted = getattr(flows.pipeline, name).parameters.properties
        assert deployment.get("parameters", {}).keys() <= accepted.keys()
        for schedule in deployment.get("schedules", []):
            assert schedule["slug"]
            assert schedule["active"] is False
