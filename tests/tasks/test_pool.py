from pathlib import Path

import pytest

from qlass.errors import DataError
from qlass.jsonl import write_records
from qlass.records import Cost, Episode
from tasks.pool import main, pooled, scores_of, table
from tasks.project import paths, settings

GIVEN = settings.Run(envs=("corridor",), policies=("sft",), searches=("qlass",), splits=("test_seen",))


def episode(task: str, method: str, success: bool) -> Episode:
    return Episode(task, "go", method, 0, float(success), success, "", (), Cost())


def project(folder: Path, sft: list[bool], qlass: list[bool]) -> Path:
    for method, outcomes in (("sft", sft), ("qlass", qlass)):
        path = folder / paths.episodes("corridor", method, "test_seen")
        path.parent.mkdir(parents=True)
        write_records(path, [episode(f"t/{n}", method, one) for n, one in enumerate(outcomes)], Episode)
    return folder


def test_runs_are_pooled_and_compared_within_themselves(tmp_path: Path) -> None:
    first = project(tmp_path / "a", [True, False, False, False], [True, True, True, False])
    second = project(tmp_path / "b", [True, True, False, False], [True, True, True, True])
    runs = [scores_of(folder, "corridor", GIVEN) for folder in (first, second)]
    assert len(pooled(runs)["sft"]) == 8
    lines = table(runs, resamples=500, confidence=0.95).splitlines()
    assert lines[0] == "| method | run 1 | run 2 | all, 95% interval | minus SFT, paired |"
    assert lines[1].count("|") == lines[0].count("|")
    cells = {line.split(" | ")[0].strip("| "): line.split(" | ")[1:] for line in lines[2:]}
    assert cells["sft"][:2] == ["25.0", "50.0"]
    assert cells["qlass"][:2] == ["75.0", "100.0"]
    assert cells["qlass"][2].startswith("87.5 (")
    assert cells["qlass"][3].startswith("+50.0 (+")
    assert cells["sft"][2].startswith("37.5 (")


def test_any_method_can_be_what_the_others_are_compared_with(tmp_path: Path) -> None:
    runs = [scores_of(project(tmp_path, [True, False], [True, True]), "corridor", GIVEN)]
    head, _, *rows = table(runs, resamples=500, confidence=0.95, against="qlass").splitlines()
    assert head.endswith("| minus QLASS, paired |")
    assert ["50.0 (" in row for row in rows] == [True, False]
    assert "\N{MINUS SIGN}50.0 (" in rows[0]
    assert rows[1].endswith("|  |")
    with pytest.raises(DataError, match="--against: found 'eto'; allowed: sft, qlass"):
        table(runs, resamples=500, confidence=0.95, against="eto")


def test_runs_without_sft_have_no_difference_to_it() -> None:
    head, _, row = table([{"qlass": {"t": 100.0}}], resamples=10, confidence=0.95).splitlines()
    assert head.endswith("| minus SFT, paired |")
    assert row == "| qlass | 100.0 | 100.0 (100.0 to 100.0) |  |"


def test_runs_with_different_methods_are_refused() -> None:
    with pytest.raises(DataError, match="different methods: sft; qlass, sft"):
        table([{"sft": {"t": 1.0}}, {"sft": {"t": 1.0}, "qlass": {"t": 1.0}}], 10, 0.95)


def test_a_project_without_results_is_named(tmp_path: Path) -> None:
    assert main(["alfworld", str(tmp_path)]) == DataError.exit_code
    with pytest.raises(DataError, match=f"run the pipeline in {tmp_path} first"):
        scores_of(tmp_path, "corridor", GIVEN)
