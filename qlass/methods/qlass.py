"""QLASS: at each step the proposal with the highest Q-value is executed, and only that one (paper section 3.4).

*Differs from the released code*, which executes every candidate and reads the true reward of those that end the episode.
"""

from __future__ import annotations

from qlass.methods.base import Assignment, DrawnSettings, Method
from qlass.records import Episode
from qlass.search.driver import Routine
from qlass.settings import Replies


class QlassSettings(DrawnSettings):
    """QLASS: at each step, the reply with the highest Q-value is executed."""

    proposals: Replies
    """Replies per step, one of which is executed (M; the paper: 2)."""


def play(given: Assignment, settings: QlassSettings) -> Routine[list[Episode]]:
    """Play one trajectory; a single distinct proposal is executed without asking for its value."""
    (one,) = given.begin()
    sampling = given.sampling(settings.temperature)
    while not one.cursor.ended:
        yield from one.execute_best((yield from one.draw(sampling, "guided", range(settings.proposals))))
    return [given.episode(one)]


METHOD = Method(
    title="QLASS",
    settings=QlassSettings,
    play=play,
    note=lambda settings: {"": f"M = {settings.proposals}, {settings.in_words()}"},
)
