"""The settings of the stage `label`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qlass.settings import Section


class LabelSettings(Section):
    """Stage `label`: how trees become the values that the QNet learns."""

    gamma: Annotated[float, Field(gt=0, le=1)]
    """Discount per step: a reward that is n steps away counts gamma^n times."""
    q_type: Literal["q", "average_reward", "reward"]
    """What the QNet learns of an action. `q`: the highest discounted outcome below it; `average_reward`: the mean
    outcome below it; `reward`: the highest outcome below it (Figure 4 of the paper compares them)."""
