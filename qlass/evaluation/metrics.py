"""Numbers of one method on one panel. Seeds are averaged inside a task first, so every task weighs the same.

Rewards and success rates are x 100, as in the paper's tables; costs are means per episode.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import fsum
from typing import TypedDict

from qlass.errors import DataError
from qlass.records import Episode

PERCENT = 100.0


class CategorySummary(TypedDict):
    """One row of the per-category table; see Summary."""

    n_tasks: int
    mean_reward: float
    success_rate: float


class Summary(TypedDict):
    """The numbers of one method on one panel.

    Keys:
        n_tasks, n_seeds: there are n_tasks * n_seeds episodes.
        mean_reward: mean outcome reward x 100, in [0, 100].
        success_rate: share of episodes that fulfil the environment's success predicate, x 100.
        generated_tokens_per_episode, prompt_tokens_per_episode, policy_calls_per_episode, qnet_calls_per_episode,
            env_steps_per_episode: means of Cost, all that was spent included (N rollouts for Best-of-N).
        steps_per_episode: mean length of the episode itself.
        invalid_action_rate: share of executed steps that were not understood, in [0, 1].
        truncated_rate: share of episodes that a limit ended, in [0, 1].
        errors: number of episodes that could not be finished; they count as failures.
        by_category: category -> its own n_tasks, mean_reward and success_rate.
    """

    n_tasks: int
    n_seeds: int
    mean_reward: float
    success_rate: float
    generated_tokens_per_episode: float
    prompt_tokens_per_episode: float
    policy_calls_per_episode: float
    qnet_calls_per_episode: float
    env_steps_per_episode: float
    steps_per_episode: float
    invalid_action_rate: float
    truncated_rate: float
    errors: int
    by_category: dict[str, CategorySummary]


def outcome(episode: Episode) -> float:
    """Return the outcome reward, in [0, 1]; 0 for an episode that could not be finished."""
    return 0.0 if episode.error else episode.outcome


def success(episode: Episode) -> float:
    """Return 1.0 for a success; an episode that could not be finished is none."""
    return float(episode.success and not episode.error)


def mean_by_task(episodes: Iterable[Episode], value: Callable[[Episode], float] = outcome) -> dict[str, float]:
    """Return task_id -> mean of `value` over the task's seeds, in the order in which tasks appear."""
    values: dict[str, list[float]] = defaultdict(list)
    for episode in episodes:
        values[episode.task_id].append(value(episode))
    return {task_id: _mean(found) for task_id, found in values.items()}


def summarise(episodes: Sequence[Episode]) -> Summary:
    """Summarise the episodes of one method on one panel.

    Args:
        episodes: exactly one for every task and seed, in any order.

    Raises:
        DataError: no episodes, several methods, or a (task, seed) that is missing or there twice.
    """
    seeds = _check(episodes)
    categories = sorted({episode.category for episode in episodes})
    rows = {name: _row([episode for episode in episodes if episode.category == name]) for name in categories}
    steps = [step for episode in episodes for step in episode.steps]
    total = _row(episodes)
    return {
        "n_tasks": total["n_tasks"],
        "n_seeds": len(seeds),
        "mean_reward": total["mean_reward"],
        "success_rate": total["success_rate"],
        "generated_tokens_per_episode": _mean([episode.cost.generated_tokens for episode in episodes]),
        "prompt_tokens_per_episode": _mean([episode.cost.prompt_tokens for episode in episodes]),
        "policy_calls_per_episode": _mean([episode.cost.policy_calls for episode in episodes]),
        "qnet_calls_per_episode": _mean([episode.cost.qnet_calls for episode in episodes]),
        "env_steps_per_episode": _mean([episode.cost.env_steps for episode in episodes]),
        "steps_per_episode": len(steps) / len(episodes),
        "invalid_action_rate": _mean([not step.valid for step in steps]) if steps else 0.0,
        "truncated_rate": _mean([bool(episode.steps) and episode.steps[-1].truncated for episode in episodes]),
        "errors": sum(bool(episode.error) for episode in episodes),
        "by_category": rows,
    }


def _row(episodes: Sequence[Episode]) -> CategorySummary:
    """Average over tasks."""
    rewards = mean_by_task(episodes)
    return {
        "n_tasks": len(rewards),
        "mean_reward": PERCENT * _mean(rewards.values()),
        "success_rate": PERCENT * _mean(mean_by_task(episodes, success).values()),
    }


def _mean(values: Iterable[float]) -> float:
    """Return the mean, independent of the order of the values."""
    found = list(values)
    return fsum(found) / len(found)


def _check(episodes: Sequence[Episode]) -> list[int]:
    """Check that there is exactly one episode per task and seed, of one method; return the seeds."""
    methods = sorted({episode.method for episode in episodes})
    if len(methods) != 1:
        raise DataError(f"episodes of {methods or 'no method'}; a summary needs episodes of exactly one method")
    seeds = sorted({episode.seed for episode in episodes})
    by_task: dict[str, list[int]] = defaultdict(list)
    for episode in episodes:
        by_task[episode.task_id].append(episode.seed)
    for task_id, found in by_task.items():
        if sorted(found) != seeds:
            raise DataError(
                f"{methods[0]} on {task_id}: episodes with seeds {sorted(found)}, expected each of {seeds} once; "
                "evaluate again"
            )
    return seeds
