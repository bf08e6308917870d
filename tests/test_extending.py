"""The examples of docs/extending.md, as they stand there: an environment, a method, a trained policy, each in one file."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from qlass.envs import get_definition, make_env
from qlass.envs.core.base import TextEnv
from qlass.methods.base import Assignment
from qlass.policies.scripted import ScriptedPolicy
from qlass.records import Episode, History
from qlass.search.driver import Routine
from tasks.project import paths
from tests.engines import drive
from tests.search.conftest import MAX_STEPS, OPTIONS, CountedPolicy, wander
from tests.tasks.conftest import (  # noqa: F401 - fixtures
    REPOSITORY,
    clean_environment,
    empty_store,
    project,
    set_params,
    tiny_policy,
)

PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
BLOCK = re.compile(r"^(?:`([^`\n]+)`[^\n]*\n\n)?```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""A block of code, and the file that the line above it names."""

ENVIRONMENT, PACKAGE, METHOD, POLICY = "An environment", "In a package of your own", "A method", "A trained policy"
FILES = {
    ENVIRONMENT: "qlass/envs/lamps/__init__.py",
    METHOD: "qlass/methods/majority.py",
    POLICY: "qlass/recipes/sft_short.py",
}
LOOKING = {"env@lamps", "source"}
"""Stages that run always."""
TINY = {
    "base.workers": 1,
    "base.max_new_tokens": 4,
    "recipes.sft.epochs": 1,
    "recipes.sft.backend": "torch",
    "recipes.sft_short.epochs": 1,
    "recipes.sft_short.backend": "torch",
    "explore.tasks": 6,
    "explore.depth": 2,
    "explore.max_nodes": 40,
    "qnet.epochs": 1,
    "qnet.backend": "torch",
    "qnet.ranks": 1,
    "qnet.head_width": 16,
    "qnet.validation_fraction": 0.4,
    "report.bootstrap": 100,
}
"""Numbers with which every stage takes seconds."""


@dataclass(frozen=True)
class Block:
    """A block of code of the page."""

    file: str
    language: str
    text: str


def blocks(*titles: str) -> list[Block]:
    """Return the blocks of some sections, in order."""
    sections = {section.partition("\n")[0]: section for section in re.split(r"(?m)^##+ ", PAGE)}
    return [Block(*found) for title in titles for found in BLOCK.findall(sections[title])]


def source(title: str) -> str:
    """Return the code of a section."""
    (code,) = (block.text for block in blocks(title) if block.language == "python")
    return code


def follow(root: Path, *titles: str) -> list[str]:
    """Write what sections say into a project: their files, and their lines of params.yaml; return their commands."""
    commands = []
    for block in blocks(*titles):
        if block.language == "bash":
            commands.append(block.text)
        elif block.language == "yaml":
            yaml = YAML()
            params = yaml.load(root / block.file)
            merge(params, yaml.load(block.text))
            yaml.dump(params, root / block.file)
        elif block.language == "python":
            (root / block.file).parent.mkdir(exist_ok=True)
            (root / block.file).write_text(block.text)
    return commands


def merge(given: dict[str, Any], changes: dict[str, Any]) -> None:
    """Put lines of the page into params.yaml."""
    for key, value in changes.items():
        if isinstance(value, dict) and key in given:
            merge(given[key], value)
        else:
            given[key] = value


def shell(root: Path, command: str, *packages: Path) -> str:
    """Run a command of the page in a project; return what it prints."""
    variables = clean_environment() | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(map(str, [root, *packages])),
    }
    done = subprocess.run(
        ["bash", "-ec", command], cwd=root, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ran(output: str) -> list[str]:
    """Return the stages that `dvc repro` ran, those that run always aside."""
    return [name for name in re.findall(r"Running stage '([^']+)'", output) if name not in LOOKING]


@pytest.mark.parametrize("title", FILES)
def test_an_example_is_one_short_file(title: str) -> None:
    (file,) = {block.file for block in blocks(title) if block.language == "python"}
    assert file == FILES[title]
    assert len(source(title).splitlines()) < 60


def test_lines_of_the_page_are_short() -> None:
    assert [line for line in PAGE.splitlines() if len(line) > 120 and not line.startswith("|")] == []


def test_the_environment_keeps_the_contract(project: Path) -> None:  # noqa: F811
    check, _ = follow(project, ENVIRONMENT)
    assert "'snapshot_equals_replay', 'expert_replays'" in shell(project, check)


def test_the_method_executes_what_most_replies_propose(tmp_path: Path) -> None:
    (tmp_path / "majority.py").write_text(source(METHOD))
    spec = spec_from_file_location("majority", tmp_path / "majority.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    corridor, settings = get_definition("corridor"), module.METHOD.settings(seeds=(0,), temperature=1.0, voters=5)
    drawn: list[str] = []

    def reply(history: History, rng: random.Random) -> str:
        drawn.append(wander(history, rng))
        return drawn[-1]

    for number, task in enumerate(islice(corridor.panels(OPTIONS, "train", 0), 6)):
        drawn.clear()
        policy = CountedPolicy(ScriptedPolicy(reply, corridor.normalise_action))

        def begin(env: TextEnv, task: Any = task, number: int = number) -> Routine[list[Episode]]:
            given = Assignment(env, corridor, task, "majority", number, number)
            found: Routine[list[Episode]] = module.METHOD.routine(given, settings)
            return found

        ((_, (episode,)),) = drive([begin], [make_env(corridor, OPTIONS, MAX_STEPS)], policy)
        assert (episode.method, episode.error) == ("majority", "")
        assert policy.proposals == 5 * len(episode.steps)
        assert (episode.cost.env_steps, episode.cost.qnet_calls) == (len(episode.steps), 0)
        for place, step in enumerate(episode.steps):
            texts = drawn[5 * place : 5 * place + 5]
            actions = [corridor.normalise_action(text.rpartition("Action: ")[2]) for text in texts]
            assert step.action == Counter(actions).most_common(1)[0][0]  # of equals, the one that was counted first


def test_the_plan_has_the_new_stages(project: Path) -> None:  # noqa: F811
    follow(project, ENVIRONMENT, METHOD, POLICY)
    code = """
import json
from tasks.project import dvcfiles, settings
given = settings.load_all()
assert given.on("lamps").recipes["sft"].trajectories is None
print(json.dumps([given.methods["majority"].voters, given.recipes["sft_short"].trajectories, given.envs["lamps"].options]))
"""
    assert json.loads(shell(project, f"python -c '{code}'")) == [5, 10, {"lamps": 6}]
    shell(project, "dvc init --no-scm -q")
    shown = json.loads(shell(project, "dvc status --json"))
    assert {name for name in shown if "@" in name} == {
        *("env@lamps", "expert@lamps", "explore@lamps", "label@lamps", "qnet@lamps"),
        *(f"{stage}@lamps-{policy}" for stage in ("train", "evaluate") for policy in ("base", "sft", "sft_short")),
        *("search@lamps-qlass", "search@lamps-majority"),
    }
    assert "Replies that are drawn at each step." in shell(project, "python -m tasks.params methods.majority")
    set_params(project, {"methods.majority.voters": 0})
    message = r"methods.majority.voters: found 0; allowed: a whole number >= 1; change it"
    with pytest.raises(AssertionError, match=message):
        shell(project, "python -m tasks.stages.search lamps majority")


@pytest.fixture
def clone(tmp_path: Path, empty_store: Path, tiny_policy: Path) -> Path:  # noqa: F811
    """Return a git repository with all files of this one, and a random model in place of its base model."""
    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    root = tmp_path / "clone"
    for name in listed.stdout.split("\0"):
        if (REPOSITORY / name).is_file() and not name.startswith("models/"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, root / name)
    shutil.copytree(tiny_policy, root / "models" / "reader-3m")
    shutil.copy(empty_store, root / "mlflow.db")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qm", "as it was")
    return root


def git(root: Path, *arguments: str) -> list[str]:
    """Run git; return the lines that it prints."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_three_run_and_no_file_that_existed_is_touched(clone: Path) -> None:
    commands = follow(clone, ENVIRONMENT, METHOD, POLICY)
    set_params(clone, TINY)
    for command in commands:
        shell(clone, command)
    assert "search@lamps-qlass" in ran(shell(clone, "dvc repro"))

    with (clone / paths.REPORT / "results.csv").open() as file:
        rows = [(row["env"], row["split"], row["method"]) for row in csv.DictReader(file)]
    assert rows == [("lamps", "test_seen", name) for name in ("base", "sft", "sft_short", "qlass", "majority")]
    table = (clone / paths.REPORT / "results.md").read_text()
    assert "## lamps (toy)" in table
    assert re.search(r"(?m)^\| test_seen \| Majority vote \| \d", table)
    assert re.search(r"(?m)^\| test_seen \| SFT \(shortest\) \| \d", table)
    html = (clone / paths.REPORT / "index.html").read_text()
    assert "5 voters, temperature 0.7, 1 seed" in html
    metrics = json.loads((clone / paths.metrics("policy", "lamps", "sft_short")).read_text())
    assert metrics["trajectories"] == 10

    changed = git(clone, "diff", "--name-only")
    assert {name for name in changed if not name.startswith("data/")} == {"params.yaml", "dvc.lock"}
    new = git(clone, "ls-files", "--others", "--exclude-standard")
    assert {name for name in new if not name.startswith("data/")} == {
        *FILES.values(),
        str(paths.installed("lamps")),
    }
    assert ran(shell(clone, "dvc repro")) == []

    # The dependencies of the new files are complete; of one that imports another objective they are not.
    test = "python -m pytest -q -p no:cacheprovider tests/tasks/test_dependencies.py -k 'imports and sft_short'"
    shell(clone, test)
    with (clone / FILES[POLICY]).open("a") as file:
        file.write("\nimport qlass.training.objectives.value\n")
    with pytest.raises(
        AssertionError, match=r"(?s)train@lamps-sft_short runs code .*'qlass/training/objectives/value"
    ):
        shell(clone, test)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_an_environment_of_another_package_runs_again_with_its_version_and_its_code(
    project: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
    tiny_policy: Path,  # noqa: F811
) -> None:
    shutil.copytree(tiny_policy, project / "models" / "reader-3m")
    _, play = follow(project, ENVIRONMENT)
    (project / FILES[ENVIRONMENT]).unlink()
    site = tmp_path_factory.mktemp("site")
    package = install(site)
    shell(project, "dvc init --no-scm -q")

    assert ran(shell(project, play, site)) == ["expert@lamps"]
    assert [path.name for path in (project / "qlass" / "envs" / "lamps").iterdir()] == ["installed.json"]
    assert len((project / paths.trajectories("lamps")).read_text().splitlines()) == 1 + 21
    assert ran(shell(project, play, site)) == []

    metadata = site / "lamps_env.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("0.1.0", "0.2.0"))
    assert ran(shell(project, play, site)) == ["expert@lamps"]
    package.write_text(package.read_text().replace("There is no such button.", "No."))
    assert ran(shell(project, play, site)) == ["expert@lamps"]
    os.utime(package, (0, 0))
    assert ran(shell(project, play, site)) == []


def install(site: Path) -> Path:
    """Put the package of the page into a folder, as pip would; return its module."""
    (block,) = blocks(PACKAGE)
    given = tomllib.loads(block.text)["project"]
    ((group, points),) = given["entry-points"].items()
    module = points["lamps"].partition(":")[0]
    info = site / f"{module}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {given['name']}\nVersion: {given['version']}\n")
    lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (site / f"{module}.py").write_text(source(ENVIRONMENT))
    return site / f"{module}.py"
