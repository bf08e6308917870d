"""QLASS with two additions that are not in the paper: a prior, and more proposals where the value falls.

The reply with the highest Q + b log p is executed. That is the mode of p exp(Q / b), the policy that maximises the expected
Q-value minus b times its KL divergence from the SFT policy. Where the highest Q-value falls below a share of that of the
step before, more replies are drawn.
"""

from __future__ import annotations

import math

from qlass.methods.base import Assignment, DrawnSettings, Method, Play, distinct
from qlass.records import Episode, Proposal
from qlass.search.driver import Routine
from qlass.settings import Draws, NonNegative, Ratio, Replies


class AdaptiveSettings(DrawnSettings):
    """QLASS with a prior and redraws, which are not in the paper."""

    proposals: Replies
    """Replies per draw (M)."""
    prior: NonNegative
    """Weight b of a reply's log probability (natural, summed over its tokens, at temperature 1) beside its Q-value;
    the reply with the highest Q + b log p is executed."""
    max_redraws: Draws
    """How often more replies are drawn at one step."""
    redraw_below: Ratio
    """Share of the highest Q-value of the step before, or all of it where it is negative; where no Q-value reaches
    that, more replies are drawn."""
    redraw_temperature: NonNegative
    """Temperature of those further replies."""


def play(given: Assignment, settings: AdaptiveSettings) -> Routine[list[Episode]]:
    """Play one trajectory."""
    (one,) = given.begin()
    last = -math.inf
    while not one.cursor.ended:
        proposals, values = yield from _propose(given, one, settings, enough(last, settings.redraw_below))
        last = max(values, default=last)
        scores = [q + settings.prior * proposal.logprob for q, proposal in zip(values, proposals, strict=False)]
        best = max(range(len(scores)), key=scores.__getitem__, default=0)
        yield from one.execute(proposals[best], zip(proposals, values, strict=False))
    return [given.episode(one)]


def enough(last: float, share: float) -> float:
    """Return the Q-value below which more replies are drawn; it never lies above the last one.

    Args:
        last: highest Q-value of the step before; minus infinity where there was none.
        share: of it, in [0, 1]. A share of a negative value would lie above it.
    """
    return share * last if last > 0 else last


def _propose(
    given: Assignment, one: Play, settings: AdaptiveSettings, wanted: float
) -> Routine[tuple[list[Proposal], list[float]]]:
    """Draw replies, and again while the highest Q-value is below `wanted`.

    Returns:
        The distinct proposals and their Q-values; no values where there is nothing to choose and nothing to redraw.
    """
    drawn: list[Proposal] = []
    values: list[float] = []
    for number in range(1 + settings.max_redraws):
        sampling = given.sampling(settings.redraw_temperature if number else settings.temperature)
        numbers = range(number * settings.proposals, (number + 1) * settings.proposals)
        drawn += yield from one.draw(sampling, "guided", numbers)
        proposals = distinct(drawn)
        new = proposals[len(values) :]
        if new and (len(proposals) > 1 or settings.max_redraws):
            values += yield from one.score(new)
        if not values or max(values) >= wanted:
            break
    return proposals, values


def note(settings: AdaptiveSettings) -> dict[str, str]:
    """Describe the row."""
    return {
        "": (
            f"M = {settings.proposals}, {settings.in_words()}; Q + {settings.prior:g} log p, and up to "
            f"{settings.max_redraws} redraws where Q falls below {settings.redraw_below:g} of its last value"
        )
    }


METHOD = Method(
    title="QLASS (adaptive)",
    settings=AdaptiveSettings,
    play=play,
    note=note,
    likelihood_setting=lambda settings: "prior" if settings.prior else None,
)
