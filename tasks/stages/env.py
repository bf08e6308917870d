"""Stage `env`: the versions of the packages on which an environment plays, and a hash of code that lies elsewhere.

DVC sees files, not packages, so it runs this stage each time (half a second); what is unchanged changes nothing. It keeps
no MLflow run.
"""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qlass.envs import available, get_definition
from qlass.errors import QlassError
from qlass.jsonl import write_json
from tasks.project import paths
from tasks.running import resume, runner


def installed(env: str) -> dict[str, Any]:
    """Return the packages by name with their versions (null: not installed), and the code that is not in this project.

    Raises:
        SettingsError: no environment has this name.
    """
    definition = get_definition(env)
    point = available()[env]
    names = {*definition.packages, *([point.dist.name] if point.dist is not None else [])}
    found: dict[str, Any] = {"packages": {name: _version(name) for name in sorted(names)}}
    code = _code(point.module if point.dist is None else _outermost(point.module))
    inside = (Path("qlass") / "envs" / env).resolve()
    if inside != code and inside not in code.parents:
        found["code"] = resume.content_hash(code)
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _outermost(module: str) -> str:
    """Return the package of a module that is in no other one, since a module imports others of its package.

    Namespace packages do not count: several distributions share them.
    """
    parts = module.split(".")
    names = (".".join(parts[: number + 1]) for number in range(len(parts)))
    return next(name for name in names if (spec := find_spec(name)) is not None and spec.origin is not None)


def _code(module: str) -> Path:
    """Return the file of a module, or its folder where it is a package."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    file = Path(spec.origin).resolve()
    return file.parent if spec.submodule_search_locations else file


def main() -> int:
    """Write the file; return the exit code."""
    runner.prepare()
    parser = argparse.ArgumentParser(prog="python -m tasks.stages.env", description="Stage env; see dvc.yaml.")
    parser.add_argument("env", metavar="ENV")
    env = parser.parse_args().env
    try:
        write_json(paths.installed(env), installed(env))
    except QlassError as error:
        return runner.report(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
