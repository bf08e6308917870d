"""The whole report from small inputs: exact numbers, one safe self-contained page, the same bytes twice, calm about gaps."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from qlass.jsonl import write_records
from qlass.records import Cost, Episode, Step
from qlass.report import EnvInputs, ReportInputs, ReportSettings, build_report

QUICK = ReportSettings(bootstrap=200)


def simple_episode(method, split, number, outcome, *, seed=0, tokens=10):
    step = Step("", "look", "You see nothing.", outcome, True, False)
    task_id = f"alfworld/{split}/{number:05d}"
    cost = Cost(generated_tokens=tokens, env_steps=3)
    return Episode(task_id, "pick", method, seed, outcome, outcome == 1, "A room.", (step,), cost)


def simple_inputs(root, outcomes):
    """Write one file per (method, split) from lists of outcomes by task."""
    episodes = {}
    for (method, split), values in outcomes.items():
        episodes[method, split] = root / f"{method}-{split}.jsonl"
        records = [simple_episode(method, split, number, value) for number, value in enumerate(values)]
        write_records(episodes[method, split], records, Episode)
    return ReportInputs(out=root / "report", envs=(EnvInputs("alfworld", "Toy world", episodes),))


@pytest.fixture
def built(samples, tmp_path):
    inputs = samples.write_samples(tmp_path, tasks=6, trees=4)
    build_report(inputs, QUICK)
    return inputs


def page(inputs):
    return (inputs.out / "index.html").read_text(encoding="utf-8")


def test_summary_rows_are_exact(tmp_path):
    outcomes = {
        ("sft", "test_seen"): [1.0, 0.0],
        ("sft", "test_unseen"): [0.0, 0.0],
        ("qlass", "test_seen"): [1.0, 1.0],
        ("qlass", "test_unseen"): [0.0, 0.0],
    }
    inputs = simple_inputs(tmp_path, outcomes)
    build_report(inputs, QUICK)
    rows = json.loads((inputs.out / "summary.json").read_text())["rows"]
    common = {
        "env": "alfworld",
        "n_seeds": 1,
        "generated_tokens_per_episode": 10.0,
        "env_steps_per_episode": 3.0,
    }

    def row(split, method, mean, low, high, paired, n_tasks=2):
        names = ("paired_vs_sft_mean", "paired_vs_sft_ci_low", "paired_vs_sft_ci_high")
        numbers = {"mean_reward": mean, "success_rate": mean, "ci_low": low, "ci_high": high, "n_tasks": n_tasks}
        return common | numbers | dict(zip(names, paired, strict=True)) | {"split": split, "method": method}

    none = (None, None, None)
    assert rows == [
        row("test_seen", "sft", 50.0, 0.0, 100.0, none),
        row("test_seen", "qlass", 100.0, 100.0, 100.0, (50.0, 0.0, 100.0)),
        row("test_unseen", "sft", 0.0, 0.0, 0.0, none),
        row("test_unseen", "qlass", 0.0, 0.0, 0.0, (0.0, 0.0, 0.0)),
        row("pooled", "sft", 25.0, 0.0, 75.0, none, 4),
        row("pooled", "qlass", 50.0, 0.0, 100.0, (25.0, 0.0, 75.0), 4),
    ]


def test_csv_json_and_markdown_agree(built):
    summary = json.loads((built.out / "summary.json").read_text())
    with (built.out / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(summary["rows"]) == 18
    for cells, row in zip(table, summary["rows"], strict=True):
        assert {key: "" if value is None else str(value) for key, value in row.items()} == cells
        assert summary["metrics"]["alfworld"][row["split"]][row["method"]]["mean_reward"] == row["mean_reward"]
    markdown = (built.out / "results.md").read_text()
    last = summary["rows"][-1]
    assert f"| pooled | QLASS (adaptive) | {last['mean_reward']:.1f} (" in markdown
    assert "82.8" in markdown
    assert "(interval over tasks 55.0 to 64.0)" in page(built)


def test_every_interval_says_what_it_is_over(built):
    markdown = (built.out / "results.md").read_text()
    for text in (markdown, page(built)):
        assert len(re.findall(r"95% (?:bootstrap )?intervals? over tasks", text)) > 2
        assert re.findall(r".{20}95% (?:bootstrap )?intervals?\b(?! over tasks).{20}", text) == []
        assert "Intervals are over tasks: another training may differ by more." in text
    assert re.search(r"<title>QLASS: \d+\.\d \(\d+\.\d to \d+\.\d over tasks\)</title>", page(built))
    assert re.search(r'aria-label="[^":]*, intervals over tasks: [^"]*QLASS \d', page(built))


def test_seeds_are_averaged_inside_a_task(tmp_path):
    path = tmp_path / "episodes.jsonl"
    records = [simple_episode("qlass", "test_seen", 0, value, seed=seed) for seed, value in enumerate([1.0, 0.0])]
    records += [simple_episode("qlass", "test_seen", 1, 1.0, seed=seed) for seed in (0, 1)]
    write_records(path, records, Episode)
    env = EnvInputs("alfworld", "Toy world", {("qlass", "test_seen"): path})
    build_report(ReportInputs(tmp_path / "report", (env,)), QUICK)
    (row,) = json.loads((tmp_path / "report" / "summary.json").read_text())["rows"]
    assert (row["mean_reward"], row["ci_low"], row["ci_high"]) == (75.0, 50.0, 100.0)
    assert (row["n_tasks"], row["n_seeds"]) == (2, 2)


def test_same_inputs_give_the_same_bytes(samples, tmp_path):
    outputs = []
    for name in ("one", "two"):
        inputs = samples.write_samples(tmp_path / name, tasks=3, trees=2)
        build_report(inputs, QUICK)
        build_report(inputs, QUICK)
        files = sorted(path for path in inputs.out.rglob("*") if path.is_file())
        outputs.append({path.relative_to(inputs.out).as_posix(): path.read_bytes() for path in files})
    assert outputs[0] == outputs[1]
    names = {"index.html", "summary.json", "results.csv", "results.md"}
    assert set(outputs[0]) == names | {"plots/budget.csv", "plots/categories.csv", "plots/branches.csv"}


@pytest.mark.parametrize("method", ["sft", "qlass", "best_of_n", "base"])
def test_one_method_on_one_split_is_enough(samples, tmp_path, method):
    inputs = samples.write_samples(tmp_path, tasks=2, trees=1)
    env = inputs.envs[0]
    only = {key: path for key, path in env.episodes.items() if key == (method, "test_unseen")}
    bare = replace(env, episodes=only, labels=tmp_path / "none.parquet", siblings=None, qnet_loss=None)
    build_report(replace(inputs, envs=(bare,)), QUICK)
    html = page(inputs)
    assert "The tree has no colours." in html
    assert "Needs episodes of SFT and of QLASS" in html
    assert [row["split"] for row in json.loads((inputs.out / "summary.json").read_text())["rows"]] == ["test_unseen"]


def test_different_panels_are_said_and_paired_on_common_tasks(tmp_path):
    inputs = simple_inputs(tmp_path, {("sft", "test_seen"): [0.0, 0.0, 1.0], ("qlass", "test_seen"): [1.0, 1.0]})
    build_report(inputs, QUICK)
    assert "not all evaluated on the same tasks of test_seen" in page(inputs)
    rows = json.loads((inputs.out / "summary.json").read_text())["rows"]
    assert [row["paired_vs_sft_mean"] for row in rows] == [None, 100.0]


def test_templates_are_part_of_the_package():
    from qlass.report.page import TEMPLATES

    assert TEMPLATES.parent == Path(build_report.__code__.co_filename).parent
    assert (TEMPLATES / "page.html.j2").is_file()


def test_headline_is_about_a_split_that_can_be_compared(tmp_path):
    outcomes = {("sft", "test_seen"): [0.0], ("qlass", "test_seen"): [1.0], ("qlass", "test_unseen"): [1.0]}
    inputs = simple_inputs(tmp_path, outcomes)
    build_report(inputs, QUICK)
    assert "QLASS scores 100.0 on seen test tasks" in page(inputs)
    assert "100.0 points above SFT" in page(inputs)


def test_variants_have_their_own_sentence(tmp_path):
    outcomes = {("sft", "test_seen"): [0.0], ("qlass", "test_seen"): [0.0], ("qlass_adaptive", "test_seen"): [1.0]}
    inputs = simple_inputs(tmp_path, outcomes)
    build_report(inputs, QUICK)
    text = page(inputs)
    assert "QLASS (adaptive) scores 100.0, 100.0 points above SFT" in text
    assert "The highest mean here is QLASS (adaptive) with 100.0." in text
