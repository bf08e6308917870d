"""Results that are kept: finished runs below real DVC, git and MLflow, without the hours; and what the repository keeps."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from qlass.envs import get_definition
from qlass.envs.core.panels import build_panel, save_panel
from qlass.errors import DataError, SettingsError
from qlass.jsonl import write_json, write_records
from qlass.records import Cost, Episode, Step
from tasks import publish
from tasks.experiments import tracking
from tasks.project import paths
from tasks.results import documents, kept, pages
from tasks.results.kept import Kept, Row
from tests.tasks.conftest import PARAMS, REPOSITORY, set_params
from tests.tasks.test_pipeline import SMALL

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's index

ENV = "corridor"
SPLITS = ("test_seen", "test_unseen")
RUN = {"run.searches": ["best_of_n", "qlass"], "report.bootstrap": 200}
ROWS = {"sft": ("sft",), "best_of_n": ("best_of_n", "best_of_n_qnet", "best_of_n_likelihood"), "qlass": ("qlass",)}
"""Methods by the file that has their episodes."""
OUTCOMES = {
    0: {"sft": [1, 0, 0, 0], "best_of_n": [1, 1, 1, 0], "best_of_n_qnet": [1, 1, 0, 0], "qlass": [1, 1, 0.5, 0.5]},
    1: {"sft": [1, 0.5, 0, 0], "best_of_n": [1, 1, 1, 1], "best_of_n_qnet": [1, 1, 0.5, 0], "qlass": [1, 0, 0, 0]},
}
"""Outcomes of the tasks of either split, by seed and method; likelihood solves none."""
DVC_FILE = """
stages:
  report:
    cmd: python -m tasks.stages.report
    deps: [data]
    params: [base.seed]
    outs: [runs/report.json]
"""
README = "# Title\n\nbefore\n\n<!-- results:toy -->\nold\n<!-- /results -->\n\nafter, with é  \n"

Finish = Callable[..., Path]


def call(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def commit(folder: Path) -> None:
    call(folder, "git", "add", "--all")
    call(folder, "git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "x")


def dvc_commit(folder: Path) -> None:
    """Record what lies there as what the stage made."""
    with contextlib.chdir(folder), Repo(str(folder)) as repo:
        repo.commit(force=True)


def played(task: Any, method: str, outcome: float) -> Episode:
    """Return an episode of two steps, the first of which was not understood; Best-of-N has cost four times as much."""
    steps = (Step("", "fly", "no", 0.0, False, False, valid=False), Step("", "enter", "a room", outcome, True, False))
    cost = Cost(generated_tokens=20, env_steps=2)
    if method.startswith("best"):
        cost = cost + cost + cost + cost
    return Episode(task.task_id, task.category, method, 0, float(outcome), outcome == 1, "start", steps, cost)


def write_outputs(folder: Path, seed: int) -> None:
    """Write what the stages of a run leave that is read here."""
    for split in SPLITS:
        panel = build_panel(get_definition(ENV), {"length": 5, "rooms": 3}, split, 4, seed)
        save_panel(folder / paths.panel(ENV, split), panel)
        for file, methods in ROWS.items():
            outcomes = [OUTCOMES[seed].get(method, [0] * 4) for method in methods]
            episodes = [
                played(task, method, one)
                for method, some in zip(methods, outcomes, strict=True)
                for task, one in zip(panel.tasks, some, strict=True)
            ]
            write_records(folder / paths.episodes(ENV, file, split), episodes, Episode)
    write_json(folder / paths.expert_stats(ENV), {"success_rate": 95.0})
    write_json(folder / paths.metrics("policy", ENV, "sft"), {"loss_last": 0.0123456})
    write_json(folder / paths.metrics("explore", ENV), {"sampled_mean_reward": 40.0 + seed})
    ranking = {"pairwise_accuracy": 0.75 if seed == 0 else None, "pairwise_pairs": 8 if seed == 0 else 0}
    write_json(folder / paths.metrics("qnet", ENV), {"mse": 0.05, "baseline_mse": 0.1, **ranking})


@pytest.fixture
def finish(project: Path) -> Finish:
    """Return a function that makes a project in which the preset `toy` has run with a seed; the preset is there too."""
    set_params(project, RUN)
    (project / paths.PRESETS).mkdir()
    shutil.copy(project / paths.PARAMS, project / paths.PRESETS / "toy.yaml")
    (project / paths.README).write_text(README)

    def make(seed: int, *, git: bool = True) -> Path:
        folder = project / f"seed{seed}"
        folder.mkdir()
        shutil.copy(project / paths.PARAMS, folder)
        shutil.copy(project / "mlflow.db", folder)
        (folder / "dvc.yaml").write_text(DVC_FILE)
        (folder / ".gitignore").write_text("/data/\n/runs/\n/mlflow.db*\n/mlruns/\n")
        if git:
            call(folder, "git", "init", "-q")
        Repo.init(str(folder), no_scm=not git)
        if git:
            commit(folder)
        set_params(folder, {"base.seed": seed})  # after the commit, as a user does who runs another seed
        write_outputs(folder, seed)
        tracker = tracking.open_run("report", "qlass", root=folder)
        tracker.write_pointer(folder / paths.run_pointer("report"))
        tracker.finish()
        dvc_commit(folder)
        return folder

    return make


def rows_of(found: Kept, method: str, split: str = "pooled") -> dict[int | None, Row]:
    (env,) = found.envs
    return {row.seed: row for row in env.rows if (row.method, row.split) == (method, split)}


def text_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_kept_is_computed_from_the_episodes_of_every_run(finish: Finish, project: Path) -> None:
    folders = [finish(seed) for seed in (1, 0)]
    assert publish.main(["toy", *map(str, folders)]) == 0
    found = kept.read(project / documents.summary_of("toy"))
    assert [run.seed for run in found.runs] == [0, 1]
    assert {len(run.commit) for run in found.runs} == {40}
    assert not any(run.dirty for run in found.runs)  # another base.seed alone is on record as the hash of params.yaml
    assert len({run.params_sha256 for run in found.runs}) == len({run.dvc_lock_sha256 for run in found.runs}) == 2
    assert found.date == found.runs[0].date

    qlass = rows_of(found, "qlass")
    assert {seed: row.reward.mean for seed, row in qlass.items()} == {0: 75.0, 1: 25.0, None: 50.0}
    assert {seed: row.success.mean for seed, row in qlass.items()} == {0: 50.0, 1: 25.0, None: 37.5}
    assert {seed: row.minus["sft"].mean for seed, row in qlass.items()} == {0: 50.0, 1: -12.5, None: 18.75}
    assert {seed: row.minus["best_of_n_qnet"].mean for seed, row in qlass.items()} == {0: 25.0, 1: -37.5, None: -6.25}
    assert {seed: row.reward.over for seed, row in qlass.items()} == {0: "tasks", 1: "tasks", None: "tasks and runs"}
    assert {seed: row.tasks for seed, row in qlass.items()} == {0: 8, 1: 8, None: 16}
    assert qlass[None].minus["sft"].low < -12.5 < 50.0 < qlass[None].minus["sft"].high  # two runs say little
    assert (qlass[None].generated_tokens, qlass[None].env_steps, qlass[None].invalid_action_rate) == (20.0, 2.0, 0.5)
    assert rows_of(found, "best_of_n_qnet")[0].generated_tokens == 80.0
    assert "sft" not in rows_of(found, "sft")[0].minus
    assert rows_of(found, "qlass", "test_seen")[0].tasks == 4

    (env,) = found.envs
    assert (env.label, env.published) == ("corridor (toy)", False)
    assert [method.title for method in env.methods][:2] == ["SFT", "Best-of-N"]
    assert "oracle" in env.methods[1].note
    assert [(one.exploration_reward, one.sibling_accuracy) for one in env.stages] == [(40.0, 75.0), (41.0, None)]


def test_the_page_and_the_document_are_those_of_the_numbers(
    finish: Finish, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(finish(seed)) for seed in (0, 1)]
    assert publish.main(["toy", *folders]) == 0
    assert capsys.readouterr().out.split() == [
        "docs/results/toy/summary.json",
        "docs/results/toy/results.md",
        "README.md",
    ]
    page = (project / documents.page_of("toy")).read_text()
    assert "`python -m tasks.publish toy PROJECT ...`" in page
    assert pages.GENERATED[:20] in page
    assert str(project) not in page
    pooled = page[page.index("### All test tasks") :]
    assert "| method | seed 0 | seed 1 | all seeds |" in pooled
    assert [line for line in pooled.splitlines() if line.startswith("| QLASS | 75.0 (")]
    assert pooled.index("Mean outcome reward × 100 (95%") < pooled.index("Success in percent (95%")
    assert pooled.index("Minus SFT, in") < pooled.index("Minus Best-of-N (qnet), in")

    before, _, rest = (project / paths.README).read_text().partition("<!-- results:toy -->\n")
    shown, _, after = rest.partition("<!-- /results -->")
    assert (before, after) == (README[: README.index("<!--")], "\n\nafter, with é  \n")
    assert "corridor (toy); seeds 0, 1, " in shown
    assert "| QLASS | 50.0 | 50.0 | 50.0 (" in shown
    assert "(docs/results/toy/results.md)" in shown

    first = text_of(project / paths.RESULTS) | {"README": (project / paths.README).read_bytes()}
    for again in (folders[::-1], []):  # the order of the projects does not matter, nor whether they are still there
        (project / documents.page_of("toy")).write_text("damaged")
        assert publish.main(["toy", *again]) == 0
        assert text_of(project / paths.RESULTS) | {"README": (project / paths.README).read_bytes()} == first


def test_one_seed_has_the_intervals_of_its_report(finish: Finish, project: Path) -> None:
    publish.publish("toy", [finish(0)])
    found = kept.read(project / documents.summary_of("toy"))
    assert list(rows_of(found, "qlass")) == [0]
    page = (project / documents.page_of("toy")).read_text()
    assert "over tasks: another training may differ by more" in page
    assert "all seeds" not in page


def refusal(name: str, *projects: Path) -> str:
    """Return why these projects are not kept; nothing is written then."""
    with pytest.raises((DataError, SettingsError)) as caught:
        publish.publish(name, projects)
    assert not paths.RESULTS.exists()
    assert paths.README.read_text() == README
    return str(caught.value)


def test_what_is_no_complete_run_of_the_preset_is_refused(finish: Finish, project: Path) -> None:
    folder = finish(0)
    assert "NAME: found 'moon'; allowed: default, toy" in refusal("moon", folder)
    assert "no such file; name the root of a project" in refusal("toy", project / "nowhere")
    with (folder / paths.expert_stats(ENV)).open("a") as file:
        file.write("\n")
    assert f"{folder}: the run is not complete or is out of date: report (dep modified: data)" in refusal(
        "toy", folder
    )
    (folder / "dvc.lock").unlink()
    assert "report (never ran)" in refusal("toy", folder)
    set_params(folder, {"report.bootstrap": 7})
    assert "report.bootstrap is 7 instead of 200" in refusal("toy", folder)


def test_a_run_whose_commit_nobody_knows_is_refused(finish: Finish) -> None:
    assert "made without git" in refusal("toy", finish(0, git=False))
    folder = finish(1)
    for run_id, reason in (("0" * 32, "does not know the run 000"), (None, "MLflow could not be reached")):
        write_json(folder / paths.run_pointer("report"), {"run_id": run_id, "experiment_id": "1"})
        dvc_commit(folder)
        assert reason in refusal("toy", folder)


def test_only_the_tables_of_the_preset_are_rewritten(kept_here: Kept) -> None:
    other = "<!-- results:other -->\nstays\n<!-- /results -->\n"
    text = f"{other}<!-- results:default -->\n<!-- /results -->\n`<!-- /results -->` in a line is none\n{other}"
    found = documents.refreshed(text, Path("docs/page.md"), kept_here)
    assert found.startswith(f"{other}<!-- results:default -->\nALFWorld")
    assert found.endswith(
        f"(results/default/results.md)\n<!-- /results -->\n`<!-- /results -->` in a line is none\n{other}"
    )
    assert documents.refreshed(found, Path("docs/page.md"), kept_here) == found


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n<!-- results:x -->\nb\n", 2),
        ("<!-- results:x -->\n<!-- results:y -->\n<!-- /results -->\n", 2),
        ("<!-- results:x -->\n<!-- /results -->\n<!-- /results -->\n", 3),
    ],
)
def test_a_marker_without_its_other_half_is_named(kept_here: Kept, text: str, line: int) -> None:
    with pytest.raises(DataError, match=rf"page.md:{line}: found <!-- .* -->.* without its other half"):
        documents.refreshed(text, Path("page.md"), kept_here)


def test_a_summary_of_another_version_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"preset": "default"})
    with pytest.raises(DataError, match="summary.json: date: missing.*keep the runs again"):
        kept.read(tmp_path / "summary.json")


def presets() -> Iterable[str]:
    """Return the presets whose results the repository keeps."""
    return [path.parent.name for path in sorted((REPOSITORY / paths.RESULTS).glob("*/summary.json"))]


@pytest.fixture
def kept_here() -> Kept:
    """Return the results of the default run that the repository keeps."""
    return kept.read(REPOSITORY / documents.summary_of("default"))


@pytest.mark.parametrize("preset", presets())
def test_the_repository_shows_the_numbers_that_it_keeps(preset: str) -> None:
    found = kept.read(REPOSITORY / documents.summary_of(preset))
    assert found.preset == preset
    assert (REPOSITORY / documents.page_of(preset)).read_text(encoding="utf-8") == pages.page(found)
    for path in documents.documents(REPOSITORY):
        text = documents.read_text(REPOSITORY / path)
        assert documents.refreshed(text, path, found) == text, f"run `python -m tasks.publish {preset}`"


def test_every_table_in_the_documents_is_one_of_a_preset_that_is_kept() -> None:
    shown = {
        preset
        for path in documents.documents(REPOSITORY)
        for preset, *_ in documents.marked(documents.read_text(REPOSITORY / path), path)
    }
    assert {"default"} <= shown <= set(presets())


def test_the_default_run_that_is_kept_is_the_one_of_the_report(kept_here: Kept) -> None:
    """The two are written at different times; they show one run."""
    report = YAML(typ="safe").load(REPOSITORY / paths.REPORT / "summary.json")["rows"]
    names = {"mean_reward": "mean", "ci_low": "low", "ci_high": "high"}
    expected = {(row["split"], row["method"]): [row[name] for name in names] for row in report}
    (env,) = kept_here.envs
    assert {
        (row.split, row.method): [getattr(row.reward, name) for name in names.values()] for row in env.rows
    } == expected


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_of_the_whole_pipeline_is_kept(
    project: Path, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_params(project, PARAMS | SMALL)
    (project / paths.PRESETS).mkdir()
    shutil.copy(project / paths.PARAMS, project / paths.PRESETS / "toy.yaml")
    shutil.copytree(tiny_policy, project / "models" / "reader-3m")
    (project / ".gitignore").write_text(
        "/data/\n/runs/\n/mlflow.db*\n/mlruns/\n/.work/\n__pycache__/\ninstalled.json\n"
    )
    call(project, "git", "init", "-q")
    call(project, sys.executable, "-m", "dvc", "init", "-q")
    commit(project)
    monkeypatch.setenv("PYTHONPATH", str(project))
    done = subprocess.run([sys.executable, "-m", "tasks.pipeline"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert publish.main(["toy", "."]) == 0
    capsys.readouterr()
    found = kept.read(documents.summary_of("toy"))
    assert not found.runs[0].dirty
    rows = YAML(typ="safe").load(project / paths.REPORT / "summary.json")["rows"]
    (env,) = found.envs
    assert [(row.split, row.method, row.reward.mean) for row in env.rows] == [
        (row["split"], row["method"], row["mean_reward"]) for row in rows
    ]
    assert "### All test tasks" in documents.page_of("toy").read_text()
    set_params(project, {"methods.qlass.proposals": 2})
    shutil.copy(project / paths.PARAMS, project / paths.PRESETS / "toy.yaml")
    assert publish.main(["toy", "."]) == DataError.exit_code
