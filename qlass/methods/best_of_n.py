"""Best-of-N: N whole trajectories of the policy, one of them is kept (Table 2 of the paper).

Three rules share the N rollouts and their cost: `best_of_n` keeps the highest true reward (the paper's row, an oracle at
test time), `best_of_n_qnet` the highest Q-value of the last action, `best_of_n_likelihood` the highest mean log
probability per token. The last one is left out where log probabilities are not known.
"""

from __future__ import annotations

from dataclasses import replace

from qlass.methods.base import Assignment, DrawnSettings, Method
from qlass.policies.base import Score
from qlass.records import Cost, Episode
from qlass.search.driver import Routine
from qlass.settings import Trajectories


class BestOfNSettings(DrawnSettings):
    """Best-of-N: whole trajectories are played, and one of them is kept."""

    rollouts: Trajectories
    """Trajectories per task (N; the paper: 6). N = M spends about what `qlass` spends."""


def play(given: Assignment, settings: BestOfNSettings) -> Routine[list[Episode]]:
    """Play N trajectories and keep one by each rule."""
    plays = given.begin(settings.rollouts)
    yield from given.finish(plays, given.sampling(settings.temperature))
    values: list[tuple[float, ...]] = yield [
        Score(one.cursor.history[:-2], (one.cursor.history[-2].content,)) for one in plays
    ]
    cost = sum((one.cost for one in plays), Cost())
    by_reward = max(plays, key=lambda one: one.cursor.outcome)
    by_value = max(zip(values, plays, strict=True), key=lambda pair: pair[0][0])[1]
    first, qnet, likelihood = METHOD.rows(given.row)
    kept = [
        given.episode(by_reward, first, cost),
        given.episode(by_value, qnet, replace(cost, qnet_calls=cost.qnet_calls + settings.rollouts)),
    ]
    if given.logprobs:
        by_likelihood = max(plays, key=lambda one: one.logprob / max(one.tokens, 1))
        kept.append(given.episode(by_likelihood, likelihood, cost))
    return kept


def note(settings: BestOfNSettings) -> dict[str, str]:
    """Describe the rows."""
    drawn = f"N = {settings.rollouts}, {settings.in_words()}"
    return {
        "": f"{drawn}; keeps the highest true reward (an oracle)",
        "qnet": f"{drawn}; keeps the highest Q-value of the last action",
        "likelihood": f"{drawn}; keeps the most likely",
    }


METHOD = Method(
    title="Best-of-N",
    settings=BestOfNSettings,
    play=play,
    note=note,
    variants=("qnet", "likelihood"),
    by_likelihood=("likelihood",),
)
