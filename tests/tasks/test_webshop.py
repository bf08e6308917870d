"""The stage graph on WebShop, as its preset says, with the shipped base model; small, but with nothing replaced."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qlass.jsonl import read_json
from tasks.project import paths, settings
from tests.tasks.conftest import REPOSITORY, set_params

PRESETS = REPOSITORY / paths.PRESETS
SMALL = {
    "envs.webshop.panel": {"train": 12, "dev": 4, "test_seen": 4, "test_unseen": 4},
    "envs.webshop.options.size": 300,
    "recipes.sft.epochs": 1,
    "recipes.sft.backend": "torch",
    "explore.tasks": 4,
    "explore.max_nodes": 12,
    "qnet.backend": "torch",
    "qnet.ranks": 1,
    "qnet.validation_fraction": 0.25,
    "run.searches": ["best_of_n", "qlass", "qlass_adaptive", "qlass_perturbed"],
    "report.bootstrap": 50,
}


def test_half_of_the_data_is_the_only_difference_of_its_preset() -> None:
    whole, half = (settings.load_all(PRESETS / f"{name}.yaml").model_dump() for name in ("webshop", "webshop-half"))
    assert (whole["recipes"]["sft"].pop("share"), half["recipes"]["sft"].pop("share")) == (1.0, 0.5)
    assert whole == half


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_stages_run_on_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(PRESETS / "webshop.yaml", project / paths.PARAMS)
    set_params(project, SMALL)
    base = Path(settings.load_all().base.source)
    shutil.copytree(REPOSITORY / base, project / base)
    monkeypatch.setenv("PYTHONPATH", str(project))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for command in (["dvc", "init", "--no-scm", "-q"], ["tasks.pipeline"]):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    rows = read_json(project / paths.REPORT / "summary.json")["rows"]
    assert {row["method"] for row in rows if row["split"] == "test_unseen"} == {
        "base", "sft", "best_of_n", "best_of_n_likelihood", "best_of_n_qnet", "qlass", "qlass_adaptive", "qlass_perturbed",
    }  # fmt: skip
    assert "webshop-generated (300 products, seed 0), human goals" in (
        project / paths.REPORT / "results.md"
    ).read_text(encoding="utf-8")
    assert read_json(project / paths.expert_stats("webshop"))["trajectories"] > 0
