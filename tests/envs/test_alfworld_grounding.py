"""Our grounding of ALFRED's problems against fast-downward's: the same facts, operators, rules and goals."""

from __future__ import annotations

import os
import sys
import zlib
from collections import Counter
from typing import Any

import pytest

from qlass.envs.alfworld import translation
from qlass.envs.alfworld.games import load_game
from qlass.envs.alfworld.library import require_alfworld
from qlass.envs.alfworld.translation import translate
from qlass.errors import EnvironmentFault

pytest.importorskip("textworld")
pytest.importorskip("alfworld")
pytestmark = pytest.mark.alfworld

GAMES = [
    (10, "pick_heat_then_place_in_recep", "Cup", "Fridge", ""),
    (308, "look_at_obj_in_light", "Book", "", "DeskLamp"),
    (308, "pick_two_obj_and_place", "CD", "Safe", ""),
    (424, "pick_clean_then_place_in_recep", "SoapBar", "Toilet", ""),
]

DOMAIN = """(define (domain small) (:requirements :adl :typing) (:types thing)
 (:predicates (ready ?t - thing) (lit ?t - thing) (hung ?t - thing))
 (:action light :parameters (?t - thing) :precondition (ready ?t) :effect (when (hung ?t) (lit ?t)))
 (:action hang :parameters (?t - thing) :precondition (ready ?t) :effect (hung ?t)))"""
PROBLEM = "(define (problem p) (:domain small) (:objects a b - thing) (:init (ready a)) (:goal (lit a)))"


@pytest.fixture(autouse=True)
def _alfworld(tmp_path_factory: pytest.TempPathFactory) -> None:
    require_alfworld(tmp_path_factory.getbasetemp())


def _game(scene: int, task_type: str, target: str, receptacle: str, toggle: str) -> dict[str, Any]:
    key = {"scene": scene, "task_type": task_type, "object": target, "receptacle": receptacle, "toggle": toggle}
    return load_game({"source": "generated", "seed": 3, **key}, {})


class _Sas:
    """A planning task with facts instead of variable numbers."""

    def __init__(self, compressed: bytes) -> None:
        self._lines = iter(zlib.decompress(compressed).decode().split("\n"))
        self._skip_to("end_metric")
        variables = [self._block("begin_variable", "end_variable") for _ in range(self._count())]
        self._names = [block[3] for block in variables]
        self.layers = {block[3]: block[1] for block in variables}
        assert self._count() == 0
        state = self._block("begin_state", "end_state")
        self.state = {name for name, value in zip(self._names, state, strict=True) if value == "0"}
        self.goal = {self._facts(line) for line in self._block("begin_goal", "end_goal")[1:]}
        self.operators = Counter(
            self._operator(self._block("begin_operator", "end_operator")) for _ in range(self._count())
        )
        self.rules = {self._rule(self._block("begin_rule", "end_rule")) for _ in range(self._count())}

    def _skip_to(self, line: str) -> None:
        while next(self._lines) != line:
            pass

    def _count(self) -> int:
        return int(next(self._lines))

    def _block(self, first: str, last: str) -> list[str]:
        assert next(self._lines) == first
        lines = []
        while (line := next(self._lines)) != last:
            lines.append(line)
        return lines

    def _facts(self, line: str) -> frozenset[tuple[str, str]]:
        words = line.split()
        return frozenset((self._names[int(v)], value) for v, value in zip(words[::2], words[1::2], strict=True))

    def _operator(self, lines: list[str]) -> Any:
        prevail = int(lines[1])
        effects = set()
        for line in lines[3 + prevail : -1]:
            words = line.split()
            end = 1 + 2 * int(words[0])
            when, (variable, before, after) = self._facts(" ".join(words[1:end])), words[end:]
            effects.add((when, self._names[int(variable)], before, after))
        return lines[0], frozenset(map(self._facts, lines[2 : 2 + prevail])), frozenset(effects)

    def _rule(self, lines: list[str]) -> Any:
        variable, before, after = lines[-1].split()
        return frozenset(map(self._facts, lines[1:-1])), self._names[int(variable)], before, after


@pytest.mark.parametrize("game", GAMES, ids=lambda game: f"{game[0]}-{game[1]}")
def test_equals_fast_downward(game: tuple[int, str, str, str, str]) -> None:
    """The planning task is the same as fast-downward's own up to numbering; so is all that goes with it."""
    texts = _game(*game)
    ours = translate(texts["pddl_domain"], texts["pddl_problem"])
    stock = translate(texts["pddl_domain"], texts["pddl_problem"], stock=True)
    mine, theirs = vars(_Sas(ours.sas)), vars(_Sas(stock.sas))
    for part in ("layers", "state", "goal", "operators", "rules"):
        assert mine[part] == theirs[part], part
    assert (ours.types, ours.objects, ours.parameters) == (stock.types, stock.objects, stock.parameters)
    assert (sorted(ours.init), ours.fluents) == (sorted(stock.init), stock.fluents)


def test_other_domains_go_to_fast_downward() -> None:
    """A conditional effect that ALFRED does not have is left to fast-downward."""
    assert translate(DOMAIN, PROBLEM) == translate(DOMAIN, PROBLEM, stock=True)


def test_unreachable_goal_goes_to_fast_downward() -> None:
    """fast-downward replaces a problem without solution by a constant one; that stays its decision."""
    problem = PROBLEM.replace("(lit a)", "(lit b)")
    assert translate(DOMAIN, problem) == translate(DOMAIN, problem, stock=True)


def test_bad_text_is_reported() -> None:
    """fast-downward would end the process."""
    with pytest.raises(EnvironmentFault, match="cannot read it"):
        translate(DOMAIN, PROBLEM.replace("(lit a)", "(unheard-of a)"))


def test_key_depends_on_both_texts() -> None:
    """Equal keys mean equal texts."""
    keys = {translation.problem_key(*texts) for texts in (("a", "bc"), ("ab", "c"), ("a", "b"))}
    assert len(keys) == 3


def test_process_is_left_alone() -> None:
    """Translating restores what fast-downward overwrites: arguments, standard output, environment."""
    game = _game(*GAMES[-1])
    argv, stdout = list(sys.argv), sys.stdout
    translate(game["pddl_domain"], game["pddl_problem"])
    assert (sys.argv, sys.stdout) == (argv, stdout)
    assert os.environ["ALFWORLD_DATA"]
