"""What runs again after an edit: asked of DVC itself, and compared with what the code imports."""

import ast
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from qlass.methods.base import method_names
from qlass.plugins import names
from qlass.recipes.recipe import recipe_names
from tasks.project import dvcfiles, paths
from tests.tasks.conftest import set_params

REPOSITORY = Path(__file__).parents[2]
LOOKING = {"env", "source"}
"""Stages that run always, to look at what DVC cannot see."""


@contextmanager
def repository(project: Path) -> Iterator[Repo]:
    """Open the project as DVC does, anew: it remembers what it has read."""
    with Repo(str(project)) as repo:
        yield repo


def changed(project: Path) -> set[str]:
    """Return the stages that `dvc status` calls out of date."""
    with repository(project) as repo:
        names = {stage.addressing: stage.name for stage in repo.index.stages}
        found = {names[address] for address in repo.status()}
    return {name for name in found if name.partition("@")[0] not in LOOKING}


def make_up(out: Path) -> None:
    """Write something that can stand for an output."""
    if out.suffix:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("{}")
    else:
        out.mkdir(parents=True, exist_ok=True)
        (out / "something").write_text("")


def stages(*names: str) -> set[str]:
    """Return stage names; `{}` stands for each environment."""
    return {name.format(env) for name in names for env in ("alfworld", "corridor")}


PLAYED = ("evaluate@{}-base", "evaluate@{}-sft", "search@{}-best_of_n", "search@{}-qlass")


def test_an_edit_runs_again_what_it_touches(project: Path) -> None:
    envs = {
        "run.envs": ["alfworld", "corridor"],
        "run.policies": ["base", "sft"],
        "run.searches": ["best_of_n", "qlass"],
    }
    set_params(project, envs)
    Repo.init(str(project), no_scm=True)
    for cell in dvcfiles.cells(project):
        for out in cell.outs:
            make_up(project / out)
    with repository(project) as repo:
        repo.commit(force=True)
    assert changed(project) == set()

    corridor = {"report", *(name.format("corridor") for name in ("expert@{}", "explore@{}", *PLAYED))}
    training = stages("train@{}-base", "train@{}-sft", "qnet@{}")
    for file, wanted in {
        "qlass/envs/corridor/rules.py": corridor,
        "qlass/envs/corridor/installed.json": corridor,
        "qlass/envs/core/time_limit.py": {*stages("expert@{}", "explore@{}", *PLAYED), "report"},
        "qlass/methods/qlass.py": {*stages("search@{}-qlass"), "report"},
        "qlass/methods/greedy.py": {*stages("evaluate@{}-base", "evaluate@{}-sft"), "report"},
        "qlass/methods/base.py": {*stages(*PLAYED), "report"},
        "qlass/recipes/base.py": {*stages("train@{}-base"), "report"},
        "qlass/recipes/sft.py": {*stages("train@{}-sft"), "report"},
        "qlass/recipes/imitation.py": {*stages("train@{}-base", "train@{}-sft"), "report"},
        "qlass/training/objectives/value.py": stages("qnet@{}"),
        "qlass/training/objectives/sft.py": stages("train@{}-base", "train@{}-sft"),
        "qlass/training/core/loop.py": training,
        "qlass/search/explore.py": stages("explore@{}"),
        "qlass/labels/backup.py": {*stages("label@{}"), "report"},
        str(paths.instruction("corridor")): {
            "train@corridor-base",
            "train@corridor-sft",
            "qnet@corridor",
            "expert@corridor",
            "report",
        },
        str(paths.BASE_SOURCE): {"base"},
    }.items():
        before = (project / file).read_bytes()
        (project / file).write_bytes(before + b"\n")
        assert changed(project) == wanted, file
        (project / file).write_bytes(before)

    for key, value, wanted in (
        ("methods.qlass.proposals", 9, {*stages("search@{}-qlass"), "report"}),
        ("recipes.sft.epochs", 9, stages("train@{}-sft")),
        ("envs.corridor.overrides.explore", {"depth": 9}, {"explore@corridor", "report"}),
        ("envs.corridor.max_steps", 9, corridor),
    ):
        before = (project / "params.yaml").read_bytes()
        set_params(project, {key: value})
        assert changed(project) == wanted, key
        (project / "params.yaml").write_bytes(before)


# What takes part in every stage and is no dep of any: a change of these would be one of the file formats, which carry a
# version, of values that tests pin, or of words.
EVERYWHERE = {
    "qlass/__init__.py",
    "qlass/errors.py",
    "qlass/jsonl.py",
    "qlass/plugins.py",
    "qlass/processes.py",
    "qlass/records.py",
    "qlass/seeds.py",
    "qlass/settings.py",
    "qlass/validation.py",
}
PACKAGES = (
    "qlass/envs/__init__.py",
    "qlass/methods/__init__.py",
    "qlass/recipes/__init__.py",
    "qlass/search/__init__.py",
)
"""Their `__init__` has docstrings, and names of `core`."""
FOR_WORDS = {"report": ("qlass/methods/", "qlass/recipes/")}
"""Of these the stage takes titles and notes: what they import themselves changes neither."""


@cache
def imported(file: str) -> frozenset[str]:
    """Return the files of qlass/ and tasks/ that a file imports itself, at its top or inside functions."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse((REPOSITORY / file).read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        else:
            continue
        found |= {path for name in names if (path := module_file(name))}
    return frozenset(found)


def module_file(module: str) -> str | None:
    """Return the file of a module of qlass or tasks."""
    if module.partition(".")[0] not in ("qlass", "tasks"):
        return None
    for path in (Path(*module.split(".")).with_suffix(".py"), Path(*module.split("."), "__init__.py")):
        if (REPOSITORY / path).is_file():
            return str(path)
    return None


def reached(stage: str, start: list[str]) -> set[str]:
    """Return the files that these files reach by imports, themselves included.

    What the reader of params.yaml imports declares settings; a stage that uses the rest imports it itself. What only refuses
    to begin changes no output.
    """
    seen, waiting = set(start), list(start)
    while waiting:
        file = waiting.pop()
        if file in ("tasks/project/preflight.py", "tasks/project/settings.py") or file.startswith(
            FOR_WORDS.get(stage, ("-",))
        ):
            continue
        new = imported(file) - seen
        seen |= new
        waiting += new
    return seen


def every_cell() -> list[dvcfiles.Cell]:
    """Return the cells of all environments, policies and methods that have a file, whatever params.yaml runs."""
    params = dvcfiles.read_yaml(REPOSITORY / "params.yaml")
    envs = [name for name in names("qlass.envs") if name != "core"]
    params["run"] = {"envs": envs, "policies": [*recipe_names()], "searches": [*method_names()]}
    with TemporaryDirectory() as folder:
        shutil.copy(REPOSITORY / "dvc.yaml", folder)
        YAML().dump(params, Path(folder, "params.yaml"))
        return [cell for cell in dvcfiles.cells(Path(folder)) if cell.stage not in LOOKING]


CELLS = every_cell()


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_stage_depends_on_the_code_that_it_imports(cell: dvcfiles.Cell) -> None:
    found = reached(cell.stage, [dep for dep in cell.deps if dep.endswith(".py")])
    files = {file for file in found if file.startswith("qlass/")} - EVERYWHERE - set(PACKAGES)
    missing = {file for file in files if not any(file == dep or file.startswith(f"{dep}/") for dep in cell.deps)}
    assert missing == set(), f"{cell.name} runs code that dvc.yaml does not name"
