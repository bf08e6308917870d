"""A project's MLflow store stays with the project: copied, moved, linked, named as one likes."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from qlass.errors import StorageError
from qlass.jsonl import write_json
from tasks import register
from tasks.experiments import identity, registry, store, tracking
from tasks.project import settings
from tests.tasks.conftest import REPOSITORY
from tests.tasks.test_register import ENV, finished, models, registered
from tests.tasks.test_tracking import episode

ODD = "".join(chr(code) for code in range(32, 127) if chr(code) != "/") + "é語"
"""A folder's name of every printable character of ASCII that may be in one, and two others."""


@pytest.fixture
def filled(project: Path) -> Iterator[Path]:
    """Return a project, in a folder that can be moved, with a run, its artifacts and traces, and a registered model."""
    place = project / "place"
    place.mkdir()
    for name in ("qlass", "tasks", "dvc.yaml", "params.yaml", "mlflow.db"):
        (project / name).rename(place / name)
    os.chdir(place)
    finished(place, "a")
    registered(place)
    track(place)
    yield place
    os.chdir(project)


def track(project: Path, experiment: str = "qlass") -> str:
    """Log a run as a stage does; return its id."""
    tracker = tracking.open_run("stage", experiment, root=project)
    write_json(project / "metrics.json", {"loss": 1})
    tracker.artifact(project / "metrics.json")
    tracker.table([{"a": 1}], "table.json")
    tracker.dataset("data/base/policy", "0123456789abcdef0123456789abcdef.dir")
    tracker.episodes([episode(0)], 1)
    tracker.finish()
    assert tracker.client is not None
    return str(tracker.run_id)


def texts(project: Path, text: str) -> list[tuple[str, str, str]]:
    """Return (table, column, value) of everything in a store that holds a text; spans and tags of processes aside."""
    found = []
    with closing(sqlite3.connect(project / "mlflow.db")) as opened:
        for (table,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in opened.execute(f'PRAGMA table_info("{table}")').fetchall():
                values = opened.execute(f'SELECT CAST("{row[1]}" AS TEXT) FROM "{table}"').fetchall()  # noqa: S608
                found += [(table, row[1], value) for (value,) in values if value and text in value]
    history = {("trace_request_metadata", "value"), ("tags", "value")}
    return [item for item in found if item[:2] not in history]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copy(source: Path, target: Path) -> Path:
    subprocess.run(["cp", "-a", source, target], check=True)
    os.chdir(target)
    return target


def everything_is_here(project: Path, elsewhere: Path) -> None:
    """Check that old runs, new runs, traces and the registered model are found, and no address leads elsewhere."""
    old = tracking.connect(project).search_runs(["1"])
    new = track(project)
    assert texts(project, f"{elsewhere}/") == []
    client = tracking.connect(project)
    for run in [*old, client.get_run(new)]:
        place = store.local_path(run.info.artifact_uri)
        assert place is not None
        assert place.is_relative_to(project / "mlruns")
        assert {path.name for path in place.iterdir()} == {
            item.path for item in client.list_artifacts(run.info.run_id)
        }
    assert client.load_table("1", "table.json", [new]).values.tolist() == [[1]]
    assert len(client.search_traces(locations=["1"])) >= 2
    champion = models(project).champion()
    assert champion is not None
    folder = models(project).files(champion, project / "fetched")
    assert (folder / "policy" / "model.safetensors").read_text() == "policy a"
    assert Path(
        client.get_model_version_download_uri(champion.name, champion.version).removeprefix("file://")
    ).exists()
    models(project).keep_success(champion, {"success": {}})


def test_a_copy_writes_nothing_into_the_original(
    filled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Reported as mlflow/mlflow#184 and mlflow/mlflow#3144."""
    before = files(filled)
    copied = copy(filled, tmp_path / "copy")
    everything_is_here(copied, filled)
    assert [record for record in caplog.records if "was copied or moved" in record.message]
    caplog.clear()
    finished(copied, "b")
    assert not [record for record in caplog.records if "was copied or moved" in record.message]
    assert files(filled) == before
    os.chdir(filled)
    assert models(filled).champion() is not None
    assert texts(filled, str(copied)) == []


@pytest.mark.parametrize("kind", ["moved", "parent renamed", "opened through a link", "there and back"])
def test_a_moved_project_finds_its_runs_and_makes_no_old_folder(filled: Path, tmp_path: Path, kind: str) -> None:
    """Reported as mlflow/mlflow#3144."""
    new = tmp_path / "below" / "another" / "place"
    new.parent.mkdir(parents=True)
    filled.rename(new)
    os.chdir(new)
    if kind == "parent renamed":
        tracking.connect(new)
        (tmp_path / "below").rename(tmp_path / "above")
        new = tmp_path / "above" / "another" / "place"
    if kind == "opened through a link":
        (tmp_path / "link").symlink_to(new)
        os.chdir(tmp_path / "link")
        track(tmp_path / "link")
    if kind == "there and back":  # as a container sees it, and the host
        tracking.connect(new)
        new.rename(filled)
        os.chdir(filled)
        everything_is_here(filled, new)
        assert not new.exists()
        return
    os.chdir(new)
    everything_is_here(new, filled)
    assert not filled.exists()


def test_copy_and_original_are_used_at_once(filled: Path, tmp_path: Path) -> None:
    copied = copy(filled, tmp_path / "copy")
    for project in (filled, copied, filled, copied):
        os.chdir(project)
        run = tracking.connect(project).get_run(track(project))
        assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(project / "mlruns")
    assert texts(filled, f"{copied}/") == texts(copied, f"{filled}/") == []


def test_a_copy_of_hard_links_gets_a_store_of_its_own(filled: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    subprocess.run(["cp", "-al", filled, copied], check=True)
    os.chdir(copied)
    tracking.connect(copied)
    assert texts(copied, f"{filled}/") == []
    assert texts(filled, f"{copied}/") == []
    assert texts(filled, f"{filled}/")


def test_what_an_earlier_version_wrote_from_a_copy_into_the_original_is_fetched(filled: Path, tmp_path: Path) -> None:
    copied = copy(filled, tmp_path / "copy")
    run = track(copied)
    with closing(sqlite3.connect(copied / "mlflow.db")) as opened, opened:  # as it was before the repair
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            opened.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(copied), str(filled)))  # noqa: S608
    (copied / "mlruns" / "qlass" / run).rename(filled / "mlruns" / "qlass" / run)
    before = files(filled)
    assert {item.path for item in tracking.connect(copied).list_artifacts(run)} == {"metrics.json", "table.json"}
    assert (copied / "mlruns" / "qlass" / run / "artifacts" / "metrics.json").exists()
    assert files(filled) == before


def test_what_somebody_put_elsewhere_on_purpose_stays_there(filled: Path, tmp_path: Path) -> None:
    client = tracking.connect(filled)
    disk = tmp_path / "disk" / "mlruns" / "big"  # the name of the folder alone says nothing
    disk.mkdir(parents=True)
    for name, location in (("big", disk.as_uri()), ("bucket", "s3://bucket/mlruns/b"), ("other", str(tmp_path / "o"))):
        client.create_experiment(name, artifact_location=location)
    run = track(filled, "big")
    copied = copy(filled, tmp_path / "copy")
    client = tracking.connect(copied)
    kept = {found.name: found.artifact_location for found in client.search_experiments()}
    assert (kept["big"], kept["bucket"], kept["other"]) == (disk.as_uri(), "s3://bucket/mlruns/b", str(tmp_path / "o"))
    assert kept["qlass"] == (copied / "mlruns" / "qlass").as_uri()
    assert client.get_run(run).info.artifact_uri == f"{disk.as_uri()}/{run}/artifacts"


def test_an_experiment_of_the_user_moves_along(filled: Path, tmp_path: Path) -> None:
    """MLflow's own locations are paths, not URIs."""
    place = filled / "mlruns" / "77"
    client = tracking.connect(filled)
    client.create_experiment("mine", artifact_location=str(place))
    run = client.create_run(client.get_experiment_by_name("mine").experiment_id)
    client.log_text(run.info.run_id, "a", "a.txt")
    new = filled.rename(tmp_path / "moved")
    os.chdir(new)
    client = tracking.connect(new)
    assert client.get_experiment_by_name("mine").artifact_location == str(new / "mlruns" / "77")
    assert [item.path for item in client.list_artifacts(run.info.run_id)] == ["a.txt"]


@pytest.mark.parametrize("relative", [True, False])
def test_a_store_that_the_user_names_is_not_repaired(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(filled / "mlflow.db", other / "mlflow.db")
    os.chdir(other)
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", f"sqlite:///{'' if relative else other}{'' if relative else '/'}mlflow.db"
    )
    tracking.connect(filled)
    assert texts(other, f"{filled}/")


def test_a_linked_store_is_the_users(filled: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"  # of git, with the store of the first checkout
    tree.mkdir()
    (tree / "mlflow.db").symlink_to(filled / "mlflow.db")
    os.chdir(tree)
    run = tracking.connect(tree).get_run(track(tree))
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(filled / "mlruns")


def test_a_place_that_is_gone_is_named_and_not_made(filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = filled.parent / "gone" / "deeper" / "big"
    tracking.connect(filled).create_experiment("big", artifact_location=gone.as_uri())
    assert tracking.open_run("stage", "big", root=filled).run_id is None
    assert f"keeps its artifacts in {gone}" in caplog.text
    with pytest.raises(StorageError, match=r"is its disk mounted\?.*tracking.experiment"):
        registry.Registry("m", "big", filled).check()
    assert not gone.parent.parent.exists()


def test_our_default_is_not_inherited_as_a_choice_of_the_user(project: Path) -> None:
    tracking.connect(project)
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_runs_of_a_killed_process_are_closed_after_a_move_and_left_alone_in_a_copy(
    filled: Path, tmp_path: Path
) -> None:
    dead = {**identity.process_tags(filled), "process": "1 1.00"}
    run = tracking.open_run("stage", "qlass", tags=dead, root=filled).run_id
    copied = copy(filled, tmp_path / "copy")
    track(copied)
    assert tracking.connect(copied).get_run(run).info.status == "RUNNING"
    shutil.rmtree(copied)
    new = filled.rename(tmp_path / "moved")
    os.chdir(new)
    track(new)
    assert tracking.connect(new).get_run(run).info.status == "KILLED"


@pytest.mark.parametrize("name", ["a/b", "..", "a%20b", "x#y", "a b", "it's", "../../x", "a?b", '"', "é語", "x" * 300])
def test_an_experiment_may_have_any_name(project: Path, name: str) -> None:
    run = tracking.connect(project).get_run(track(project, name))
    place = Path(store.local_path(run.info.artifact_uri) or "")
    assert place.resolve().is_relative_to(project / "mlruns")
    assert len(place.relative_to(project / "mlruns").parts) == 3
    assert (place / "metrics.json").exists()


@pytest.mark.parametrize("name", [ODD, "100%", "a%41b", "why?", "it's", 'a"b', "a b", "#1"])
def test_a_project_folder_may_have_any_name(project: Path, empty_store: Path, name: str) -> None:
    """Known from public reports.

    Of percent signs in a folder: reported as cachix/devenv#2492; of braces: as Rockhopper-Technologies/enlighten#45.
    """
    beside = set(project.iterdir())
    place = project / name
    place.mkdir()
    shutil.copy(empty_store, place / "mlflow.db")
    os.chdir(project)  # a flow's worker may start anywhere
    run = tracking.connect(place).get_run(track(place))
    assert store.local_path(run.info.artifact_uri) == place / "mlruns" / "qlass" / run.info.run_id / "artifacts"
    assert (place / "mlruns" / "qlass" / run.info.run_id / "artifacts" / "table.json").exists()
    assert store.file_of(tracking.tracking_uri(place)) == place / "mlflow.db"
    with closing(sqlite3.connect(place / "mlflow.db")) as opened:
        assert opened.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    assert set(project.iterdir()) - beside == {place}


@pytest.mark.parametrize("name", ["it's", 'a"b', "a'b\"c", "100%", "a b"])
def test_a_model_may_have_any_name(project: Path, name: str) -> None:
    (project / "model").mkdir()
    (project / "model" / "policy.txt").write_text("x")
    models = registry.Registry(name, "qlass", project)
    assert models.champion() is None
    made = models.add(project / "model", "champion", {"a": "b"}, "", None)
    assert models.find({"a": "b"}) == models.champion() == made


@pytest.mark.parametrize(
    ("damage", "remedy"),
    [
        (lambda path: path.write_bytes(b"x" * 10000), r"no intact SQLite database .*put it aside: `mv "),
        (lambda path: os.truncate(path, path.stat().st_size // 2), r"no intact SQLite database .*put it aside: `mv "),
        (lambda path: version(path, "ffffffffffff"), r"another version of MLflow.*mlflow db upgrade sqlite:///"),
    ],
)
def test_a_store_that_cannot_be_used_is_named_at_once(
    project: Path, caplog: pytest.LogCaptureFixture, damage: Any, remedy: str
) -> None:
    damage(project / "mlflow.db")
    with pytest.raises(StorageError, match=remedy):
        register.check(settings.load_all(), project)
    tracker = tracking.open_run("stage", "qlass")
    tracker.metrics({"loss": 1})
    tracker.finish()
    (warning,) = [record.message for record in caplog.records if "tracking=down" in record.message]
    assert "mlflow.db" in warning


def version(path: Path, revision: str) -> None:
    with closing(sqlite3.connect(path)) as opened, opened:
        opened.execute("UPDATE alembic_version SET version_num = ?", (revision,))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else, who may not write")
def test_a_read_only_store_is_named_at_once(project: Path) -> None:
    code = f"""
import os
from pathlib import Path
from tasks.experiments import store
os.setuid(65534)
with store.named_faults(Path({str(project / "mlflow.db")!r})):
    store.settle(Path({str(project / "mlflow.db")!r}))
"""
    for folder in (project, *project.parents):
        if folder.owner() == "root" and len(folder.parts) > 2:
            folder.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
    assert "chmod u+w" in done.stderr


def test_a_deleted_experiment_is_named_with_its_remedy(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Reported as mlflow/mlflow#2690 and mlflow/mlflow#6445."""
    track(project)
    client = tracking.connect(project)
    client.delete_experiment("1")
    with pytest.raises(StorageError, match=r"'qlass' was deleted.* mlflow experiments restore --experiment-id 1`"):
        register.check(settings.load_all(), project)
    finished(project, "a")
    with pytest.raises(StorageError, match="mlflow experiments restore"):
        registered(project)
    assert tracking.open_run("stage", "qlass").run_id is None
    assert "mlflow experiments restore --experiment-id 1" in caplog.text
    client.restore_experiment("1")
    assert registered(project).alias == "champion"


def test_what_was_deleted_of_the_champion_is_named_with_its_remedy(project: Path) -> None:
    finished(project, "a")
    first = registered(project)
    given = settings.load_all()
    register.check(given, project)
    client = tracking.connect(project)
    client.delete_run(first.run_id)
    with pytest.raises(StorageError, match=rf"was deleted; restore it: .*mlflow runs restore --run-id {first.run_id}"):
        register.check(given, project)
    client.restore_run(first.run_id)
    shutil.rmtree(project / "mlruns" / "qlass" / first.run_id)
    with pytest.raises(StorageError, match=r"version 1, the champion: there is no model in .*bring the folder back"):
        register.check(given, project)
    with closing(sqlite3.connect(project / "mlflow.db")) as opened, opened:  # as `mlflow gc` does
        opened.execute("DELETE FROM tags WHERE run_uuid = ?", (first.run_id,))
        opened.execute("DELETE FROM runs WHERE run_uuid = ?", (first.run_id,))
    with pytest.raises(StorageError, match=r"was deleted for good; give the alias to another version, or delete it"):
        register.check(given, project)
    client.delete_registered_model_alias(f"qlass-{ENV}", "champion")
    register.check(given, project)
    assert (registered(project).version, registered(project).alias) == ("2", "champion")
    client.delete_registered_model(f"qlass-{ENV}")
    register.check(given, project)
    assert registered(project).version == "1"


GIT = {
    "hangs": "#!/bin/sh\nsleep 60\n",
    "asks": "#!/bin/sh\nread answer </dev/tty && exit 0\nread answer || exit 1\n",
    "fails": "#!/bin/sh\necho 'fatal: detected dubious ownership in repository' >&2\nexit 128\n",
    "bytes": "#!/bin/sh\nprintf '?? \\377\\n'\n",
}


@pytest.mark.parametrize("kind", [*GIT, "absent", "broken"])
def test_git_is_asked_and_never_needed(project: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    programs = project / "programs"
    programs.mkdir()
    monkeypatch.setattr(identity, "_GIT_S", 1.0)
    if kind == "broken":
        (project / ".git").write_text("gitdir: nowhere")
    elif kind != "absent":
        (programs / "git").write_text(GIT[kind])
        (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}" if kind == "absent" else f"{programs}:{os.environ['PATH']}")
    found = identity.identities(project)
    assert ("git.commit" in found) == (kind == "bytes")
    assert tracking.create_run("stage", "qlass").run_id


def test_a_file_name_that_is_not_utf_8_leaves_the_identities(project: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    (project / name).write_text("x")
    for command in (
        "init -q",
        "config core.quotepath false",
        "add params.yaml",
        "-c user.name=a -c user.email=a@b commit -qm x",
    ):
        subprocess.run(["git", *command.split()], cwd=project, check=True)
    found = identity.identities(project)
    assert found["git.dirty"] == "true"
    place = project / os.fsdecode(b"folder\xe9")
    place.mkdir()
    with pytest.raises(StorageError, match="not UTF-8.*rename the folder"):
        tracking.connect(place)
    assert tracking.open_run("stage", "qlass", root=place).run_id is None
    assert tracking.open_run("stage", "qlass").run_id


def test_the_pages_of_mlflow_find_the_files_of_a_moved_project(filled: Path, tmp_path: Path) -> None:
    new = filled.rename(tmp_path / "moved")
    os.chdir(new)
    assert store.main() == 0  # `make ui` runs it first
    assert texts(new, f"{filled}/") == []
    (new / "mlflow.db").write_bytes(b"x" * 10000)
    assert store.main() == StorageError.exit_code


@pytest.mark.parametrize(("name", "quoted"), [("a?b", "a%3Fb"), ("a%41b", "a%2541b"), ("it's 100%", None)])
def test_prefects_database_lies_in_its_folder(tmp_path: Path, name: str, quoted: str | None) -> None:
    code = "import os, flows; print(os.environ.get('PREFECT_SERVER_DATABASE_CONNECTION_URL'))"
    env = {**os.environ, "PREFECT_HOME": str(tmp_path / name), "PYTHONPATH": str(REPOSITORY)}
    shown = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == (f"sqlite+aiosqlite:///{tmp_path}/{quoted}/prefect.db" if quoted else "None")


@pytest.mark.parametrize("name", ["it's #1 & (100%); [a|b]", ODD])
def test_make_runs_the_programs_of_its_own_folder(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    (place / ".venv" / "bin").mkdir(parents=True)
    for file in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / file, place)
    python = place / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf \'ours %s %s\\n\' "$*" "$PREFECT_HOME"\n')
    python.chmod(0o755)
    (place / ".venv" / ".installed-alfworld,webshop,dev").touch()
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    for target, shown in (("run", "-m tasks.pipeline"), ("flow", "-m flows.pipeline"), ("ui", "-m mlflow ui")):
        done = subprocess.run(["make", "-C", place, target], env=env, capture_output=True, text=True, check=True)
        assert f"ours {shown}" in done.stdout
        assert f"{place}/.prefect" in done.stdout
