"""The settings of the stage `label`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qlass.settings import Section


class LabelSettings(Section):
    """How trees become Q-values."""

    gamma: Annotated[float, Field(gt=0, le=1)]
    """Discount per step."""
    q_type: Literal["q", "average_reward", "reward"]
    """What the QNet learns (Figure 4 of the paper compares them)."""
