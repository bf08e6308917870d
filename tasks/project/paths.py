"""Where everything lies, relative to the repository root, which is the working directory of every stage.

`dvc.yaml` declares the same paths as deps and outs; `tests/tasks/test_dvcfiles.py` compares the two.
"""

from __future__ import annotations

import os
from pathlib import Path

PARAMS = Path("params.yaml")
DVC_FILE = Path("dvc.yaml")
DVC_LOCK = Path("dvc.lock")
WORK = Path(".work")
DATA = Path("data")
RUNS = Path("runs")
BASE_POLICY = DATA / "base" / "policy"
BASE_SOURCE = DATA / "base" / "source.json"
REPORT = DATA / "report"
PRESETS = Path("presets")
RESULTS = Path("docs") / "results"
README = Path("README.md")


def repository() -> Path:
    """Return the absolute root of the repository, also from the temporary checkout of a queued DVC experiment.

    For queued experiments DVC exports `DVC_ROOT` with the repository of the temporary copy, which lies in its
    `.dvc/tmp/exps`. Another value is left from elsewhere: DVC hands on what was set before.
    """
    folder, named = Path.cwd(), os.environ.get("DVC_ROOT")
    copies = Path(named, ".dvc", "tmp", "exps").resolve() if named else None
    return Path(named).resolve() if named and copies in folder.parents else folder


def trajectories(env: str) -> Path:
    """Expert trajectories, one per training task that the expert solved."""
    return DATA / "expert" / env / "trajectories.jsonl"


def instruction(env: str) -> Path:
    """The environment's instruction text, as training sees it."""
    return DATA / "expert" / env / "instruction.txt"


def panel(env: str, split: str) -> Path:
    """The ordered, hashed TaskSpecs of a split."""
    return DATA / "expert" / env / "panels" / f"{split}.json"


def expert_stats(env: str) -> Path:
    """The rows of Table 1."""
    return DATA / "expert" / env / "stats.json"


def installed(env: str) -> Path:
    """Versions of the packages that an environment plays on; stage `env` writes the file beside the environment's code."""
    return Path("qlass") / "envs" / env / "installed.json"


def policy(env: str, name: str) -> Path:
    """Folder of a policy, made by the recipe of its name."""
    return DATA / "policy" / env / name / "model"


def trees(env: str) -> Path:
    """Exploration trees, one per explored task."""
    return DATA / "explore" / env / "trees.jsonl"


def labels(env: str) -> Path:
    """Table of QLabels."""
    return DATA / "label" / env / "labels.parquet"


def qnet(env: str) -> Path:
    """Folder of the QNet."""
    return DATA / "qnet" / env / "model"


def episodes(env: str, row: str, split: str) -> Path:
    """Evaluated episodes of one split, played by a policy alone or by a method."""
    return DATA / "evaluate" / env / row / "episodes" / f"{split}.jsonl"


def metrics(stage: str, env: str, name: str = "") -> Path:
    """The metrics file of explore, label or qnet; of a policy (stage `policy`), or of what was evaluated (`evaluate`)."""
    return DATA / stage / env / name / "metrics.json"


def loss(stage: str, env: str, name: str = "") -> Path:
    """The loss curve of the QNet, or of a policy (stage `policy`)."""
    return DATA / stage / env / name / "loss.csv"


def table(name: str, env: str) -> Path:
    """A table about the QNet: calibration or siblings."""
    return DATA / "qnet" / env / f"{name}.csv"


def run_pointer(stage: str, *items: str) -> Path:
    """Pointer to the MLflow run that made a stage's outputs: `runs/report.json`, `runs/sft/alfworld.json`, ..."""
    return RUNS / stage / f"{'-'.join(items)}.json" if items else RUNS / f"{stage}.json"
