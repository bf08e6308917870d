import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from qlass.envs import get_definition
from qlass.envs.core.panels import build_panel, save_panel
from qlass.errors import DataError, SettingsError
from qlass.evaluation import interval_over_runs, paired_bootstrap
from qlass.jsonl import write_records
from qlass.records import Cost, Episode
from tasks.pool import Scores, main, scores_of, tables
from tasks.project import paths, settings

ENV, SPLIT = "corridor", "dev"
REPOSITORY = Path(__file__).parents[2]


def given() -> settings.Settings:
    """Return the repository's settings for this environment, split and two methods."""
    found = settings.load_all(REPOSITORY / "params.yaml")
    run = settings.Run(envs=(ENV,), policies=("sft",), searches=("qlass",))
    evaluate = found.evaluate.model_copy(update={"splits": SPLIT})
    return found.model_copy(update={"run": run, "evaluate": evaluate})


GIVEN = given()
QUICK = {"resamples": 500, "confidence": 0.95}


def finished(
    folder: Path, sft: Sequence[float], qlass: Sequence[float], seed: int = 0, splits: Sequence[str] = (SPLIT,)
) -> Path:
    """Write what a run leaves that is read here: the panels and the episodes, whose outcomes are given."""
    for split, (method, outcomes) in itertools.product(splits, (("sft", sft), ("qlass", qlass))):
        panel = build_panel(get_definition(ENV), {"length": 5, "rooms": 3}, split, len(sft), seed)
        save_panel(folder / paths.panel(ENV, split), panel)
        path = folder / paths.episodes(ENV, method, split)
        episodes = [
            Episode(task.task_id, task.category, method, 0, float(one), one == 1, "", (), Cost())
            for task, one in zip(panel.tasks, outcomes, strict=True)
        ]
        write_records(path, episodes, Episode)
    return folder


def cells(table: str) -> dict[str, list[str]]:
    """Return the cells of a table by the first one of each row."""
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {first: rest for first, *rest in rows}


@pytest.fixture
def three(tmp_path: Path) -> dict[int, Scores]:
    """Three runs of four tasks: QLASS is 2, 0 and 3 tasks better."""
    played = {
        0: ([True, False, False, False], [True, True, True, False]),
        1: ([True, True, False, False], [True, False, True, False]),
        2: ([True, False, False, False], [True, True, True, True]),
    }
    folders = {seed: finished(tmp_path / str(seed), *both, seed) for seed, both in played.items()}
    return {seed: scores_of(folder, ENV, GIVEN) for seed, folder in folders.items()}


def test_each_seed_and_all_together_say_what_their_intervals_are_over(three: dict[int, Scores]) -> None:
    title, levels, paired, gaps = tables(three, **QUICK, measure="success").strip().split("\n\n")
    assert title == "Success in percent (95% intervals: of one seed over tasks, of all seeds over tasks and runs):"
    assert paired == "Minus SFT on the same tasks of the same seed, in points (paired, same intervals):"
    assert cells(levels)["method"] == cells(gaps)["method"] == ["seed 0", "seed 1", "seed 2", "all seeds"]
    means = {method: [cell.split(" (")[0] for cell in row] for method, row in cells(levels).items()}
    assert means["sft"] == ["25.0", "50.0", "25.0", "33.3"]
    assert means["qlass"] == ["75.0", "50.0", "100.0", "75.0"]
    assert "sft" not in cells(gaps)
    assert [cell.split(" (")[0] for cell in cells(gaps)["qlass"]] == ["+50.0", "0.0", "+75.0", "+41.7"]


def test_all_seeds_are_no_single_sample_of_tasks(three: dict[int, Scores]) -> None:
    # Differences of 50, 0 and 75: mean 41.67, standard deviation 38.19, t 4.303, so 94.9 each way.
    gaps = tables(three, **QUICK).split("\n\n")[3]
    assert cells(gaps)["qlass"][-1] == "+41.7 (\N{MINUS SIGN}53.2 to +136.5)"


def test_a_seed_has_the_numbers_that_it_has_alone(three: dict[int, Scores]) -> None:
    together = tables(three, **QUICK).split("\n\n")
    alone = tables({2: three[2]}, **QUICK).split("\n\n")
    assert alone[0] == "Mean outcome reward × 100 (95% interval over tasks):"
    assert cells(alone[1])["method"] == ["seed 2"]
    for table in (1, 3):
        assert cells(alone[table])["qlass"] == [cells(together[table])["qlass"][2]]
    plain = paired_bootstrap(three[2]["qlass"], three[2]["sft"], **QUICK, seed=0)
    assert cells(alone[3])["qlass"] == [f"+75.0 (+{plain.low:.1f} to +{plain.high:.1f})"]


def test_equal_ids_are_the_same_task_only_on_the_same_panel(tmp_path: Path) -> None:
    outcomes = [True, False] * 4
    runs = [
        scores_of(finished(tmp_path / str(n), outcomes, outcomes, seed), ENV, GIVEN)
        for n, seed in enumerate((0, 1, 1))
    ]
    first, other, again = (run["sft"] for run in runs)
    assert first.keys().isdisjoint(other)
    assert other.keys() == again.keys()
    shared, own = (interval_over_runs(pair, **QUICK, seed=0) for pair in ([other, again], [first, other]))
    assert own.high - own.low < shared.high - shared.low


def test_any_method_can_be_what_the_others_are_compared_with(three: dict[int, Scores]) -> None:
    _, _, paired, gaps = tables(three, **QUICK, against="qlass").split("\n\n")
    assert paired.startswith("Minus QLASS on")
    assert cells(gaps)["sft"][0].startswith("\N{MINUS SIGN}50.0 (")
    assert "qlass" not in cells(gaps)
    with pytest.raises(DataError, match="--against: found 'eto'; allowed: sft, qlass"):
        tables(three, **QUICK, against="eto")


@pytest.mark.parametrize("method", ["sft", "qlass"])
def test_one_method_alone_has_no_difference(method: str) -> None:
    _, levels = tables({0: {method: {"t": 100.0}}}, **QUICK).split("\n\n")
    assert cells(levels)[method] == ["100.0 (100.0 to 100.0)"]


def test_runs_with_different_methods_are_refused() -> None:
    with pytest.raises(DataError, match="different methods: sft; qlass, sft"):
        tables({0: {"sft": {"t": 1.0}}, 1: {"sft": {"t": 1.0}, "qlass": {"t": 1.0}}}, 10, 0.95)


def test_a_project_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"run the pipeline in {tmp_path} first"):
        scores_of(tmp_path, ENV, GIVEN)


def test_a_reward_in_part_is_no_success(tmp_path: Path) -> None:
    folder = finished(tmp_path, [1, 0.5, 0, 0], [0.5, 0.5, 0.5, 0])
    reward, success = (scores_of(folder, ENV, GIVEN, measure) for measure in ("reward", "success"))
    assert [sum(found.values()) for found in reward.values()] == [150, 150]
    assert [sum(found.values()) for found in success.values()] == [100, 0]
    assert reward == scores_of(folder, ENV, GIVEN)


def test_the_split_on_which_choices_are_made_is_not_compared(tmp_path: Path) -> None:
    both = GIVEN.model_copy(update={"evaluate": GIVEN.evaluate.model_copy(update={"splits": "all"})})
    finished(tmp_path, [0, 0], [0, 0], splits=["dev"])
    finished(tmp_path, [1, 1], [1, 0], splits=["test_seen", "test_unseen"])
    assert {method: list(found.values()) for method, found in scores_of(tmp_path, ENV, both).items()} == {
        "sft": [100, 100] * 2,
        "qlass": [100, 0] * 2,
    }


def test_the_program_prints_the_tables(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml, params = YAML(), YAML().load(project / paths.PARAMS)
    for seed, qlass in ((0, [True, True]), (1, [True, False])):
        finished(project / f"seed{seed}", [True, False], qlass, seed)
        params["base"]["seed"] = seed
        yaml.dump(params, project / f"seed{seed}" / paths.PARAMS)
    params["evaluate"]["splits"] = SPLIT
    yaml.dump(params, project / paths.PARAMS)
    assert main([ENV, "seed1", "seed0"]) == 0
    printed = capsys.readouterr().out
    assert "| method | seed 1 | seed 0 | all seeds |" in printed
    assert printed.startswith("Mean outcome reward × 100 (95%")
    assert "over tasks and runs" in printed
    assert main([ENV, "seed1", "--measure", "success"]) == 0
    assert capsys.readouterr().out.startswith("Success in percent")
    assert main([ENV, "seed1", "seed1"]) == SettingsError.exit_code
