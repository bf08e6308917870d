"""The plan: what runs and why, asked of a real DVC project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flows.plan import PlanBusyError, PlanError, after, make_plan
from flows.project import project_root
from flows.shell import Commands

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
    assert groups["evaluate"] == {"expert", "base", "sft", "evaluate"}
    assert groups["search"] == {"expert", "base", "sft", "explore", "label", "qnet", "search"}
    searches = [stage for stage in plan["search"] if stage.name.startswith("search@")]
    assert all(any(need.startswith("qnet@") for need in stage.needs) for stage in searches)


def test_pipelines_below_the_root_are_left_alone(tmp_path):
    """DVC joins all dvc.yaml files into one graph: `make flow` once tried to run the pretraining."""
    real_graph(tmp_path, "dvc.yaml", "params.yaml", "pretrain/dvc.yaml", "pretrain/params.yaml")
    groups = {stage.name.partition("@")[0] for stage in make_plan(tmp_path, [])}
    assert groups == {"expert", "base", "sft", "explore", "label", "qnet", "evaluate", "search", "report"}


def test_many_reasons_stay_short():
    assert after([]) == []
    assert after(["a", "b", "c"]) == ["after a, b, c"]
    assert after(["a", "b", "c", "d"]) == ["after a, b, 2 more"]


def test_mistakes_name_what_is_allowed(project, tmp_path, monkeypatch):
    with pytest.raises(PlanError, match=r"no stage explor\. Its stages: base, expert@corridor, explore@corridor"):
        make_plan(project.root, ["explor"])
    (project.root / "dvc.yaml").write_text("stages: {a: {cmd: 'echo ${run.nothing}'}}")
    with pytest.raises(PlanError, match=r"run\.nothing"):
        make_plan(project.root)
    monkeypatch.setenv("QLASS_ROOT", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no dvc.yaml and no .dvc in"):
        project_root()


def test_a_project_in_use_is_busy(project):
    commands = Commands()
    dvc = [sys.executable, "-m", "dvc", "repro", "--single-item", "base"]
    env = {**os.environ, "TOY_HANG": "base"}
    keywords = {"cwd": project.root, "env": env, "on_line": lambda _: None}
    thread = threading.Thread(target=commands.run, args=(dvc,), kwargs=keywords)
    thread.start()
    project.hanging()
    with pytest.raises(PlanBusyError, match="is busy"):
        make_plan(project.root)
    commands.end_all()
    thread.join()
    assert [stage.name for stage in make_plan(project.root, ["base"])] == ["base"]
