"""The SQLite store of a project: its address, its lock, and the places inside it, which follow the project.

MLflow keeps absolute addresses of artifacts (LocalArtifactRepository resolves relative ones by the working directory of
whoever asks, so those are no way out). A store that was copied, moved or mounted elsewhere would go on writing to the
place where it was made. So whoever connects first looks where the store lies now, and rewrites what lies elsewhere. Only
the project's own `mlflow.db` is touched: an address in MLFLOW_TRACKING_URI is the user's, and so is an experiment with
artifacts in a place that was never this project.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from qlass.errors import StorageError

logger = logging.getLogger(__name__)

NAME = "mlflow.db"
ARTIFACTS = "mlruns"

_BUSY_S = 60.0
"""Seconds to wait for another process that writes; so does MLflow's engine, for less."""

_FOLDERS = {
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "trace_tags": "value",
}
"""Columns with addresses of single folders, by table: what lies there belongs to this store."""


def address(database: Path) -> str:
    """Return the address of a SQLite file in SQLAlchemy's notation, in which `?` and `%3F` are not what they are here."""
    plain = f"sqlite:///{database}"
    return plain if file_of(plain) == database else f"sqlite:///{quote(str(database), safe=_UNQUOTED)}"


_UNQUOTED = "".join(chr(code) for code in range(32, 127) if chr(code) not in "%?")


def file_of(uri: str) -> Path | None:
    """Return the file of a SQLite store; None for a server, another database, one in memory."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except ArgumentError:  # MLflow knows more kinds of addresses than SQLAlchemy
        return None
    named = url.database or ":memory:"
    if url.get_backend_name() != "sqlite" or named == ":memory:" or named.startswith("file:"):
        return None
    return Path(named).absolute()


def reached(uri: str) -> str:
    """Return an address by which this process reaches a store without MLflow making a folder of the quoted name.

    MLflow 3.17 makes the parents of a new SQLite file and does not decode their names (`store/db/utils.py`).
    """
    database = file_of(uri)
    if database is None or uri == f"sqlite:///{database}" or "%" not in uri:
        return uri
    return f"sqlite:////proc/self/fd/{_open_folder(database.parent)}/{database.name}"


@functools.cache
def _open_folder(folder: Path) -> int:
    """Return a descriptor of a folder, open as long as this process lives."""
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY)


@contextlib.contextmanager
def locked(database: Path | None) -> Iterator[None]:
    """Hold a lock beside a SQLite store: two processes that both create its tables would break it."""
    if database is None:
        yield
        return
    with Path(f"{database}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_name(database: Path) -> None:
    """Check that MLflow can name the folder of a store: it reads all addresses as UTF-8.

    Raises:
        StorageError: a byte of its path is no UTF-8.
    """
    try:
        str(database).encode("utf-8")
    except UnicodeEncodeError:
        raise StorageError(
            f"the project's folder {os.fsencode(database.parent)!r} has a name that is not UTF-8, in which MLflow can "
            "keep nothing; rename the folder, or set MLFLOW_TRACKING_URI to a store elsewhere"
        ) from None


def settle(database: Path) -> None:
    """Bring a store to the place where it lies now; the caller holds its lock.

    Addresses below `mlruns` of a former place of this project become addresses here, in one transaction. Files that are
    still there and not here (an earlier version wrote them from a copy into the original) are fetched. Nothing is
    written outside the project.

    Raises:
        sqlite3.Error: the file cannot be written, or is no SQLite store; `named_faults` says what to do.
    """
    if not database.exists() or database.is_symlink():  # the user keeps it elsewhere
        return
    home = database.parent
    with contextlib.closing(_open(database)) as found:
        found.execute("BEGIN IMMEDIATE")  # what cannot be written says so now and not hours later
        found.execute("ROLLBACK")
        places = _former_places(found, home)
    if places:
        _unshare(database)
        with contextlib.closing(_open(database)) as store:
            store.execute("BEGIN IMMEDIATE")
            fetched = sum(_fetch(store, place, home) for place in places)
            moved = sum(_rewrite(store, place, home) for place in places)
            store.execute("COMMIT")
        logger.info(
            "store=%s from=%s addresses=%d fetched=%d: the project was copied or moved, its runs now name its own mlruns",
            database, ",".join(map(str, places)), moved, fetched,
        )  # fmt: skip


def artifacts(database: Path, experiment: str) -> str:
    """Return the artifact location of an experiment: below `mlruns` beside the store, in a folder of its name."""
    kept = re.sub(r"[^\w .'+=@-]", "_", experiment)[:60]
    if kept != experiment or not kept.strip("."):  # no name for a folder; the hash keeps such experiments apart
        kept += f"-{hashlib.sha256(experiment.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return (database.parent / ARTIFACTS / kept).as_uri()


def local_path(location: str) -> Path | None:
    """Return the path that an artifact location means, None for a server, a bucket or a relative path."""
    path = unquote(urlparse(location).path) if location.startswith("file:") else location
    return Path(path) if path.startswith("/") else None


def _open(database: Path) -> sqlite3.Connection:
    """Open a store; transactions begin and end where we say."""
    return sqlite3.connect(database, timeout=_BUSY_S, isolation_level=None)


def _unshare(database: Path) -> None:
    """Give a store that has several names (a copy made with hard links) a file of its own."""
    if database.stat().st_nlink == 1:
        return
    part = database.with_name(f"{database.name}.part")
    part.unlink(missing_ok=True)
    with contextlib.closing(_open(database)) as source, contextlib.closing(_open(part)) as target:
        source.backup(target)
    part.replace(database)


def _former_places(store: sqlite3.Connection, home: Path) -> list[Path]:
    """Return the folders, other than `home`, in whose `mlruns` this project kept artifacts.

    A folder was a place of this project when a run that has its artifacts there says so (tag `root`), when MLflow made
    the store there (its experiment 0), or when artifacts of a run lie here under the same name. Anything else is where
    somebody wanted it.
    """
    tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"experiments", "runs", "tags"} <= tables:
        return []
    roots = {str(value) for (value,) in store.execute("SELECT DISTINCT value FROM tags WHERE key = 'root'")}
    experiments = store.execute("SELECT artifact_location, experiment_id = 0 FROM experiments")
    runs = store.execute("SELECT artifact_uri, NULL FROM runs")
    places: dict[Path, bool] = {}  # and whether it is known to have been ours
    for location, born in [*experiments, *runs]:
        for place, inside in _splits(str(location)):
            if place == home:
                break
            is_run, is_first = born is None, born == 1 and inside == "0"
            here = is_run and not places.get(place) and (home / ARTIFACTS / inside).exists()
            places[place] = places.get(place, False) or is_first or here or str(place) in roots
    return [place for place, known in places.items() if known]


def _splits(location: str) -> Iterator[tuple[Path, str]]:
    """Yield (project, path below its mlruns) for each way to read a local artifact location so, the longest first."""
    parts = (local_path(location) or Path()).parts
    for number in range(len(parts) - 2, 0, -1):
        if parts[number] == ARTIFACTS:
            yield Path(*parts[:number]), "/".join(parts[number + 1 :])


def _spellings(place: Path) -> Mapping[str, str]:
    """Return how addresses of a place begin: as paths and as URIs of this module and of MLflow."""
    path = f"{place}/{ARTIFACTS}/"
    return {"path": path, "uri": f"file://{quote(path)}", "raw": f"file://{path}"}


def _rewrite(store: sqlite3.Connection, place: Path, home: Path) -> int:
    """Let everything that names an artifact below a former place name it here; return how many values changed."""
    before = store.total_changes
    here = {**_spellings(home), "raw": _spellings(home)["uri"]}
    if "%" in str(home):  # MLflow decodes paths as if they were URIs
        here["path"] = here["uri"]
    for table, column in _texts(store):
        for kind, old in _spellings(place).items():
            store.execute(
                f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) WHERE substr("{column}", 1, ?) = ?',  # noqa: S608
                (here[kind], len(old) + 1, len(old), old),
            )
    old, new = (json.dumps(f"{folder}/")[:-1] for folder in (place, home))
    with contextlib.suppress(sqlite3.OperationalError):  # a store of a version without datasets
        store.execute("UPDATE datasets SET dataset_source = replace(dataset_source, ?, ?)"
                      " WHERE instr(dataset_source, ?)", (old, new, old))  # fmt: skip
    if not (place / NAME).exists():  # moved; what runs in the original of a copy stays the original's
        store.execute("UPDATE tags SET value = ? WHERE key = 'root' AND value = ?", (str(home), str(place)))
    return store.total_changes - before


def _texts(store: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return (table, column) of all columns that hold text."""
    tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = [(table, *row[1:3]) for table in tables for row in store.execute(f'PRAGMA table_info("{table}")')]
    return [(table, name) for table, name, kind in columns if "CHAR" in kind.upper() or kind.upper() == "TEXT"]


def _fetch(store: sqlite3.Connection, place: Path, home: Path) -> int:
    """Copy artifacts that lie below a former place and not here; return the number of folders."""
    fetched = 0
    for table, column in _FOLDERS.items():
        if (table, column) not in _texts(store):
            continue
        for (location,) in store.execute(f'SELECT DISTINCT "{column}" FROM "{table}"').fetchall():  # noqa: S608
            for found, inside in _splits(str(location)):
                source, target = found / ARTIFACTS / inside, home / ARTIFACTS / inside
                if found != place or target.exists() or not source.is_dir():
                    continue
                part = target.with_name(f"{target.name}.part")
                try:
                    shutil.rmtree(part, ignore_errors=True)
                    shutil.copytree(source, part)
                    part.rename(target)
                    fetched += 1
                except OSError as error:
                    logger.warning("store=%s not fetched: %s: %s", home / NAME, source, error)
                    shutil.rmtree(part, ignore_errors=True)
    return fetched


@contextlib.contextmanager
def named_faults(database: Path | None) -> Iterator[None]:
    """Turn what lasts until somebody mends it into a StorageError that says how.

    Raises:
        StorageError: the store is damaged, may not be written, or belongs to another version of MLflow.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if database is None or not (said := _remedy(database, error)):
            raise
        raise StorageError(said) from error


def _remedy(database: Path, error: Exception) -> str:
    """Return what to do about an error of SQLite or MLflow, empty for one that is not about the store as a whole."""
    file, said = shlex.quote(str(database)), str(error)
    found = said.splitlines()[0] if said else repr(error)
    if "file is not a database" in said or "malformed" in said:
        return (
            f"{database}: no intact SQLite database ({found}); bring it back from a backup, or put it aside: "
            f"`mv {file} {shlex.quote(f'{database}.damaged')}`; the next run makes a new one. The outputs in data/ do "
            "not depend on it; the list of runs and registered models does"
        )
    refused = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    if refused or "readonly database" in said or "unable to open database file" in said:
        return (
            f"{database}: MLflow's store cannot be written ({found}); allow it, with its folder: "
            f"`chmod u+w {file} {shlex.quote(str(database.parent))}`, or set MLFLOW_TRACKING_URI to a store elsewhere"
        )
    if "out-of-date database schema" in said or "Can't locate revision" in said:
        return (
            f"{database}: made by another version of MLflow than the one installed ({found.split('. ')[0]}). By an "
            f"older one: keep a copy and run `mlflow db upgrade {shlex.quote(address(database))}`. By a newer one: "
            "install that (`pip install 'mlflow==...'`); there is no way back"
        )
    return ""


def main() -> int:
    """Bring the store of the working directory to its place, so that MLflow's pages (`make ui`) find its files."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    database = Path.cwd().resolve() / NAME
    if os.environ.get("MLFLOW_TRACKING_URI", address(database)) != address(database) or not database.exists():
        return 0
    try:
        with named_faults(database), locked(database):
            settle(database)
    except StorageError as error:
        logger.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
