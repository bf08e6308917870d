"""`WebShopEnv`: the shop as a `TextEnv`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from qlass.envs.core.base import Info, Snapshot, StepResult, TextEnv
from qlass.envs.webshop.options import Options, open_shop
from qlass.envs.webshop.pages import Pages
from qlass.envs.webshop.state import Shop, State, parse_action, written
from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec

VERBS = ("search", "click")

_pages = lru_cache(maxsize=4)(Pages)
"""Pages of a shop and a mode, which all engines of a process share."""


def normalise_action(text: str) -> str:
    """Return an action with its argument in lower case, a product's id in upper case, nothing after the last bracket.

    Either case is executed alike. What is no action is returned as it is: upstream takes " click[x]" or "Click[x]" for none.
    """
    name, argument = parse_action(text)
    return written(name, argument) if name in VERBS and argument else text


class WebShopEnv(TextEnv):
    """One episode in the shop: find a product, choose its options, buy it.

    Actions: `search[words]` on every page; `click[text]` for what the page offers. Reward, when "Buy Now" is clicked,
    which ends the episode: the share of what was asked for (attributes, options, price), times how well the kind of
    product fits (`qlass.envs.webshop.reward`). Success: the reward is 1.0. There is no step limit here.

    An action that is not understood changes nothing, and its observation is the page as it was. In mode `text` a page
    does not show which options were chosen: equal observations can be different states.

    `info["admissible_actions"]` has clicks only, since a search takes any words; see `Options` for what can be set.
    Equal specs give equal episodes whatever the seed: the shop has no randomness once it is open.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Open the shop, or take the one of this process.

        Args:
            options: see `qlass.envs.webshop.options.Options`.

        Raises:
            SettingsError: an option is unknown or has a value that is not allowed.
            DataError: a data file is absent, cut off, or not the one that it should be.
            DependencyNotInstalled: a package of the extra `webshop` is missing.
        """
        parsed = Options.of(options)
        self._shop: Shop = open_shop(parsed)
        self._pages = _pages(self._shop, parsed.mode)
        self._state: State | None = None

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:  # noqa: ARG002 - the contract's
        """Start a task; its key has `goal`, the number of the goal in upstream's order, and `asin`, the target.

        Raises:
            EnvironmentFault: the shop has no such goal.
        """
        goal, asin = spec.key.get("goal"), spec.key.get("asin")
        goals = self._shop.goals
        if not (type(goal) is int and 0 <= goal < len(goals) and goals[goal].asin == asin):
            raise EnvironmentFault(
                f"{spec.task_id}: key={spec.key!r} is no goal of this shop, which has {len(goals)}; make the panels again "
                "with the options of the environment (data, size, seed, goals, per_product)"
            )
        self._state = State(goal)
        return self._pages.render(self._state), self._info(self._state, valid=True)

    def step(self, action: str) -> StepResult:
        """Execute one action.

        Raises:
            EnvironmentFault: there is no episode, or it is over.
        """
        state = self._state
        if state is None or (state.place == "done" and self._shop.rules.locked):
            raise EnvironmentFault(f"step({action!r}): there is no episode or it is over; call reset or restore first")
        following = self._shop.apply(state, action)
        bought = following is not None and following.place == "done"
        self._state = state if following is None else following
        info = self._info(self._state, valid=following is not None)
        return self._pages.render(self._state), info["outcome"] if bought else 0.0, bought, False, info

    def snapshot(self) -> Snapshot:
        """Return the state itself, which never changes."""
        return self._state

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a state of this shop."""
        self._state = snapshot

    def close(self) -> None:
        """Forget the task; the shop stays open for the next engine."""
        self._state = None

    def _info(self, state: State, *, valid: bool) -> Info:
        outcome = 0.0 if state.reward is None else state.reward
        return {
            "admissible_actions": self._shop.clicks(state),
            "valid": valid,
            "success": outcome == 1.0,
            "outcome": outcome,
        }
