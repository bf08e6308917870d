"""The plan: what runs and why, asked of a real DVC project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.plan import after, make_plan
from flows.project import project_root
from flows.shell import Commands
from qlass.errors import Busy, SettingsError
from tasks.project.dvcfiles import cells

# DVC 3.67 uses a part of pygtrie that pygtrie 2.5 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")
REPOSITORY = Path(__file__).resolve().parents[2]


def why(project, *targets, force=False):
    """Return {stage: reasons} of what would run."""
    return {stage.name: list(stage.reasons) for stage in make_plan(project.root, targets, force=force) if stage.runs}


def test_reasons(project, monkeypatch):
    everything = make_plan(project.root)
    names = [stage.name for stage in everything]
    assert names == ["base", "expert@corridor", "explore@corridor", "report"]
    assert [stage.reasons[0] for stage in everything] == ["never ran"] * 4
    assert everything[2].needs == ("expert@corridor",)
    assert everything[2].outs == ("data/explore/corridor/out.txt", "runs/explore/corridor.json")
    assert everything[2].command == "python toy.py explore corridor"

    project.dvc("repro")
    assert why(project) == {}
    monkeypatch.chdir("/")  # DVC's own names of stages depend on the working directory
    assert why(project) == {}

    project.change("width", 5)
    for folder in ("/", project.root, project.root / "data"):
        monkeypatch.chdir(folder)
        assert why(project) == {
            "explore@corridor": ["params changed: explore.width 2 -> 5"],
            "report": ["after explore@corridor"],
        }
    assert why(project, "expert") == {}
    assert list(why(project, "explore")) == ["explore@corridor"]
    assert list(why(project, "expert", "explore@corridor", force=True)) == ["expert@corridor", "explore@corridor"]
    project.change("width", 2)
    assert why(project, "base", force=True) == {"base": ["forced"]}

    (project.root / "code.txt").write_text("2")
    (project.root / "data/base/out.txt").unlink()
    path = project.root / "dvc.yaml"
    path.write_text(path.read_text().replace("report -", "report  -"))
    assert why(project) == {
        "base": ["out missing: data/base/out.txt"],
        "expert@corridor": ["dep modified: code.txt"],
        "explore@corridor": ["after expert@corridor"],
        "report": ["command changed", "after explore@corridor"],
    }


ALWAYS = """
stages:
  env: {cmd: cp installed.txt env.txt, always_changed: true, outs: [env.txt]}
  made: {cmd: cp env.txt made.txt, deps: [env.txt], params: [other.yaml: [a]], outs: [made.txt]}
  last: {cmd: cp made.txt last.txt, deps: [made.txt], outs: [last.txt]}
"""


def test_what_runs_always_makes_nothing_else_run(project):
    (project.root / "dvc.yaml").write_text(ALWAYS)
    (project.root / "installed.txt").write_text("1")
    (project.root / "other.yaml").write_text("a: 1")
    assert why(project) == {
        "env": ["never ran"],
        "made": ["never ran", "after env"],
        "last": ["never ran", "after made"],
    }
    project.dvc("repro")
    assert why(project) == {"env": ["runs always"]}
    assert [stage.out_of_date for stage in make_plan(project.root)] == [False, False, False]
    assert [cell.name for cell in cells(project.root) if cell.always] == ["env"]

    (project.root / "installed.txt").write_text("2")
    assert why(project) == {"env": ["runs always"]}  # nobody can know before it ran
    project.dvc("repro", "--single-item", "env")
    assert why(project) == {"env": ["runs always"], "made": ["dep modified: env.txt"], "last": ["after made"]}
    project.dvc("repro")
    assert why(project, "env", force=True) == {"env": ["runs always", "forced"]}
    assert why(project, "env", "last", force=True)["made"] == ["after env"]

    (project.root / "other.yaml").write_text("a: 2")
    assert why(project, "made")["made"] == ["params changed: other.yaml:a 1 -> 2"]
    (project.root / "env.txt").unlink()
    assert why(project, "made")["env"] == ["out missing: env.txt", "runs always"]
    assert why(project, "made")["made"][-1] == "after env"


def real_graph(root: Path, *names: str) -> None:
    """Make a DVC project of the repository's own files of that name."""
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, root / name)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=root, check=True)


def test_only_searches_need_the_qnet(tmp_path):
    real_graph(tmp_path, "dvc.yaml", "params.yaml")
    plan = {target: make_plan(tmp_path, [target]) for target in ("evaluate", "search")}
    groups = {target: {stage.name.partition("@")[0] for stage in stages} for target, stages in plan.items()}
    assert groups["evaluate"] == {"env", "expert", "source", "base", "train", "evaluate"}
    assert groups["search"] == {"env", "expert", "source", "base", "train", "explore", "label", "qnet", "search"}
    searches = [stage for stage in plan["search"] if stage.name.startswith("search@")]
    assert all(any(need.startswith("qnet@") for need in stage.needs) for stage in searches)


def test_pipelines_below_the_root_are_left_alone(tmp_path):
    """DVC joins all dvc.yaml files into one graph: `make flow` once tried to run the pretraining."""
    real_graph(tmp_path, "dvc.yaml", "params.yaml", "pretrain/dvc.yaml", "pretrain/params.yaml")
    groups = {stage.name.partition("@")[0] for stage in make_plan(tmp_path, [])}
    played = {"explore", "label", "qnet", "evaluate", "search", "report"}
    assert groups == {"env", "expert", "source", "base", "train", *played}


def test_many_reasons_stay_short():
    assert after([]) == []
    assert after(["a", "b", "c"]) == ["after a, b, c"]
    assert after(["a", "b", "c", "d"]) == ["after a, b, 2 more"]


def test_mistakes_name_what_is_allowed(project, tmp_path, monkeypatch):
    with pytest.raises(SettingsError, match=r"no stage explor\. Its stages: base, expert@corridor, explore@corridor"):
        make_plan(project.root, ["explor"])
    (project.root / "dvc.yaml").write_text("stages: {a: {cmd: 'echo ${run.nothing}'}}")
    with pytest.raises(SettingsError, match=r"run\.nothing"):
        make_plan(project.root)
    (project.root / "dvc.yaml").write_text("stages: {a: {cmd: x, outs: [o]}, b: {cmd: x, outs: [o]}}")
    with pytest.raises(SettingsError, match=r"(?s)output 'o' is specified in:.*correct it in dvc.yaml or params.yaml"):
        make_plan(project.root)
    monkeypatch.setenv("QLASS_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no dvc.yaml and no .dvc in"):
        project_root()


def test_a_mistake_ends_the_command_without_a_traceback(project):
    project.change("envs", "corridor")  # no list; DVC itself ends with "'Value' object is not iterable"
    command = [sys.executable, "-m", "flows.plan"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (SettingsError.exit_code, "")
    assert "stages.expert.matrix.env: ${run.envs} is 'corridor'; allowed: a list" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_project_in_use_is_busy(project):
    commands = Commands()
    dvc = [sys.executable, "-m", "dvc", "repro", "--single-item", "base"]
    env = {**os.environ, "TOY_HANG": "base"}
    keywords = {"cwd": project.root, "env": env, "on_line": lambda _: None}
    thread = threading.Thread(target=commands.run, args=(dvc,), kwargs=keywords)
    with commands.ended_on_error():
        thread.start()
        project.hanging()
        with pytest.raises(Busy, match="is busy"):
            make_plan(project.root)
        assert len(make_plan(project.root, ["expert"])) == 1  # only what is selected is asked
    commands.end_all()
    thread.join()
    assert [stage.name for stage in make_plan(project.root, ["base"])] == ["base"]
