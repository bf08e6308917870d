"""The settings of the stage `qnet`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from qlass.errors import SettingsError
from qlass.training.settings import TrainSettings, check_choice, check_number, check_whole

Column = Literal["q", "q_norm", "average_reward", "reward"]
"""A field of QLabel that can be learnt."""


@dataclass(frozen=True, slots=True)
class QNetSettings:
    """Settings of one QNet training run.

    Attributes:
        train: what the QNet shares with SFT.
        head_width: hidden units of the value head.
        trunk: own: the QNet is a model of its own that starts as the policy (the paper). policy: the policy's trunk stays as it
            is and only the value head learns; Q-values then cost next to nothing when the policy's replies are drawn.
        target: q_norm or q; which Q-value is learnt where `label.q_type` is q.
        supervise: action_end (the paper) or every_token (the released code).
        tail: steps kept of a failed branch below its last choice; None keeps all; see `qlass.qnet.data.tree_rows`.
        observation_loss: weight, at least 0, of predicting the observations that follow the actions; 0 is the paper. It is what makes a
            small trunk tell actions that will be refused (joint objective as in Cobbe et al., arXiv 2110.14168).
        tasks: explored tasks to learn from, the first ones of those not kept for validation; None: all of them.
        validation_fraction: share of the tasks, in (0, 1), that are kept for validation.
    """

    train: TrainSettings
    head_width: int = 1024
    trunk: Literal["own", "policy"] = "own"
    target: Literal["q_norm", "q"] = "q_norm"
    supervise: Literal["action_end", "every_token"] = "action_end"
    tail: int | None = None
    observation_loss: float = 0.0
    tasks: int | None = None
    validation_fraction: float = 0.1

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            SettingsError: names the key, the value found and what is allowed.
        """
        check_whole("head_width", self.head_width, 1)
        check_choice("trunk", self.trunk, ("own", "policy"))
        check_choice("target", self.target, ("q_norm", "q"))
        if self.tail is not None:
            check_whole("tail", self.tail, 0)
        check_number("observation_loss", self.observation_loss, low=0.0)
        if self.observation_loss and self.supervise != "action_end":
            raise SettingsError(
                f"observation_loss: found {self.observation_loss} with supervise {self.supervise!r}; allowed: 0, or any weight "
                "with supervise 'action_end'"
            )
        if self.observation_loss and self.trunk == "policy":
            raise SettingsError(
                f"observation_loss: found {self.observation_loss} with trunk 'policy', where no weight could learn from it; "
                "allowed: 0, or any weight with trunk 'own'"
            )
        if self.tasks is not None:
            check_whole("tasks", self.tasks, 1)
        check_choice("supervise", self.supervise, ("action_end", "every_token"))
        check_number("validation_fraction", self.validation_fraction, low=0.0, high=1.0, low_open=True, high_open=True)
        if self.train.lora is not None:
            raise SettingsError("lora: the QNet is always trained whole; leave it null")

    @classmethod
    def from_params(cls, section: str, values: Mapping[str, Any]) -> Self:
        """Read the section of params.yaml that holds these keys beside those of `TrainSettings`.

        Raises:
            SettingsError: a key is missing or unknown, or a value is out of range; the message starts with `section`.
        """
        own = {
            "head_width",
            "trunk",
            "target",
            "supervise",
            "tail",
            "observation_loss",
            "tasks",
            "validation_fraction",
        }
        train = TrainSettings.from_params(section, {key: value for key, value in values.items() if key not in own})
        try:
            return cls(train=train, **{key: value for key, value in values.items() if key in own})
        except SettingsError as error:
            raise SettingsError(f"{section}.{error}") from None


def label_column(q_type: str, target: Literal["q_norm", "q"]) -> Column:
    """Return the field of QLabel that the QNet learns.

    Args:
        q_type: `label.q_type`: q, average_reward or reward (Figure 4 compares them).
        target: `qnet.target`; matters for q only.

    Raises:
        SettingsError: `q_type` is another word.
    """
    columns: dict[str, Column] = {"q": target, "average_reward": "average_reward", "reward": "reward"}
    if q_type not in columns:
        raise SettingsError(f"label.q_type: found {q_type!r}, allowed are {', '.join(columns)}")
    return columns[q_type]
