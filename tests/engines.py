"""`drive` on a list of engines, for tests that look at them afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from qlass.envs.core.base import TextEnv
from qlass.envs.core.pool import EnvPool
from qlass.policies.base import Policy, ValueFunction
from qlass.search import driver


def drive(
    starts: Iterable[Callable[[TextEnv], Any]],
    envs: Sequence[TextEnv],
    policy: Policy,
    value: ValueFunction | None = None,
    *,
    slots: int | None = None,
    overlap: bool = False,
) -> Iterator[tuple[int, Any]]:
    """Run routines on these engines, the first ones first; `slots` at a time, or as many as there are engines."""
    pool = EnvPool(iter(envs).__next__)
    return driver.drive(starts, pool, policy, value, slots=slots or len(envs), overlap=overlap)
