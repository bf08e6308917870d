import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qlass.errors import Busy, DataError
from tasks.running import resume

HOLDER = """
import sys, time
from pathlib import Path
from tasks.running import resume
with resume.work_folder("stage", {"a": 1}, Path(sys.argv[1])) as folder:
    (folder / "unit").write_text("finished")
    print("ready", flush=True)
    time.sleep(60)
"""


def interrupted(root: Path) -> None:
    with resume.work_folder("s", {"a": 1}, root) as folder:
        (folder / "unit").write_text("finished")
        raise RuntimeError("interrupted")


def test_the_folder_stays_after_an_error_and_goes_after_success(tmp_path: Path) -> None:
    folder = tmp_path / "s" / resume.work_key({"a": 1})
    with pytest.raises(RuntimeError, match="interrupted"):
        interrupted(tmp_path)
    with resume.work_folder("s", {"a": 1}, tmp_path) as again:
        assert again == folder
        assert (again / "unit").read_text() == "finished"
    assert list((tmp_path / "s").iterdir()) == []


def test_other_conditions_are_another_folder(tmp_path: Path) -> None:
    with resume.work_folder("s", {"a": 1}, tmp_path) as one, resume.work_folder("s", {"a": 2}, tmp_path) as two:
        assert one != two


def test_a_live_process_keeps_others_out_and_a_killed_one_does_not(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        try:
            assert holder.stdout.readline() == "ready\n"
            with pytest.raises(Busy, match=rf"process {holder.pid} \(`.*; wait for it") as caught:
                resume.work_folder("stage", {"a": 1}, tmp_path).__enter__()
            assert caught.value.exit_code == 75
        finally:
            os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with resume.work_folder("stage", {"a": 1}, tmp_path) as folder:
        assert (folder / "unit").read_text() == "finished"


def test_content_hash_sees_names_and_bytes_and_no_bytecode(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    first = resume.content_hash(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("2")
    assert resume.content_hash(tmp_path) == first
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    renamed = resume.content_hash(tmp_path)
    (tmp_path / "b.py").write_text("2")
    assert len({first, renamed, resume.content_hash(tmp_path)}) == 3


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder; run the stage"):
        resume.content_hash(tmp_path / "data")
