"""Damaged inputs are refused with the name of the file, and of the line where there are lines."""

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from qlass.errors import DataError
from qlass.jsonl import write_records
from qlass.records import Episode
from qlass.report import EnvInputs, ReportInputs, ReportSettings, build_report
from qlass.validation import problems

QUICK = ReportSettings(bootstrap=50)


def break_line(path, line, text):
    lines = path.read_text().splitlines(keepends=True)
    lines[line - 1] = text
    path.write_text("".join(lines))


CORRUPT = [
    ("evaluate/alfworld/sft-test_seen/episodes.jsonl", 3, '{"task_id": 1}\n'),
    ("explore/alfworld/trees.jsonl", 2, "{]\n"),
    ("sft/alfworld/loss.csv", 4, "15,0.25,much,0.001,4000\n"),
    ("qnet/alfworld/loss.csv", 4, "15,0.25,nan,0.001,4000\n"),
    ("qnet/alfworld/calibration.csv", 1, "bin_low,n\n"),
    ("qnet/alfworld/siblings.csv", 3, "2,70\n"),
]


@pytest.mark.parametrize(("name", "line", "text"), CORRUPT)
def test_damage_is_named_by_file_and_line(samples, tmp_path, name, line, text):
    inputs = samples.write_samples(tmp_path, tasks=2, trees=1)
    break_line(tmp_path / name, line, text)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / name}:{line}:")):
        build_report(inputs, QUICK)
    assert not (inputs.out / "index.html").exists()


@pytest.mark.parametrize(
    "name", ["label/alfworld/labels.parquet", "sft/alfworld/metrics.json", "expert/alfworld/panels/test_seen.json"]
)
def test_damage_of_other_files_is_named(samples, tmp_path, name):
    inputs = samples.write_samples(tmp_path, tasks=2, trees=1)
    (tmp_path / name).write_text("[1]")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / name))):
        build_report(inputs, QUICK)


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([("sft", 0, 0)], r":2: an episode of method 'sft', expected 'qlass'"),
        ([("qlass", 0, 0), ("qlass", 0, 0)], r":3: .* was already on line 2"),
        ([], "holds no episodes"),
        ([("qlass", 0, 0), ("qlass", 0, 1), ("qlass", 1, 0)], r"test_seen/00001 has no episode for the seeds \[1\]"),
    ],
)
def test_episodes_that_cannot_be_averaged_are_refused(samples, tmp_path, units, message):
    path = tmp_path / "episodes.jsonl"
    records = [samples.episode(method, "test_seen", number, seed) for method, number, seed in units]
    write_records(path, records, Episode)
    env = EnvInputs("alfworld", "Toy world", {("qlass", "test_seen"): path})
    with pytest.raises(DataError, match=message):
        build_report(ReportInputs(tmp_path / "report", (env,)), QUICK)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bootstrap": 0}, "bootstrap: found 0, expected a whole number >= 1"),
        ({"confidence": 1.0}, "confidence: found 1.0, expected a number > 0 and < 1"),
        ({"confidence": 0.0}, "confidence: found 0.0, expected a number > 0 and < 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValidationError) as caught:
        ReportSettings(**settings)
    assert [str(one) for one in problems(caught.value, TypeAdapter(ReportSettings))] == [message]
