"""The last line of a program, written to outputs that cannot take it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from tasks.running import console
console.say("success 60.6 (+7.3 \\u2212 1.8)\\n" * int(sys.argv[1]))
sys.exit(3)
"""


def shown(arguments: str = "1", *, redirect: str = "", env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Return exit code, standard output and error of the program below a shell that redirects its output."""
    command = f'"$@" {redirect}' if redirect else '"$@"'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}", "-", sys.executable, "-c", PROGRAM, arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "gbk"])
def test_characters_that_the_output_lacks_are_escaped(encoding: str) -> None:
    """As of a Windows console or LC_ALL=POSIX; the run had ended with exit code 1.

    Reported as Aider-AI/aider#4582 and microsoft/winml-cli#545.
    """
    code, out, _ = shown(env={"PYTHONIOENCODING": encoding})
    assert code == 3
    assert "success 60.6 (+7.3 " in out
    assert "1.8)" in out


def test_a_utf8_output_is_left_as_it_is() -> None:
    assert shown(env={"PYTHONIOENCODING": "utf-8"})[:2] == (3, "success 60.6 (+7.3 \u2212 1.8)\n")


def test_a_full_disk_and_a_closed_output_cost_a_warning() -> None:
    for redirect in (">/dev/full", ">&-"):
        code, _, err = shown(redirect=redirect)
        assert code == 3, redirect
        assert "stdout: cannot be written" in err
        assert "success 60.6" in err
        assert "Traceback" not in err
        assert "Exception ignored" not in err


def test_a_reader_that_has_read_enough_costs_nothing() -> None:
    code, out, err = shown("100000", redirect="| head -n 1")
    assert code == 3
    assert out.startswith("success")
    assert err == ""
