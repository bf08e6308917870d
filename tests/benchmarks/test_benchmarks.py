"""Each benchmark runs at its smallest size. Nothing is asserted about speed: that is for `make bench` on a quiet machine."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as program
from benchmarks import driver, environment, expand, limits, rollout, rows, sciworld, shares, threads, training, webshop
from tasks.project import settings

CTRANSLATE2 = {f"expand_vs_ctranslate2 ({what})" for what in ("int8", "int8, cached", "float32", "float32, cached")}
VLLM = {f"expand_vs_vllm ({what})" for what in ("eager", "eager, cached", "compiled", "compiled, cached")}
INSTALLED = {"expand_vs_hf_generate"} | (CTRANSLATE2 if find_spec("ctranslate2") else set())
SHOP = (
    {"webshop_step_warm_vs_cold", "webshop_branch_vs_replay"}
    if all(map(find_spec, webshop.WEBSHOP.packages))
    else set()
)
SCIENCE = {"sciworld_step_vs_env_step", "sciworld_branch_vs_replay"} if find_spec("scienceworld") else set()
SEARCHES = settings.load_all().run.searches
SHARES = {
    f"{what} ({env}, {play})"
    for env in settings.load_all().envs
    if not shares.missing(env)
    for play in ("sft", *SEARCHES, "explore")
    for what in shares.COLUMNS
    if what != "share_of_qnet" or play in SEARCHES
}
SMALLEST: dict[str, tuple[Any, dict[str, int], set[str]]] = {
    "environment": (
        environment,
        {"games": 1, "episodes": 1, "steps": 4, "branches": 1},
        {f"alfworld_{what} ({engine})" for what in ("step_vs_stock", "branch_vs_replay") for engine in ("textworld", "native")},
    ),
    "webshop": (webshop, {"tasks": 1, "branches": 2, "rounds": 1}, SHOP),
    "sciworld": (sciworld, {"tasks": 1, "warmup": 1, "rounds": 1}, SCIENCE),
    "training": (
        training,
        {"trees": 1, "trajectories": 2, "rounds": 1},
        {"qnet_train_vs_per_step", "sft_vs_padded", "batches_vs_packing", "deepspeed_vs_torch"},
    ),
    "rollout": (
        rollout,
        {"tasks": 1, "turns": 1, "rounds": 1},
        {f"rollout_vs_{what}" for what in ("naive", "naive (shared trunk)", "released", "hf_generate_batch")}
        | {"qnet_score_vs_padded", "qnet_score_vs_padded (batch)"},
    ),
    "expand": (expand, {"states": 1, "replies": 2, "rounds": 1}, INSTALLED),
    "driver": (
        driver,
        {"tasks": 2, "rounds": 1},
        {"overlap (slow environment)", "overlap (fast environment)", "slots"},
    ),
    "limits": (limits, {"trajectories": 1, "rounds": 1}, {f"vs_limit ({what})" for what in ("encoding", "training", "drawing", "drawing, memory")}),
    "threads": (threads, {"trajectories": 2, "rounds": 1}, {"two_threads_beside_neighbour"}),
    "shares": (shares, {"tasks": 1}, SHARES),
}  # fmt: skip


def test_every_part_is_tested() -> None:
    assert tuple(SMALLEST) == program.PARTS


@pytest.mark.slow
@pytest.mark.alfworld
@pytest.mark.parametrize("part", SMALLEST)
def test_a_part_runs(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QLASS_VLLM_PYTHON", raising=False)
    module, sizes, names = SMALLEST[part]
    found = module.rows(**sizes)
    assert {row.name for row in found} == names
    for row in found:
        assert row.ratio == pytest.approx(row.ours / row.other)
        assert row.ours > 0


STAND_IN = """
from argparse import Namespace
import torch
from transformers import AutoModelForCausalLM

SamplingParams = Namespace

class LLM:
    def __init__(self, model, **_):
        self.model = AutoModelForCausalLM.from_pretrained(model)
        self.model.generation_config.eos_token_id = None

    def reset_prefix_cache(self):
        return True

    def generate(self, prompts, how, use_tqdm):
        print("Processed prompts: 100%")
        sampled = {"do_sample": True, "temperature": how.temperature} if how.temperature else {}
        found = []
        for prompt in prompts:
            ids = torch.tensor([prompt["prompt_token_ids"]])
            rows = self.model.generate(
                ids, attention_mask=ids > -1, max_new_tokens=how.max_tokens, num_return_sequences=how.n, **sampled
            )
            found.append(Namespace(outputs=[Namespace(token_ids=row.tolist()) for row in rows[:, ids.shape[1] :]]))
        return found
"""
"""A module `vllm` that answers as vLLM does, so that its side runs where vLLM is not."""


@pytest.mark.slow
@pytest.mark.alfworld
def test_the_side_of_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vllm.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("QLASS_VLLM_PYTHON", sys.executable)
    assert {row.name for row in expand.rows(1, 2, 1)} == INSTALLED | VLLM
    assert "expand_vs_vllm: left out" not in capfd.readouterr().out
    (tmp_path / "vllm.py").write_text("raise ImportError('no libgomp here')")
    with pytest.raises(SystemExit, match="ended without an answer"):
        expand.rows(1, 2, 1)
    assert "no libgomp here" in capfd.readouterr().err


def test_the_table_has_a_line_per_row() -> None:
    row = rows.Row.of("a_vs_b", 3000.0, 2.0, "things per CPU second", "like this")
    *_, line = program.table([row]).splitlines()
    assert line == "| `a_vs_b` | 1,500.00 | 3,000.0 | 2.0 | things per CPU second | like this |"
