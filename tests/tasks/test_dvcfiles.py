import subprocess
import sys
from pathlib import Path

import pytest

from qlass.errors import SettingsError
from tasks.project import dvcfiles, paths

REPOSITORY = Path(__file__).parents[2]


def test_cells_are_the_stages_that_dvc_sees(project: Path) -> None:
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], cwd=project, check=True)
    listed = subprocess.run(
        [*dvc, "stage", "list", "--name-only"], cwd=project, check=True, capture_output=True, text=True
    )
    assert sorted(cell.name for cell in dvcfiles.cells(project)) == sorted(listed.stdout.split())


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


def test_an_unknown_variable_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("run: {envs: [a]}\n")
    (tmp_path / "dvc.yaml").write_text('stages: {s: {cmd: x, deps: ["${base.moon}"]}}\n')
    with pytest.raises(SettingsError, match=r"\$\{base.moon\} is not a key of params.yaml"):
        dvcfiles.cells(tmp_path)
