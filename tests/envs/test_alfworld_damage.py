"""Damaged games of ALFWorld: every one is a named fault, in the panels and in both engines, and never a traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlass.envs.alfworld import games
from qlass.envs.alfworld.adapter import ENGINES, AlfworldEnv
from qlass.envs.alfworld.games import GAME, LARGEST, load_game
from qlass.envs.alfworld.panels import panels
from qlass.envs.alfworld.translation import cached_translation
from qlass.errors import EnvironmentFault, StorageError
from qlass.records import TaskSpec

pytest.importorskip("textworld")
pytest.importorskip("alfworld")
pytestmark = pytest.mark.alfworld

FOLDER = "valid_seen/pick_and_place_simple-Mug-None-Desk-1/trial_1"
SPEC = TaskSpec(
    "alfworld/test_seen/00000", "alfworld", "test_seen", "put", {"source": "files", "path": f"{FOLDER}/{GAME}"}
)
TEXTS = ("pddl_domain", "pddl_problem", "grammar")


@pytest.fixture(scope="module")
def game() -> dict[str, Any]:
    """A game of a bathroom, the smallest kind of room."""
    spec = next(s for s in islice(panels({}, "train", 0), 50) if s.key["scene"] > 400)
    found = load_game(spec.key, {})
    return {name: found[name] for name in (*TEXTS, "solvable", "walkthrough")}


@pytest.fixture
def file(tmp_path: Path, game: dict[str, Any]) -> Path:
    """The file of the game, in a folder tree as `alfworld-download` leaves it."""
    folder = tmp_path / "data" / "json_2.1.1" / FOLDER
    folder.mkdir(parents=True)
    (folder / "traj_data.json").write_text("{}")
    (folder / GAME).write_text(json.dumps(game))
    return folder / GAME


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("translations")


@pytest.fixture
def options(tmp_path: Path, cache: Path) -> dict[str, Any]:
    return {"data": str(tmp_path / "data"), "cache": str(cache), "admissible": True}


@pytest.fixture(params=ENGINES)
def env(request: pytest.FixtureRequest, options: dict[str, Any]) -> Iterator[AlfworldEnv]:
    with closing(AlfworldEnv({**options, "engine": request.param})) as made:
        yield made


def links_nowhere(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("moved"))


def links_to_itself(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


def becomes_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def becomes_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def becomes_huge(file: Path) -> None:
    with file.open("ab") as opened:
        opened.truncate(LARGEST + 1)


def text(content: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(content)


def key(**changes: Any) -> Callable[[Path], object]:
    """Change keys of the game; `...` removes one."""

    def change(file: Path) -> None:
        found = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({name: value for name, value in found.items() if value is not ...}))

    return change


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (text(""), "found an empty file"),
    "blank": (text("\n"), "found 1 bytes that are not JSON"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-1]), "bytes that are not JSON"),
    "a pointer of Git LFS": (text("version https://git-lfs.github.com/spec/v1"), "that are not JSON"),
    "an error page": (text("<html>404</html>"), "that are not JSON"),
    "not UTF-8": (lambda file: file.write_bytes(file.read_bytes().replace(b"alfred", b"\xff")), "codec can't decode"),
    "zeros": (lambda file: file.write_bytes(bytes(file.stat().st_size)), "that are not JSON"),
    "nested": (text("[" * 100_000), "that are not JSON (maximum recursion depth"),
    "a list": (text("[]"), "found a list, expected a JSON object"),
    "a text": (text('"game"'), "found a text, expected a JSON object"),
    "null": (text("null"), "found null, expected a JSON object"),
    "a number": (text("1.5"), "found a number, expected a JSON object"),
    "solvable is a text": (key(solvable="false"), "solvable is a text, expected true or false"),
    "solvable is a number": (key(solvable=1), "solvable is a number, expected true or false"),
    "solvable is null": (key(solvable=None), "solvable is null, expected true or false"),
    **{f"no {name}": (key(**{name: ...}), f"found no {name}, expected the keys") for name in TEXTS},
    **{f"{name} is null": (key(**{name: None}), f"{name} is null, expected a text") for name in TEXTS},
    **{f"{name} is empty": (key(**{name: " "}), f"{name} is an empty text, expected a text") for name in TEXTS},
    "a problem is a number": (key(pddl_problem=5), "pddl_problem is a number, expected a text"),
    "a grammar is a list": (key(grammar=["grammar"]), "grammar is a list, expected a text"),
    "a domain is an object": (key(pddl_domain={}), "pddl_domain is an object, expected a text"),
    "NUL": (key(pddl_problem="(define \0)"), "pddl_problem holds characters that no text has"),
    "half a surrogate pair": (key(grammar="\ud800"), "grammar holds characters that no text has"),
    "a link to nothing": (links_nowhere, "a link to"),
    "a link to itself": (links_to_itself, "it cannot be read ("),
    "a folder": (becomes_a_folder, "found something else than a file"),
    "a pipe": (becomes_a_pipe, "found something else than a file"),
    "huge": (becomes_huge, "expected at most 67,108,864"),
}
"""What can happen to a file, and what the message says was found."""


@pytest.mark.parametrize("damage", UNREADABLE)
def test_an_unreadable_game_is_named(file: Path, options: dict[str, Any], damage: str) -> None:
    """By the panels, which do not leave it out, and by an engine that was to play it."""
    change, found = UNREADABLE[damage]
    change(file)
    with closing(AlfworldEnv({**options, "engine": "native"})) as env:
        for attempt in (lambda: list(panels(options, "test_seen", 0)), lambda: env.reset(SPEC)):
            with pytest.raises(EnvironmentFault) as caught:
                attempt()
            message = str(caught.value)
            assert message.startswith(f"game {file}: ")
            assert found in message
            assert "Download it again" in message
            assert len(message) < 1000


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_that_is_cut_anywhere_is_named(file: Path, game: dict[str, Any], data: st.DataObject) -> None:
    """Incomplete downloads of such data were reported as wuhuikai/MSC#14 and JerichoWorld/JerichoWorld#2."""
    whole = json.dumps(game).encode()
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(EnvironmentFault, match=str(file)):
        games.parse_game(file)


def play(env: AlfworldEnv, steps: int = 4) -> None:
    """Play the first admissible actions."""
    _, info = env.reset(SPEC)
    for _ in range(steps):
        info = env.step(info["admissible_actions"][0])[4]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_text_that_is_cut_anywhere_is_played_or_named(
    env: AlfworldEnv, file: Path, game: dict[str, Any], data: st.DataObject
) -> None:
    """A cut at the end of a line of the grammar may leave a grammar; nothing else may happen than a named fault."""
    name = data.draw(st.sampled_from(TEXTS))
    file.write_text(json.dumps({**game, name: game[name][: data.draw(st.integers(1, len(game[name]) - 1))]}))
    message = f"{SPEC.task_id}: game {file}: it can be played"
    try:
        play(env)
    except EnvironmentFault as fault:
        message = str(fault)
    assert message.removeprefix(f"{SPEC.task_id}: ").startswith(f"game {file}: ")
    assert len(message) < 1000


def unplayable(game: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return games whose files can be read but that no engine can play."""
    domain, problem, grammar = (game[name] for name in TEXTS)
    head = problem.partition("(:goal")[0]
    return {
        "no problem": {"pddl_problem": "a game"},
        "a problem without goal": {"pddl_problem": f"{head})"},
        "an empty goal": {"pddl_problem": f"{head}(:goal ()))"},
        "a problem without objects": {
            "pddl_problem": f"(define (problem x) (:domain alfred) (:init {problem.partition('(:init')[2]}"
        },
        "a problem without first state": {
            "pddl_problem": f"{problem.partition('(:init')[0]} (:init) (:goal {problem.partition('(:goal')[2]}"
        },
        "an undeclared agent": {"pddl_problem": problem.replace("agent1 - agent", "")},
        "an undeclared type": {"pddl_problem": problem.replace("agent1 - agent", "agent1 - robot")},
        "an undeclared object": {"pddl_problem": problem.replace("(:init", "(:init (opened ghost_1)")},
        "a goal over an undeclared predicate": {"pddl_problem": f"{head}(:goal (exists (?o - object) (flies ?o))))"},
        "a goal over an undeclared type": {"pddl_problem": f"{head}(:goal (exists (?o - unicorn) (isHot ?o))))"},
        "a goal over an undeclared object": {"pddl_problem": f"{head}(:goal (isHot ghost_1)))"},
        "a goal with too many arguments": {"pddl_problem": f"{head}(:goal (isHot agent1 agent1)))"},
        "a goal that nothing can be": {
            "pddl_problem": f"{head}(:goal (exists (?r - receptacle) (and (heatable ?r) (opened ?r)))))"
        },
        "nested": {"pddl_problem": "(" * 100_000 + ")" * 100_000},
        "a nested goal": {"pddl_problem": f"{head}(:goal {'(and ' * 5000}(isHot agent1){')' * 5000}))"},
        "a problem for a domain": {"pddl_domain": problem},
        "a domain for a problem": {"pddl_problem": domain},
        "no grammar": {"grammar": "a grammar"},
        "rules that are a list": {"grammar": 'grammar :: """["intro"]""";'},
        "rules that are null": {"grammar": 'grammar :: """null""";'},
        "a rule without text": {"grammar": 'grammar :: """{"intro": [{"right": "x"}]}""";'},
        "nested rules": {"grammar": f'grammar :: """{"[" * 100_000}""";'},
        "a grammar without introduction": {"grammar": grammar.replace('"intro"', '"outro"')},
        "a grammar without task": {"grammar": grammar.replace('"task"', '"job"')},
        "a grammar that never ends": {"grammar": grammar.replace('"rhs": "', '"rhs": "#intro#')},
    }


UNPLAYABLE = unplayable(dict.fromkeys(TEXTS, ""))


@pytest.mark.parametrize("damage", UNPLAYABLE)
def test_an_unplayable_game_is_named(env: AlfworldEnv, file: Path, game: dict[str, Any], damage: str) -> None:
    """Both engines refuse it at the start; the same engine plays the next game."""
    file.write_text(json.dumps({**game, **unplayable(game)[damage]}))
    with pytest.raises(EnvironmentFault) as caught:
        env.reset(SPEC)
    assert str(caught.value).startswith(f"{SPEC.task_id}: game {file}: ")
    assert len(str(caught.value)) < 1000
    file.write_text(json.dumps(game))
    play(env)


@pytest.mark.parametrize("expression", ["1 / 0", "nobody.name", "r.nam", "r.name()", "int('x')"])
def test_a_fault_in_the_middle_of_an_episode_is_named(
    env: AlfworldEnv, file: Path, game: dict[str, Any], expression: str
) -> None:
    """A grammar whose answer to one action cannot be worded is noticed when that is done."""
    file.write_text(json.dumps({**game, "grammar": game["grammar"].replace("{r.name}", f"{{{expression}}}")}))
    _, info = env.reset(SPEC)
    going = next(action for action in info["admissible_actions"] if action.startswith("go "))
    with pytest.raises(EnvironmentFault, match=rf"{SPEC.task_id}: game {file}: the engine cannot play it") as caught:
        env.step(going)
    assert caught.value.__cause__ is not None


def test_names_that_fast_downward_has_no_room_for(options: dict[str, Any], file: Path, game: dict[str, Any]) -> None:
    """It copies names into buffers of 1,024 bytes without looking: the process used to end with a segmentation fault."""
    problem = game["pddl_problem"].replace("agent1", f"agent{'1' * 2000}")
    file.write_text(json.dumps({**game, "pddl_problem": problem}))
    with (
        closing(AlfworldEnv(options)) as env,
        pytest.raises(EnvironmentFault, match=r"has a name of [\d,]+ bytes; fast-downward has room for 1,023"),
    ):
        env.reset(SPEC)


def test_a_file_that_changed_after_the_panels_were_made(env: AlfworldEnv, options: dict[str, Any], file: Path) -> None:
    """Another game is not played under the name of the one that the panel was made of."""
    (spec,) = panels(options, "test_seen", 0)
    env.reset(spec)
    key(walkthrough=["look"])(file)
    with pytest.raises(EnvironmentFault, match=rf"game {file}: the file has changed since the panels were made"):
        env.reset(spec)


def test_a_file_that_went_missing(env: AlfworldEnv, options: dict[str, Any], file: Path) -> None:
    (spec,) = panels(options, "test_seen", 0)
    file.unlink()
    with pytest.raises(EnvironmentFault, match=rf"game {file}: no such file"):
        env.reset(spec)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_no_permission(options: dict[str, Any], file: Path, what: str) -> None:
    closed = file if what == "file" else file.parent
    closed.chmod(0)
    with pytest.raises(EnvironmentFault, match=rf"{closed}: .*cannot be read \(.*Permission denied"):
        list(panels(options, "test_seen", 0))
    closed.chmod(0o755)


def test_a_folder_that_links_nowhere_is_not_left_out(options: dict[str, Any], file: Path) -> None:
    (file.parents[2] / "pick_and_place_simple-Pen-None-Desk-1").symlink_to(file.parents[2] / "unmounted")
    with pytest.raises(EnvironmentFault, match=r"Pen-None-Desk-1: cannot be read"):
        list(panels(options, "test_seen", 0))


@pytest.mark.parametrize("change", [{"solvable": False}, {"solvable": ...}])
def test_what_alfworld_leaves_out_is_left_out(options: dict[str, Any], file: Path, change: dict[str, Any]) -> None:
    """Unsolvable games are no faults of the panels; other files beside the games neither."""
    (file.parents[2] / ".DS_Store").touch()
    (file.parents[1] / "notes.txt").touch()
    assert len(list(panels(options, "test_seen", 0))) == 1
    key(**change)(file)
    assert list(panels(options, "test_seen", 0)) == []


def test_the_data_folder_may_be_below_home(
    options: dict[str, Any], file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = {**options, "data": "~/data"}
    (spec,) = panels(home, "test_seen", 0)
    assert load_game(spec.key, home) == json.loads(file.read_text())


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, game: dict[str, Any]) -> None:
    """And one that cannot be read is made again."""
    domain, problem = game["pddl_domain"], game["pddl_problem"]
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/.*the option `cache` of envs\.alfworld\.options"):
        cached_translation(domain, problem, tmp_path / "file")
