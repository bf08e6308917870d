"""`make flow` where a proxy is set: Prefect's temporary server is on this machine, and no proxy leads there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import closed_port

REPOSITORY = Path(__file__).resolve().parents[2]


def run_flow(home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one stage by hand, with only these variables about proxies."""
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    env |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **variables}
    env.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "flows.pipeline", "base"]
    return subprocess.run(command, cwd=REPOSITORY, env=env, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_a_flow_behind_a_dead_proxy(project, tmp_path):
    """Of another server on this machine: reported as oobabooga/textgen#4714."""
    dead = f"127.0.0.1:{closed_port()}"
    ran = run_flow(tmp_path / "home", http_proxy=f"http://{dead}", HTTPS_PROXY=dead, ALL_PROXY=f"http://{dead}")
    assert ran.returncode == 0, ran.stderr
    assert project.ran() == ["base"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("all_proxy", "socks5://127.0.0.1:1080"),
        ("http_proxy", "ftp://user:secret@proxy.example"),
        ("HTTPS_PROXY", "http://user:secret@proxy.example:port"),
        ("NO_PROXY", "corp.example,[::1]"),
        ("no_proxy", "fe80::/10"),
    ],
)
def test_a_variable_that_prefect_cannot_read_is_named(project, tmp_path, variable, value):
    """A SOCKS proxy is one where the package socksio is not installed, as here."""
    ran = run_flow(tmp_path / "home", **{variable: value})
    assert ran.returncode == 2, ran.stderr
    assert f"\n{variable}: Prefect's client cannot use this environment variable" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "secret" not in ran.stderr
    assert project.ran() == []
