"""What exploration and evaluation have in common inside a worker process: engines, models and the drive through a shard."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qlass.envs import get_definition, make_env
from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.envs.core.pool import EnvPool
from qlass.policies.base import Policy, ValueFunction
from qlass.policies.server import Server, ServerPolicy, ServerSettings
from tasks.project.settings import Base, Env, Inference, Settings

if TYPE_CHECKING:
    from qlass.policies.local import LocalPolicy, LocalValueFunction
    from qlass.records import History
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
        min_p: a sampled token is at least this many times as probable as the likeliest one.
        device: auto, cpu or cuda.
        inference: how they are run.
        served: the server that runs the policy instead, None where this process does.
    """

    policy: Path
    qnet: Path | None
    chat_format: str
    max_length: int
    max_new_tokens: int
    min_p: float
    device: str
    inference: Inference
    served: ServerSettings | None

    @classmethod
    def of(  # the policy's name and folder differ from stage to stage, the rest is said once in params.yaml
        cls, given: Settings, env: str, name: str, policy: Path, qnet: Path | None
    ) -> Self:
        """Take the rest from `base` and `inference` of params.yaml.

        Args:
            given: all settings, or those of a stage.
            env: the environment, which may be part of the name by which a server offers the policy.
            name: of the policy, likewise.
            policy: its folder.
            qnet: folder of the QNet, or None.
        """
        base, inference = given.base, given.inference
        served = None if inference.server is None else _served(inference.server, env, name, base)
        return cls(
            policy,
            qnet,
            base.chat_format,
            base.max_length,
            base.max_new_tokens,
            base.min_p,
            base.device,
            inference,
            served,
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """What a worker loads."""
        return (self.policy,) if self.qnet is None else (self.policy, self.qnet)


def _served(server: Server, env: str, name: str, base: Base) -> ServerSettings:
    """Fill in `{policy}` and `{env}` in the server's address and the model's name, and say how replies are drawn."""
    values = server.model_dump()
    for key in ("base_url", "model"):
        values[key] = values[key].replace("{policy}", name).replace("{env}", env)
    # The protocol does not have it, so a server that does not know it is asked for it only where it matters.
    extra = {"min_p": base.min_p} if base.min_p else {}
    return ServerSettings(**values, max_new_tokens=base.max_new_tokens, extra=extra)


@dataclass(frozen=True, slots=True)
class EnvSpec:
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


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What a process loads once.

    Attributes:
        policy: None where a server runs it.
        qnet: None where no value is asked for.
        encode: history to token ids, for a server that wants these.
    """

    policy: LocalPolicy | None
    qnet: LocalValueFunction | None
    encode: Callable[[History], tuple[int, ...]] | None

    @classmethod
    def of(cls, models: Models, normalise: Callable[[str], str]) -> Self:
        """Load what the models' folders hold."""
        from qlass.policies.load import LocalSettings, local_models, local_qnet, prompt_encoder

        how = LocalSettings(
            models.chat_format,
            models.max_length,
            models.max_new_tokens,
            device=models.device,
            cache_mb=models.inference.cache_mb,
            precision=models.inference.precision,
            min_p=models.min_p,
        )
        if models.served is None:
            return cls(*local_models(models.policy, models.qnet, how, normalise), None)
        qnet = local_qnet(models.qnet, how) if models.qnet is not None else None
        return cls(None, qnet, prompt_encoder(models.policy, how) if models.served.api == "completions" else None)


class Player:
    """Plays shards; engines, modules and weights are loaded once per process.

    Models forget all conversations before each shard: what is cached can change the last bit of a number, and a shard's bytes
    must not depend on what its process did before.

    Engines are kept from shard to shard, as many as the definition allows, and closed when the player is gone: `close`
    was called, nobody holds it any more, or the process ends. A process that is killed closes nothing, so what an engine
    starts (a virtual machine, say) must end with the process that started it.
    """

    def __init__(self, environment: EnvSpec, models: Models) -> None:
        """Keep what to play with."""
        self.definition: EnvDefinition = get_definition(environment.env)
        self._models = models
        self._envs = EnvPool(partial(make_env, self.definition, environment.options, environment.max_steps))
        self.close = weakref.finalize(self, self._envs.close)  # runs once, at the latest when the process ends
        self._loaded: _Loaded | None = None

    def play(self, starts: Iterable[Callable[[TextEnv], Routine[Any]]]) -> list[Any]:
        """Drive the routines of a shard; return their results in the order of `starts`."""
        from qlass.search.driver import drive

        routines, inference = list(starts), self._models.inference
        limits = (len(routines), inference.slots, self.definition.max_engines)
        slots = min(limit for limit in limits if limit is not None)
        try:
            with self._fresh() as (policy, qnet):
                results = dict(drive(routines, self._envs, policy, qnet, slots=slots, overlap=inference.overlap))
        except BaseException:  # it ends this process, which may be killed as soon as the error is reported
            self._envs.close()
            raise
        return [results[number] for number in range(len(routines))]

    @contextmanager
    def _fresh(self) -> Iterator[tuple[Policy, ValueFunction | None]]:
        """Yield models that have seen nothing; a server's policy is closed in the end."""
        normalise, served = self.definition.normalise_action, self._models.served
        if self._loaded is None:
            self._loaded = _Loaded.of(self._models, normalise)
        policy, qnet = self._loaded.policy, self._loaded.qnet
        for model in (policy, qnet):
            if model is not None:
                model.forget()
        if policy is not None:
            yield policy, qnet
        elif served is not None:
            with closing(ServerPolicy(served, normalise, self._loaded.encode)) as remote:
                yield remote, qnet
