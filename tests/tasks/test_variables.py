"""What the environment must not decide: it is overridden or refused, and docs/operations.md says so."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.experiments import tracking
from tasks.experiments.identity import identities
from tasks.project import variables
from tests.tasks.conftest import REPOSITORY, clean_environment

PREPARE = "from tasks.running import runner; runner.prepare(); import sys; sys.stdout.write('\\u00b1\\n')"


def prepare(**set_: str) -> subprocess.CompletedProcess[str]:
    """Run a program that prepares itself as all do, with variables."""
    env = clean_environment() | set_
    return subprocess.run(
        [sys.executable, "-c", PREPARE], env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_what_is_overridden_is_gone_or_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    named = [name.replace("*", "SOMETHING") for override in variables.OVERRIDDEN for name in override.names]
    for name in named:
        monkeypatch.setenv(name, "theirs")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth9")
    variables.apply()
    left = {name: os.environ.get(name) for name in named if name in os.environ}
    assert left.pop("DS_ACCELERATOR", "cpu") == "cpu"
    assert set(left.values()) == {"false"}
    assert left.keys() == {name for override in variables.OVERRIDDEN if override.value for name in override.names}
    assert (os.environ["OMP_NUM_THREADS"], os.environ["NCCL_SOCKET_IFNAME"]) == ("7", "eth9")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PYTHONOPTIMIZE", "2"),
        ("PYTHONWARNINGS", "default,error::UserWarning"),
        ("PYTHONSAFEPATH", "1"),
        ("PYTHONUTF8", "0"),
    ],
)
def test_what_no_program_works_with_is_refused_by_name(name: str, value: str) -> None:
    done = prepare(**{name: value, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"})
    assert done.returncode == 2
    assert f"the environment variable {name}: found {value!r}; unset it: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_lost_exit_code_is_refused_too() -> None:
    done = prepare(PYTHONINSPECT="1")
    assert done.returncode == 1  # Python's own, after its prompt has found no input
    assert "the environment variable PYTHONINSPECT: found '1'" in done.stderr


@pytest.mark.parametrize(
    "extra", [{"PYTHONOPTIMIZE": "1"}, {"PYTHONWARNINGS": "ignore"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_other_values_are_the_users(extra: dict[str, str]) -> None:
    done = prepare(**extra)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("\\xb1\n" if "PYTHONIOENCODING" in extra else "\u00b1\n")


def test_a_git_hook_of_another_repository_changes_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = {}
    for name in ("ours", "theirs"):
        folder = tmp_path / name
        git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", name], check=True)
        commits[name] = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
    variables.apply(tmp_path / "ours")
    assert identities(tmp_path / "ours")["git.commit"] == commits["ours"].strip()


def test_traces_go_into_the_run_whatever_a_cluster_collects(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from tasks.experiments import tracking\n"
        "from tests.tasks.test_tracking import episode\n"
        "tracker = tracking.open_run('a', 'qlass')\n"
        "tracker.episodes([episode(0)], 1)\n"
        "tracker.finish()\n"
    )
    ambient = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_TRACES_SAMPLER": "always_off",
        "MLFLOW_TRACE_SAMPLING_RATIO": "0",
        "MLFLOW_EXPERIMENT_NAME": "theirs",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    }
    subprocess.run([sys.executable, "-c", code], cwd=project, env=clean_environment() | ambient, check=True)
    client = tracking.connect(project)
    (found,) = (e for e in client.search_experiments() if e.name != "Default")
    assert found.name == "qlass"
    traces = client.search_traces(locations=[found.experiment_id], include_spans=False)
    assert len(traces) == 1


@pytest.mark.slow
def test_no_result_depends_on_the_order_of_hashes(project: Path, params: Callable[[dict[str, Any]], None]) -> None:
    params({"recipes.sft.trajectories": 2, "recipes.sft.epochs": 1})
    shutil.copytree(REPOSITORY / "models", project / "models")
    found = []
    for seed in ("1", "77"):
        env = clean_environment() | {"PYTHONHASHSEED": seed, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
        for stage in ("source", "base", "expert corridor", "train corridor sft"):
            command = [sys.executable, "-m", f"tasks.stages.{stage.partition(' ')[0]}", *stage.split()[1:]]
            subprocess.run(command, cwd=project, env=env, check=True)
        files = sorted(path for path in (project / "data").rglob("*") if path.is_file())
        found.append({str(path.relative_to(project)): path.read_bytes() for path in files})
        shutil.rmtree(project / "data")
    assert found[0] == found[1]
    assert len(found[0]) > 8


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading of docs/operations.md."""
    text = (REPOSITORY / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.partition(f"### {heading}\n")[2].partition("\n#")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_document_names_what_is_overridden() -> None:
    wanted = [
        [" ".join(f"`{name}`" for name in o.names), o.reader, f"`{o.value}`" if o.value else "removed", o.reason]
        for o in variables.OVERRIDDEN
    ]
    assert rows("Overridden") == wanted


def test_the_document_names_what_is_refused() -> None:
    assert rows("Refused") == [[f"`{name}`", reason] for name, reason in variables.REFUSED.items()]


def test_the_document_names_our_own_variables() -> None:
    code = "\n".join(
        path.read_text() for top in ("qlass", "tasks", "flows") for path in (REPOSITORY / top).rglob("*.py")
    )
    ours = set(re.findall(r"\bQLASS_[A-Z_]+", code))
    assert ours <= set(re.findall(r"`(QLASS_[A-Z_]+)`", " ".join(cell for row in rows("Obeyed") for cell in row)))
