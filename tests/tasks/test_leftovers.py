"""What a killed DVC leaves behind, below a real DVC: files cut where it may have died, and stages that run on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qlass.errors import Busy, DataError
from tasks.project import dvcfiles
from tasks.running import leftovers, resume

PIPELINE = """\
stages:
  one:
    cmd: echo one >> ran.log && cp in.txt one.txt
    deps: [in.txt]
    outs: [one.txt]
  two:
    cmd: echo two >> ran.log && cp one.txt two.txt
    deps: [one.txt]
    outs: [two.txt]
  three:
    cmd: echo three >> ran.log && cp two.txt three.json
    deps: [two.txt]
    metrics: [{three.json: {cache: false}}]
"""
HOLDER = """
import time
from pathlib import Path
from tasks.running import leftovers
with leftovers.running("explore@corridor", Path(".")):
    print("ready", flush=True)
    time.sleep(60)
"""


def dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a pipeline of three stages that has run."""
    root = tmp_path_factory.mktemp("pipeline")
    assert dvc(root, "init", "--no-scm", "--quiet").returncode == 0
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "in.txt").write_text('{"x": 1}')
    assert dvc(root, "repro").returncode == 0
    return root


@pytest.fixture
def root(made: Path) -> Iterator[Path]:
    """Return the same, and put it right again."""
    good = (made / "dvc.lock").read_bytes()
    yield made
    (made / "dvc.lock").write_bytes(good)
    (made / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)


def cut(text: bytes) -> list[int]:
    return sorted({*range(0, len(text), 7), len(text) - 1})


@pytest.mark.parametrize(
    "content", [b"", b'{"write": {"/a/b": {"pid": 12', b"\0" * 40, b"[]", b"\xff", b'{"read": 3}']
)
def test_a_list_of_paths_in_use_that_cannot_be_read_is_removed(
    root: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Reported as treeverse/dvc#7615; treeverse/dvc#8118 mended another way to the same end."""
    rwlock = root / ".dvc" / "tmp" / "rwlock"
    rwlock.write_bytes(content)
    assert dvc(root, "repro").returncode == 255  # and so do all its commands, until somebody removes the file
    leftovers.clear(root)
    assert not rwlock.exists()
    assert "killed while it wrote this list" in caplog.text
    assert dvc(root, "repro").returncode == 0


def test_a_list_that_can_be_read_is_left_alone(root: Path) -> None:
    rwlock = root / ".dvc" / "tmp" / "rwlock"
    text = json.dumps({"read": {}, "write": {"/a/b": {"pid": 1 << 22, "cmd": "dvc repro"}}})
    rwlock.write_text(text)
    leftovers.clear(root)
    assert rwlock.read_text() == text


def test_the_list_stays_while_another_dvc_lives(root: Path) -> None:
    """The other one may stand in the list, and would fail when it takes itself out."""
    rwlock = root / ".dvc" / "tmp" / "rwlock"
    rwlock.write_text("{")
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with subprocess.Popen(["bash", "-c", f'exec -a dvc {sys.executable} -c "{code}"'], cwd=root, stdout=-1) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            with pytest.raises(Busy, match=rf"process {other.pid} \(.*since.*kill {other.pid}"):
                leftovers.clear(root)
        finally:
            other.kill()
    assert rwlock.read_text() == "{"


def test_a_lock_cut_anywhere_is_completed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_LOOKS_S", (0.0,))
    path = root / "dvc.lock"
    good = path.read_bytes()
    stages = dvcfiles.read_lock(root)
    unreadable = 0
    for length in cut(good):
        path.write_bytes(good[:length])
        unreadable += not length or leftovers._stages(good[:length]) is None
        leftovers.clear(root)
        kept = dvcfiles.read_lock(root)
        begun = [name for name in stages if good.find(f"\n  {name}:".encode()) + 3 < length]
        assert len(kept) >= len(begun) - 1, length
        # Cut at the end of a line it may be a whole file; then DVC finds in its run cache what the last stage lacks.
        for name in list(kept)[: -1 if good[:length].endswith(b"\n") else None]:
            assert kept[name] == stages[name], length
    assert unreadable > len(cut(good)) / 3  # else nothing was tried


def test_what_the_cut_lost_is_not_computed_again(root: Path) -> None:
    path = root / "dvc.lock"
    good = path.read_bytes()
    for length in (0, good.index(b"two:") + len("two:\n    cm")):
        (root / "ran.log").unlink(missing_ok=True)
        path.write_bytes(good[:length])
        assert dvc(root, "repro").returncode != 0
        leftovers.clear(root)
        assert dvc(root, "repro").returncode == 0
        # DVC's run cache leaves out the stage whose output is outside the cache.
        assert not (root / "ran.log").exists() or (root / "ran.log").read_text() == "three\n"
        assert path.read_bytes() == good


def test_the_last_commit_knows_what_the_cut_lost(root: Path) -> None:
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x"]
    for arguments in (["init", "-q"], ["add", "dvc.lock"], ["commit", "-qm", "lock"]):
        subprocess.run([*git, *arguments], cwd=root, check=True)
    stages = dvcfiles.read_lock(root)
    path = root / "dvc.lock"
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"two:") + len("two:\n    cm")])
    leftovers.clear(root)
    assert dvcfiles.read_lock(root) == stages


@pytest.mark.parametrize(
    "text", [b"<<<<<<< HEAD\nschema: '2.0'\n", b"schema: '2.0'\nstages:\n  a: [\n  b:\n    cmd: x\n"]
)
def test_what_is_not_a_cut_is_left_to_its_owner(root: Path, text: bytes) -> None:
    (root / "dvc.lock").write_bytes(text)
    with pytest.raises(DataError, match="git checkout dvc.lock"):
        leftovers.clear(root)
    assert (root / "dvc.lock").read_bytes() == text


def test_a_stage_that_does_not_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "_PATIENCE_S", 0.3)
    env = {**os.environ, "PYTHONPATH": str(Path(leftovers.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", HOLDER], cwd=tmp_path, env=env, stdout=-1) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        try:
            with pytest.raises(
                Busy, match=rf"stage explore@corridor still runs.*process {holder.pid} .*kill {holder.pid}"
            ):
                leftovers.clear(tmp_path)
            with (
                pytest.raises(Busy, match=f"tail --pid={holder.pid}"),
                leftovers.running("explore@corridor", tmp_path),
            ):
                pass
        finally:
            holder.kill()
    leftovers.clear(tmp_path)
    with leftovers.running("explore@corridor", tmp_path):
        assert resume.holder(tmp_path / ".work" / "running" / "explore@corridor.lock") == os.getpid()
    assert not list((tmp_path / ".work" / "running").iterdir())


STAGE = """
import time
from pathlib import Path
from tasks.running.runner import StageJob, run

def main(job: StageJob) -> None:
    with job.work_folder() as folder:
        (folder / "started").touch()
        time.sleep(120)

if __name__ == "__main__":
    raise SystemExit(run("probe", main))
"""
ENTRY = """
  probe:
    cmd: python -m tasks.stages.probe
    deps: [tasks/stages/probe.py]
    params: [label.gamma]
    outs: [runs/probe.json]
"""


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_stage_ends_with_its_killed_dvc_and_keeps_its_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, shell: str, empty_store: Any
) -> None:
    """Of another pipeline's workers: reported as sgl-project/sglang-omni#1077."""
    monkeypatch.setenv("SHELL", shell)
    monkeypatch.setenv("PYTHONPATH", str(project))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    (project / "tasks" / "stages" / "probe.py").write_text(STAGE)
    with (project / "dvc.yaml").open("a") as file:
        file.write(ENTRY)
    assert dvc(project, "init", "--no-scm", "-q").returncode == 0
    with subprocess.Popen([sys.executable, "-m", "dvc", "repro", "probe"], cwd=project) as process:
        deadline = time.monotonic() + 90
        while not list((project / ".work").glob("probe/*/started")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        stage = resume.holder(project / ".work" / "running" / "probe.lock")
        assert stage is not None
        process.send_signal(signal.SIGKILL)
    leftovers.clear(project)  # waits for it
    assert resume.holder(project / ".work" / "running" / "probe.lock") is None
    assert list((project / ".work").glob("probe/*/started"))
