import math
import os
import re
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
from dvc.repo import Repo

from qlass.errors import SettingsError
from tasks.project import dvcfiles, paths

REPOSITORY = Path(__file__).parents[2]


def dvc_init(root: Path) -> None:
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "-q"], cwd=root, check=True)


def test_cells_are_the_stages_that_dvc_sees(project: Path) -> None:
    dvc_init(project)
    with Repo(str(project)) as repo:
        assert [cell.name for cell in dvcfiles.cells(project)] == [stage.name for stage in repo.index.stages]


def test_a_folder_in_which_dvc_cannot_work_is_named(tmp_path: Path) -> None:
    """An unpacked ZIP has no .git, a copy of what is visible no .dvc."""
    with pytest.raises(SettingsError, match=r"no folder \.dvc.*dvc init"):
        dvcfiles.check_project(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    with pytest.raises(SettingsError, match=r"unpacked ZIP.*git init.*core\.no_scm true"):
        dvcfiles.check_project(tmp_path)
    (tmp_path / ".dvc" / "config.local").write_text("[core]\n    no_scm = maybe\n")
    with pytest.raises(SettingsError, match=r"\.dvc: .*no_scm.*correct config"):
        dvcfiles.check_project(tmp_path)
    (tmp_path / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    dvcfiles.check_project(tmp_path)
    (tmp_path / ".dvc" / "config.local").unlink()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvcfiles.check_project(tmp_path)


def test_a_lock_that_is_being_written_is_read_a_moment_later(tmp_path: Path) -> None:
    """Stages that run side by side read dvc.lock while the DVC of another one rewrites it."""
    path = tmp_path / "dvc.lock"
    path.write_text("schema: '2")
    writer = threading.Timer(0.2, path.write_text, ["schema: '2.0'\nstages: {a: {cmd: x}}\n"])
    writer.start()
    assert dvcfiles.read_lock(tmp_path) == {"a": {"cmd": "x"}}
    writer.join()
    path.write_text("schema: '2")
    with pytest.raises(SettingsError, match=r"dvc\.lock: not YAML"):
        dvcfiles.read_lock(tmp_path)


def test_paths_are_those_of_dvc_yaml() -> None:
    params = dvcfiles.read_yaml(REPOSITORY / "params.yaml")["run"]
    env, policies, rows = params["envs"][0], params["policies"], [*params["policies"], *params["searches"]]
    outs = {out for cell in dvcfiles.cells(REPOSITORY) for out in cell.outs}
    files = [
        paths.installed(env),
        paths.BASE_SOURCE,
        paths.instruction(env),
        paths.trajectories(env),
        paths.panel(env, "dev").parent,
        paths.expert_stats(env),
        paths.BASE_POLICY,
        *(paths.policy(env, policy) for policy in policies),
        *(paths.metrics("policy", env, policy) for policy in policies),
        *(paths.loss("policy", env, policy) for policy in policies),
        paths.trees(env),
        paths.labels(env),
        paths.qnet(env),
        paths.loss("qnet", env),
        *(paths.episodes(env, row, "dev").parent for row in rows),
        *(paths.metrics("evaluate", env, row) for row in rows),
        *(paths.metrics(stage, env) for stage in ("explore", "label", "qnet")),
        paths.REPORT / "results.md",
        paths.REPORT / "summary.json",
        *(cell.pointer for cell in dvcfiles.cells(REPOSITORY) if cell.stage not in ("env", "source")),
    ]
    assert {str(file) for file in files} <= outs


def test_every_dependency_in_the_code_exists() -> None:
    code = {dep for cell in dvcfiles.cells(REPOSITORY) for dep in cell.deps if dep.startswith(("qlass/", "tasks/"))}
    assert [dep for dep in sorted(code) if not (REPOSITORY / dep).exists()] == []


def test_what_loads_a_policy_depends_on_the_model_that_it_may_point_to() -> None:
    policy = str(paths.policy("*", "*"))
    loads = [cell for cell in dvcfiles.cells(REPOSITORY) if any(Path(dep).match(policy) for dep in cell.deps)]
    assert {cell.stage for cell in loads} == {"explore", "qnet", "evaluate", "search"}
    assert [cell.name for cell in loads if str(paths.BASE_POLICY) not in cell.deps] == []


def test_nothing_depends_on_a_run_pointer() -> None:
    assert not [dep for cell in dvcfiles.cells(REPOSITORY) for dep in cell.deps if dep.startswith("runs")]


def test_lock_hash_ignores_the_run_but_no_result() -> None:
    entry = {
        "cmd": "x",
        "deps": [{"path": "a", "md5": "1"}],
        "params": {"params.yaml": {"x": 1}},
        "outs": [{"path": "data/a", "md5": "2"}, {"path": "runs/sft/a.json", "md5": "3"}],
    }
    other_run = {**entry, "outs": [entry["outs"][0], {"path": "runs/sft/a.json", "md5": "4"}]}
    other_result = {**entry, "outs": [{"path": "data/a", "md5": "5"}]}
    assert dvcfiles.lock_hash(entry) == dvcfiles.lock_hash(other_run) != dvcfiles.lock_hash(other_result)


FORMS = """
vars:
  - more.yaml
  - folder: {name: data/in}
stages:
  all:
    matrix: {env: "${run.envs}", size: [1, "${run.size}"]}
    cmd: echo ${item.env} ${item.size} '\\${HOME}'
    deps: ["${folder.name}/${item.env}", "code/${run.names[1]}.py"]
    params:
      - run.size
      - other.yaml: [a, b]
      - envs.${item.env}
      - whole.yaml:
      - other.yaml: [c]
    outs:
      - data/${item.env}-${item.size}/model
      - data/${item.env}-${item.size}/kept: {persist: true}
    metrics: ["data/${item.env}-${item.size}/a.json": {cache: false}]
    plots:
      - data/${item.env}-${item.size}/a.csv
      - data/${item.env}-${item.size}/b.csv: {cache: false, x: step, y: loss}
  whole:
    always_changed: true
    cmd: ["echo ${more.word}", "echo b"]
    params: [run.size, params.yaml: ]
    outs: ["${more.word}"]
"""


def test_every_form_is_understood_as_dvc_does(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(FORMS)
    (tmp_path / "params.yaml").write_text("run: {envs: [x, y-z], size: 2.5, names: [a, b]}\nenvs: {x: 1, y-z: 2}\n")
    for name, text in (("more", "more: {word: w}"), ("other", "{a: 1, b: 2, c: 3}"), ("whole", "k: 1")):
        (tmp_path / f"{name}.yaml").write_text(text)
    dvc_init(tmp_path)
    found = {cell.name: cell for cell in dvcfiles.cells(tmp_path)}
    with Repo(str(tmp_path)) as repo:
        assert [stage.name for stage in repo.index.stages] == list(found)
        for stage in repo.index.stages:
            cell = found[stage.name]
            deps = [dep.def_path for dep in stage.deps if dep.def_path != "params.yaml"]
            assert (cell.outs, list(cell.deps)) == (tuple(out.def_path for out in stage.outs), deps)
            assert cell.always == stage.always_changed
    cell = found["all@y-z-2.5"]
    assert cell.items == {"env": "y-z", "size": "2.5"}
    assert cell.params == ("run.size", "envs.y-z")
    assert cell.deps == ("data/in/y-z", "code/b.py", "other.yaml", "whole.yaml")
    assert cell.pointer == Path("runs/all/y-z-2.5.json")
    assert found["whole"].params == ("run", "envs")  # all keys of the file
    assert dvcfiles.choices("all", tmp_path) == {"env": ["x", "y-z"], "size": ["1", "2.5"]}
    assert dvcfiles.choices("whole", tmp_path) == {}
    assert dvcfiles.cell("all", cell.items, tmp_path) == cell
    assert dvcfiles.cell("whole", {}, tmp_path) == found["whole"]
    with pytest.raises(SettingsError, match=r"dvc.yaml: stage all has no \{'env': 'q'\}; its cells are all@x-1, "):
        dvcfiles.cell("all", {"env": "q"}, tmp_path)
    with pytest.raises(SettingsError, match=r"dvc.yaml: no stage 'al'; the stages are all, whole"):
        dvcfiles.choices("al", tmp_path)


SEE = """
stages:
  see:
    matrix: {env: "${run.envs}"}
    cmd: python see.py ${item.env}
    params: [run.size]
    outs: ["${item.env}-${run.size}"]
"""
SEES = """
import os, sys
from pathlib import Path
from tasks.project import dvcfiles

def files():
    return {path: path.stat().st_mtime_ns for path in Path.cwd().rglob("*")}

before = files()
cell = dvcfiles.cell("see", {"env": sys.argv[1]})
assert files() == before, "reading has written"
Path(*cell.outs).touch()
with open(os.environ["SEEN"], "a") as file:
    print(Path.cwd(), *dvcfiles.choices("see")["env"], cell.name, *cell.params, *cell.outs, sep=",", file=file)
"""


@pytest.mark.parametrize("command", ["repro", "exp run --temp -S run.size=2"])
def test_a_stage_reads_it_while_dvc_runs_it(tmp_path: Path, command: str) -> None:
    root, seen = tmp_path / "project", tmp_path / "seen"
    root.mkdir()
    (root / "see.py").write_text(SEES)
    (root / "params.yaml").write_text("run: {envs: [x, y], size: 1}\n")
    (root / "dvc.yaml").write_text(SEE.replace("python", sys.executable))
    names = {f"GIT_{who}_{what}": "x@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **names, "SEEN": str(seen), "PYTHONPATH": str(REPOSITORY), "DVC_NO_ANALYTICS": "1"}
    for line in ("git init -q", "dvc init -q", "git add .", "git commit -q -m x", f"dvc {command}"):
        program, *arguments = line.split()
        start = [sys.executable, "-m", "dvc"] if program == "dvc" else [program]
        done = subprocess.run(
            [*start, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    temporary, size = "--temp" in command, "2" if "=2" in command else "1"
    rows = [line.split(",") for line in seen.read_text().splitlines()]
    assert sorted(row[1:] for row in rows) == [
        ["x", "y", f"see@{env}", "run.size", f"{env}-{size}"] for env in ("x", "y")
    ]
    assert all((Path(row[0]) != root) == temporary for row in rows)


def test_reading_asks_for_no_lock_and_writes_nothing(project: Path) -> None:
    without = dvcfiles.cells()
    dvc_init(project)
    with Repo(str(project)) as repo, repo.lock:  # as DVC holds it while it reads and writes
        before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
        assert dvcfiles.cells() == without
        assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before


STAGE = "stages: {s: {cmd: x, deps: ['${run.name}']}}"


@pytest.mark.parametrize(
    ("dvc", "params", "message"),
    [
        (
            STAGE,
            "run: {}",
            "failed to parse 'stages.s.deps' in 'dvc.yaml': Could not find 'run.name'; correct it in dvc",
        ),
        (
            STAGE,
            "run: {name: [a]}",
            "'stages.s.deps' in 'dvc.yaml':\nCannot interpolate data of type 'list'; correct it",
        ),
        (
            STAGE,
            "run: {name: null}",
            "dvc.yaml: stages.s.deps: 'NoneType' not supported; correct it there or in params.yaml",
        ),
        (
            STAGE,
            "- a",
            "expected a dictionary, got 'list' in file 'params.yaml'; correct it in dvc.yaml or params.yaml",
        ),
        (
            STAGE,
            "a: 1\na: 2",
            'params.yaml: not YAML: line 2, column 1: while constructing a mapping: found duplicate key "a"',
        ),
        (
            STAGE,
            "a: [1",
            "params.yaml: not YAML: line 2, column 1: while parsing a flow sequence: did not find expected",
        ),
        (
            STAGE,
            "a: \0",
            "params.yaml: not YAML: unacceptable character #x0000: control characters are not allowed in",
        ),
        (
            "stages: {s: {cmd: x}, s: {cmd: y}}",
            "",
            "dvc.yaml: not YAML: line 1, column 23: while constructing a mapping: found",
        ),
        (
            "stages: {s: {cmd: x, oust: [a]}}",
            "",
            "dvc.yaml: line 1, column 28: stages.s.oust: extra keys not allowed; correct",
        ),
        (
            "stages:\n  s:\n    cmd: x\n    outs: a\n",
            "",
            "dvc.yaml: line 3, column 5: stages.s.outs: expected a list; correct it",
        ),
        (
            "stages: {s: {outs: [a], deps: [1]}}",
            "",
            "column 31: stages.s.deps.0: expected str; line 1, column 13: stages.s.cmd",
        ),
        ("- a", "", "dvc.yaml: the whole file: expected a dictionary; correct it there"),
        (
            "stages: {s: {cmd: 'x ${a.}'}}",
            "",
            "'stages.s.cmd' in 'dvc.yaml':\n${a.}\n   ^\nParseException: Expected end of text",
        ),
        (
            "stages: {s: {cmd: x, params: [{o.yaml: a}]}}",
            "",
            "stages.s.params: Expected list of params for custom params file",
        ),
        (
            "vars: [v.yaml]\nstages: {s: {cmd: x}}",
            "",
            "failed to parse 'vars' in 'dvc.yaml': 'v.yaml' does not exist; correct",
        ),
        (
            "stages: {s: {foreach: [a], do: {cmd: x}}}",
            "",
            "dvc.yaml: stages.s: found `foreach`; allowed: `matrix`, whose keys",
        ),
        (
            'stages: {s: {matrix: {env: "${run.envs}"}, cmd: x}}',
            "run: {envs: alfworld}",
            "dvc.yaml: stages.s.matrix.env: ${run.envs} is 'alfworld'; allowed: a list of texts or numbers; correct it there",
        ),
        (
            'stages: {s: {matrix: {env: "${run.envs}"}, cmd: x}}',
            "run: {envs: [{a: 1}]}",
            "dvc.yaml: stages.s.matrix.env: ${run.envs} is [{'a': 1}]; allowed: a list of texts or numbers; correct it there",
        ),
        (
            "stages: {s: {matrix: {env: [a]}, cmd: '${item.en}'}}",
            "",
            "'stages.s@a.cmd' in 'dvc.yaml': Could not find 'item.en'",
        ),
    ],
)
def test_a_mistake_is_one_error_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dvc: str, params: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(dvc)
    Path("params.yaml").write_text(params or "{}")
    with pytest.raises(SettingsError) as caught:
        dvcfiles.cells()
    assert message in str(caught.value)
    assert "/dvc/" not in "".join(traceback.format_exception(caught.value))  # nothing of DVC's traceback
    assert re.search("correct|write it so", str(caught.value))
    assert "\x1b" not in str(caught.value)


def test_settings_are_read_with_the_loader_by_which_dvc_sees_a_change(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("a: 1e-3\nb: on\nc: 010\nd: 0o10\ne: ~\nf: 1:30\ng: [.inf]\n")
    assert dvcfiles.read_yaml(path) == {
        "a": 0.001,
        "b": "on",
        "c": 10,
        "d": 8,
        "e": None,
        "f": "1:30",
        "g": [math.inf],
    }
    path.write_text("")
    assert dvcfiles.read_yaml(path) == {}


def test_a_stage_program_with_a_mistake_prints_no_traceback(project: Path) -> None:
    path = project / "dvc.yaml"
    path.write_text(path.read_text().replace("params: [label.gamma,", 'params: ["${label.gama}",'))
    done = subprocess.run(
        [sys.executable, "-m", "tasks.stages.label", "corridor"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == SettingsError.exit_code
    assert done.stderr.endswith("Could not find 'label.gama'; correct it in dvc.yaml or params.yaml\n")
    assert "Traceback" not in done.stderr
