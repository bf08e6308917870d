"""What exploration and evaluation have in common inside a worker process: engines, models and the drive through a shard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qlass.envs import get_definition, make_env
from qlass.envs.base import EnvDefinition, TextEnv
from tasks.settings import Base, Env

if TYPE_CHECKING:
    from qlass.search.driver import Routine


@dataclass(frozen=True, slots=True)
class Models:
    """Which models to load and how to run them; plain values, so that the parent process never imports torch.

    Attributes:
        policy: folder of the policy.
        qnet: folder of the QNet, None where no value is asked for.
        chat_format: how messages become tokens.
        max_length: tokens of prompt and reply together.
        max_new_tokens: tokens of one reply.
        device: auto, cpu or cuda.
    """

    policy: Path
    qnet: Path | None
    chat_format: str
    max_length: int
    max_new_tokens: int
    device: str

    @classmethod
    def of(cls, base: Base, policy: Path, qnet: Path | None, max_new_tokens: int) -> Self:
        """Take the rest from the section `base` of params.yaml."""
        return cls(policy, qnet, base.chat_format, base.max_length, max_new_tokens, base.device)


@dataclass(frozen=True, slots=True)
class World:
    """Which environment to play.

    Attributes:
        env: its name.
        options: its settings.
        max_steps: environment steps per episode.
    """

    env: str
    options: Mapping[str, Any]
    max_steps: int

    @classmethod
    def of(cls, env: str, given: Env) -> Self:
        """Take what `envs.<env>` of params.yaml says."""
        return cls(env, given.options, given.max_steps)


class Player:
    """Plays shards: engines and modules are made once per process, models once per shard.

    A loaded model caches the conversations that it has seen, and what is cached can change the last bit of a number.
    Models that live for one shard make a shard's bytes independent of what its process did before.
    """

    def __init__(self, world: World, models: Models) -> None:
        """Keep what to play with."""
        self.definition: EnvDefinition = get_definition(world.env)
        self._world, self._models = world, models
        self._engines: list[TextEnv] = []

    def play(self, starts: Iterable[Callable[[TextEnv], Routine[Any]]]) -> list[Any]:
        """Drive the routines of a shard, all at once; return their results in the order of `starts`."""
        from qlass.policies.load import LocalSettings, local_policy, local_qnet
        from qlass.search.driver import drive

        routines, models = list(starts), self._models
        while len(self._engines) < len(routines):
            self._engines.append(make_env(self.definition, self._world.options, self._world.max_steps))
        how = LocalSettings(models.chat_format, models.max_length, models.max_new_tokens, models.device)
        policy = local_policy(models.policy, how, self.definition.normalise_action)
        qnet = local_qnet(models.qnet, how) if models.qnet is not None else None
        results = dict(drive(routines, self._engines[: len(routines)], policy, qnet))
        return [results[number] for number in range(len(routines))]
