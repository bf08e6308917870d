"""One task, SFT beside QLASS, step by step (the paper's Figure 5), and how often each solves what the other does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from qlass.records import Episode, Step
from qlass.report.colour import ink_on, q_colour
from qlass.report.results import BASELINE, OURS, POOLED, Groups

_FEW, _PAGE = 6, 14


@dataclass(frozen=True, slots=True)
class Candidate:
    """An action that QLASS could have taken.

    Attributes:
        action: the action.
        q: the QNet's prediction.
        chosen: True for the executed one.
        colour: `#rrggbb` of q clipped to [0, 1].
        ink: black or white, readable on the colour.
    """

    action: str
    q: float
    chosen: bool
    colour: str
    ink: str


@dataclass(frozen=True, slots=True)
class Turn:
    """Step t of both episodes.

    Attributes:
        number: counts from 1.
        left: SFT's step, None after its end.
        right: QLASS's step, None after its end.
        candidates: what QLASS chose from, best first.
        first_difference: True where the two actions differ for the first time.
    """

    number: int
    left: Step | None
    right: Step | None
    candidates: tuple[Candidate, ...]
    first_difference: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """Two episodes of the same task.

    Attributes:
        left: SFT's episode.
        right: QLASS's episode.
        turns: both, step by step.
    """

    left: Episode
    right: Episode
    turns: tuple[Turn, ...]

    @property
    def shown(self) -> int:
        """Return how many turns are shown at once: until the shorter episode ends, but not more than a page."""
        shorter = min(len(self.left.steps), len(self.right.steps))
        return min(max(shorter, _FEW), _PAGE)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two methods differ task by task.

    Attributes:
        better: tasks on which QLASS's outcome is higher (first seed of each).
        worse: tasks on which it is lower.
        equal: tasks with equal outcomes.
        win: the example where QLASS is better, None where there is none.
        loss: the example where QLASS is worse, None where there is none.
    """

    better: int
    worse: int
    equal: int
    win: Pair | None
    loss: Pair | None


def compare(groups: Groups) -> Comparison | None:
    """Compare SFT and QLASS on all tasks both have, or return None where one of them is missing."""
    left, right = _first_seeds(groups, BASELINE), _first_seeds(groups, OURS)
    pairs = [(left[task], right[task]) for task in sorted(left.keys() & right.keys())]
    if not pairs:
        return None
    wins = [pair for pair in pairs if pair[1].outcome > pair[0].outcome]
    losses = [pair for pair in pairs if pair[1].outcome < pair[0].outcome]
    return Comparison(
        better=len(wins),
        worse=len(losses),
        equal=len(pairs) - len(wins) - len(losses),
        win=_clearest(wins),
        loss=_clearest(losses),
    )


def _first_seeds(groups: Groups, method: str) -> dict[str, Episode]:
    """Return the episode with the lowest seed of every task."""
    episodes: dict[str, Episode] = {}
    for (split, name), members in groups.items():
        if name != method or split == POOLED:
            continue
        for episode in members:
            episodes.setdefault(episode.task_id, episode)
    return episodes


def _clearest(pairs: Iterable[tuple[Episode, Episode]]) -> Pair | None:
    """Return the easiest pair to read: the QNet had a choice, the gap is large, the episodes are short."""

    def rank(pair: tuple[Episode, Episode]) -> tuple[bool, bool, float, int, str]:
        left, right = pair
        better = right if right.outcome > left.outcome else left
        chose = any(len(options) > 1 for options in right.candidates)
        failed = bool(left.error or right.error)
        return (failed, not chose, -abs(right.outcome - left.outcome), len(better.steps), left.task_id)

    best = min(pairs, key=rank, default=None)
    return None if best is None else Pair(best[0], best[1], _turns(*best))


def _turns(left: Episode, right: Episode) -> tuple[Turn, ...]:
    """Lay two episodes side by side."""
    turns: list[Turn] = []
    differ = False
    for index, (ours, theirs) in enumerate(zip_longest(left.steps, right.steps)):
        now = (ours.action if ours else None) != (theirs.action if theirs else None)
        options = right.candidates[index] if index < len(right.candidates) else ()
        candidates = _candidates(options, theirs.action if theirs else "")
        turns.append(Turn(index + 1, ours, theirs, candidates, now and not differ))
        differ = differ or now
    return tuple(turns)


def _candidates(options: Sequence[tuple[str, float]], executed: str) -> tuple[Candidate, ...]:
    """Order what was proposed by its prediction; ties keep the order of proposal."""
    ordered = sorted(options, key=lambda option: -option[1])
    colours = [q_colour(q) for _, q in ordered]
    return tuple(
        Candidate(action, q, action == executed, colour, ink_on(colour))
        for (action, q), colour in zip(ordered, colours, strict=True)
    )
