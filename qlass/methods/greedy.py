"""The policy alone, at temperature 0: the rows of the policies."""

from __future__ import annotations

from qlass.methods.base import Assignment, Method, MethodSettings
from qlass.records import Episode
from qlass.search.driver import Routine


class GreedySettings(MethodSettings):
    """The policy alone: nothing to set, and nothing is drawn; another seed would give the same episodes."""


def play(given: Assignment, _: GreedySettings) -> Routine[list[Episode]]:
    """Play one trajectory."""
    plays = given.begin()
    yield from given.finish(plays, given.sampling(0.0))
    return [given.episode(plays[0])]


METHOD = Method(title="Greedy", settings=GreedySettings, play=play, note=lambda _: {"": "greedy"}, needs_qnet=False)
