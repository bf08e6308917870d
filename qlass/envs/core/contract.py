"""The rules of `qlass.envs.core.base` for what an environment returns, as assertions that say what is wrong."""

from __future__ import annotations

from typing import Any

from qlass.envs.core.base import Info


class Broken(Exception):
    """A rule does not hold; never seen outside `check_env`."""


def expect(condition: bool, problem: str) -> None:
    """Raise Broken with `problem` unless the condition holds."""
    if not condition:
        raise Broken(problem)


def check_start(start: Any) -> None:
    """Check what `reset` returned."""
    expect(isinstance(start, tuple) and len(start) == 2, f"reset returned {start!r}, expected (observation, info)")
    observation, info = start
    expect(isinstance(observation, str) and bool(observation), f"reset: observation={observation!r}, expected a text")
    _check_info("reset", info, reward=None)
    expect(info["valid"], "reset: info['valid'] must be True")


def check_result(action: str, result: Any) -> None:
    """Check what `step(action)` returned: the 5-tuple, and no reward before the end."""
    where = f"step({action!r})"
    expect(isinstance(result, tuple) and len(result) == 5, f"{where} returned {result!r}, expected a 5-tuple")
    observation, reward, terminated, truncated, info = result
    expect(isinstance(observation, str), f"{where}: observation={observation!r}, expected a text")
    expect(type(reward) is float and 0.0 <= reward <= 1.0, f"{where}: reward={reward!r}, expected a float in [0, 1]")
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        expect(type(value) is bool, f"{where}: {name}={value!r}, expected a bool")
    expect(not (terminated and truncated), f"{where}: both terminated and truncated")
    ended = terminated or truncated
    expect(ended or reward == 0.0, f"{where}: reward={reward} before the end; rewards are outcome rewards")
    _check_info(where, info, reward=reward if ended else None)


def _check_info(where: str, info: Any, *, reward: float | None) -> None:
    """Check what comes beside an observation; `reward` is that of the end, None before it."""
    lacking = (
        sorted(Info.__required_keys__ - info.keys()) if isinstance(info, dict) else sorted(Info.__required_keys__)
    )
    expect(not lacking, f"{where}: info={info!r} lacks {lacking}")
    actions = info["admissible_actions"]
    texts = isinstance(actions, tuple) and all(isinstance(action, str) for action in actions)
    expect(
        texts and list(actions) == sorted(set(actions)), f"{where}: admissible_actions={actions!r} is no sorted tuple"
    )
    for name in ("valid", "success"):
        expect(type(info[name]) is bool, f"{where}: info[{name!r}]={info[name]!r}, expected a bool")
    expect(reward is not None or not info["success"], f"{where}: info['success'] is True before the end")
    outcome = info["outcome"]
    expect(
        type(outcome) is float and 0.0 <= outcome <= 1.0,
        f"{where}: info['outcome']={outcome!r}, expected a float in [0, 1]",
    )
    expect(reward in (None, outcome), f"{where}: info['outcome']={outcome} at the end, but the reward is {reward}")
