"""What can be known to fail before anything is trained: GPUs, packages, keys, and what environments promise.

Asked by the stages that come before the long ones, and not at each `dvc repro`: a machine without a GPU can make the
report of a run on one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from importlib.util import find_spec

from qlass.envs import get_definition, make_env
from qlass.errors import DependencyNotInstalled, SettingsError
from qlass.prompts import ChatFormat, prompt_limit
from qlass.records import Message
from qlass.training.core.settings import TrainSettings
from tasks.project import paths
from tasks.project.settings import Settings, load_all


def check() -> None:
    """Check that every stage of params.yaml can run on this machine, as far as it can be told in seconds.

    Raises:
        SettingsError: a GPU, or a variable of the environment, is missing; or an environment does not list actions that are to
            be chosen from.
        DependencyNotInstalled: a package is missing.
    """
    given = load_all()
    trainings = [found for env in given.run.envs for found in _trainings(given.on(env))]
    for key, section in trainings:
        if section.backend == "deepspeed" and find_spec("deepspeed") is None:
            system = "" if sys.platform == "linux" else f" (it is for Linux, and this is {sys.platform})"
            raise DependencyNotInstalled(
                f"{paths.PARAMS}: {key}.backend: found deepspeed, which is not installed{system}; `pip install deepspeed`, or set "
                "backend: torch"
            )
    if given.base.fanout == "ray" and find_spec("ray") is None:
        raise DependencyNotInstalled(
            f"{paths.PARAMS}: base.fanout: found ray, which is not installed; `pip install qlass[ray]`, or set it to processes"
        )
    _check_servers(given)
    _check_gpus(given, trainings)
    for env in given.run.envs:
        _check_actions(given.on(env), env)


def check_instructions(chat: ChatFormat) -> None:
    """Check that the instruction of each environment leaves room in a prompt.

    Raises:
        SettingsError: it does not; names the environment.
    """
    given = load_all()
    limit = prompt_limit(given.base.max_length, given.base.max_new_tokens)
    for env in given.run.envs:
        try:
            chat.prompt((Message("system", get_definition(env).instruction), Message("user", "")), limit)
        except SettingsError as error:
            raise SettingsError(f"{paths.PARAMS}: {error} (environment {env}, its instruction alone)") from None


def _trainings(given: Settings) -> Iterator[tuple[str, TrainSettings]]:
    """Yield the sections of what is trained, by key."""
    yield "qnet", given.qnet
    for policy in given.run.policies:
        section = given.recipes[policy]
        if isinstance(section, TrainSettings):
            yield f"recipes.{policy}", section


def _check_servers(given: Settings) -> None:
    """Check that each server that is asked, by the policies or by a method, can be, as far as this machine knows."""
    server = given.inference.server
    asked = {} if server is None else {"inference.server": server.api_key_env}
    for env in given.run.envs:
        for name in given.run.searches:
            keys = given.on(env).methods[name].api_keys()
            asked |= {f"methods.{name}.{setting}": variable for setting, variable in keys.items()}
    for key, variable in asked.items():
        if find_spec("httpx") is None:
            raise DependencyNotInstalled(
                f"{paths.PARAMS}: {key} needs httpx, which is not installed; `pip install qlass[serve]`"
            )
        if variable and not os.environ.get(variable):
            raise SettingsError(
                f"{paths.PARAMS}: {key}.api_key_env: found {variable}, a variable that is not set; set it to the API key, or "
                "write an empty text where the server wants none"
            )


def _check_gpus(given: Settings, trainings: Sequence[tuple[str, TrainSettings]]) -> None:
    """Check that there is a GPU where one is asked for, and one for each rank where ranks train on GPUs."""
    device, most = given.base.device, max(section.ranks for _, section in trainings)
    if device == "cpu" or (device == "auto" and most == 1):
        return
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            f"{paths.PARAMS}: base.device: found cuda; allowed: auto | cpu, because PyTorch {torch.__version__} sees no GPU "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}); change it, or repair the driver"
        )
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for key, section in trainings:
        if 0 < gpus < section.ranks:
            raise SettingsError(
                f"{paths.PARAMS}: {key}.ranks: found {section.ranks}; allowed: 1 to {gpus}, the GPUs that PyTorch sees here (one "
                "for each rank); lower it, or set base.device to cpu"
            )


def _check_actions(given: Settings, env: str) -> None:
    """Check that an environment lists what is admissible where replies are chosen from that list."""
    keys = [key for key in ("explore", "evaluate") if getattr(given, key).candidates == "admissible"]
    if not keys:
        return
    definition, options = get_definition(env), given.envs[env].options
    spec = next(definition.panels(options, "train", given.base.seed))
    with closing(make_env(definition, options, given.envs[env].max_steps)) as engine:
        _, info = engine.reset(spec)
    if not info["admissible_actions"]:
        raise SettingsError(
            f"{paths.PARAMS}: {keys[0]}.candidates: found admissible; allowed on {env}: generate, because the environment does not "
            f"list its actions; change it, or set envs.{env}.options.admissible to true where the environment has this option"
        )
