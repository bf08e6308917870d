"""The settings: params.yaml, one section per top-level key, each declared where it is used.

`load(cell)` gives a stage only the keys that its entry in `dvc.yaml` declares, because DVC re-runs a stage only when a
declared key changes; what `envs.<env>.overrides` says of them is merged in. Keys that change no result (workers, fanout,
device, tracking) are open to all. `python -m tasks.params` prints every setting.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, cast

from pydantic import BaseModel, TypeAdapter, ValidationError, create_model

from qlass.envs import get_definition
from qlass.errors import SettingsError
from qlass.labels.settings import LabelSettings
from qlass.methods.base import Method, MethodSettings, get_method
from qlass.policies.server import Server
from qlass.recipes.recipe import Recipe, get_recipe
from qlass.recipes.sft import SftRecipe
from qlass.report.inputs import IntervalSettings
from qlass.search.branch import Candidates
from qlass.search.explore import ExploreSettings
from qlass.settings import (
    Actions,
    BelowOne,
    Episodes,
    Megabytes,
    Natural,
    Processes,
    Section,
    Slots,
    Some,
    Tasks,
    Tokens,
    first,
)
from qlass.training.objectives.value import QNetSettings, validation_tasks
from qlass.validation import Problem, problems
from tasks.project import dvcfiles, paths

Values: TypeAlias = dict[str, Any]

SFT = "sft"
"""The policy from which exploration and the searches start."""


class Run(Section):
    """What the pipeline runs: the matrices of `dvc.yaml`."""

    envs: Some[str]
    """Environments, each configured under `envs`."""
    policies: Some[str]
    """Policies to make, each by `qlass/recipes/<policy>.py`, and to play greedily. `sft` must be among them, since
    exploration and the searches start from it."""
    searches: tuple[str, ...]
    """Methods to play with the SFT policy, each by `qlass/methods/<method>.py`; may be []."""

    @property
    def methods(self) -> tuple[str, ...]:
        """The rows of the comparison."""
        return (*self.policies, *self.searches)


class Base(Section):
    """What all stages share: seed, workers, and the base policy with its conversations."""

    seed: Natural
    """Seed of everything that is drawn; every other seed is derived from it."""
    workers: Processes
    """Workers of `expert`, `explore`, `evaluate` and `search`, which play side by side; no result depends on their
    number."""
    fanout: Literal["processes", "ray"]
    """What the workers are: `processes` of this machine, or those of a `ray` cluster of many; no result depends on
    it."""
    device: Literal["auto", "cpu", "cuda"]
    """Where models compute; `auto`: on a GPU where there is one."""
    source: str
    """Where the base policy comes from: a folder with config.json, safetensors and tokenizer (`~` is the home folder), or
    a Hugging Face model id `owner/name`."""
    revision: str | None
    """Commit of the Hugging Face model, all 40 hexadecimal digits; null for a folder."""
    chat_format: Literal["qlass", "llama-2"]
    """How messages become tokens: `llama-2` for Llama-2-Chat models, `qlass` for those with our own special tokens."""
    max_length: Tokens
    """Longest conversation that a model reads, with the reply; longer ones lose their oldest turns, never the
    instruction."""
    max_new_tokens: Tokens
    """Longest reply of a policy; as many tokens are kept free wherever a history is read, in training and scoring
    too."""
    min_p: BelowOne
    """A sampled token is at least this many times as probable as the likeliest one (arXiv 2407.01082); 0: any token may
    come, as in the paper. A small model spreads a little probability over all that is nonsense, and a reply has many
    tokens. A server must know the field `min_p`, as vLLM and SGLang do."""


class Inference(Section):
    """How the processes of explore, evaluate and search run; what changes here changes replies by rounding at most."""

    slots: Slots | None
    """Trees or episodes under way at a time in one process, the next starts when one ends; null: a whole shard."""
    overlap: bool
    """Whether the environments of one half of the episodes step while the models answer the other half; pays only
    where a step waits for something outside its process."""
    cache_mb: Megabytes
    """Memory for the keys and values that each model keeps between turns; those unused for longest are forgotten, and
    computed again when they are needed."""
    precision: Literal["auto", "fp32", "bf16"]
    """Number format of matrix products; `auto`: bf16 where the processor has it, else fp32."""
    server: Server | None
    """An OpenAI-compatible server that runs the policy; null: each process runs it itself."""


class Env(Section):
    """One environment: its panels, its own options, and what is different on it."""

    max_steps: Actions
    """Longest episode, the same in exploration and evaluation; a longer one is truncated."""
    panel: dict[str, Tasks]
    """Size of the panel of each split; the keys are the splits that the environment has."""
    options: Values
    """Options of the environment itself, which checks them; its package, `qlass/envs/<env>/`, says what they mean."""
    overrides: Overrides
    """What is different on this environment: `overrides.<section>.<key>`, with the keys of the section of that name.
    """


class Overrides(Section):
    """By section; {} where nothing is different."""

    expert: Values
    """Other values for `expert`, for example `{thoughts: false}`."""
    recipes: Values
    """Other values for `recipes`, for example `{sft: {epochs: 3}}`."""
    explore: Values
    """Other values for `explore`, for example `{depth: 6}`."""
    label: Values
    """Other values for `label`, for example `{gamma: 0.95}`."""
    qnet: Values
    """Other values for `qnet`, for example `{epochs: 2}`."""
    evaluate: Values
    """Other values for `evaluate`, for example `{candidates: admissible}`."""
    methods: Values
    """Other values for `methods`, for example `{qlass: {proposals: 6}}`."""


class Expert(Section):
    """Stage `expert`: the demonstrations."""

    thoughts: bool
    """Whether a thought stands before each action; `false`: replies are `Action: ...` alone."""


class Explore(ExploreSettings):
    """Stage `explore`: a tree of actions for each training task, from which the Q-values come."""

    tasks: Tasks | None
    """Training tasks to explore, the first ones of the panel; null: all."""
    shard_size: Tasks
    """Tasks in one file of finished work; an interrupted stage does again what is not in such a file."""


class Evaluate(Section):
    """Stages `evaluate` and `search`: what the policies and methods are tried on."""

    splits: Literal["test", "dev", "all"]
    """Splits to play. `test`: every test split that the environment has; `dev`: the one on which choices are made;
    `all`: both."""
    candidates: Candidates
    """Where actions come from. `generate`: the policy writes its replies; `admissible`: it chooses from the
    environment's own list, where there is one."""
    shard_size: Tasks
    """Tasks in one file of finished work; an interrupted stage does again what is not in such a file."""

    def of(self, splits: Sequence[str]) -> tuple[str, ...]:
        """Return which of an environment's splits are played."""
        wanted = {"test": ("test",), "dev": ("dev",), "all": ("dev", "test")}[self.splits]
        return tuple(split for split in splits if split.startswith(wanted))


class Tracking(Section):
    """MLflow; no result depends on it."""

    experiment: str
    """Name of the experiment in MLflow."""
    max_traces: Episodes
    """Episodes of each evaluation and split that become MLflow traces, to be read step by step."""


class Recipes(Section):
    """A section per policy, declared by the recipe's file."""

    def __getitem__(self, name: str) -> Section:
        """Return the section of a policy."""
        section: Section = getattr(self, name)
        return section


class Methods(Section):
    """A section per method, declared by the method's file."""

    def __getitem__(self, name: str) -> MethodSettings:
        """Return the section of a method."""
        section: MethodSettings = getattr(self, name)
        return section


class Settings(Section):
    """All of params.yaml."""

    run: Run
    base: Base
    inference: Inference
    envs: dict[str, Env]
    expert: Expert
    recipes: Recipes
    explore: Explore
    label: LabelSettings
    qnet: QNetSettings
    methods: Methods
    evaluate: Evaluate
    report: IntervalSettings
    tracking: Tracking

    def on(self, env: str) -> Self:
        """Return the settings with the overrides of an environment merged in."""
        merged = _merged(self.model_dump(), self.envs[env].overrides.model_dump())
        return type(self).model_validate_json(json.dumps(merged))


OPEN_KEYS = ("base.workers", "base.fanout", "base.device", "tracking")
"""Keys that every stage may read, because no result depends on them."""


class _Scope:
    """The part of the settings that a stage has declared; reading anything else is a SettingsError."""

    def __init__(self, value: Any, allowed: tuple[str, ...], owner: str, prefix: str = "") -> None:
        """Wrap a settings object or mapping; `allowed` are dotted keys, `owner` is named in the message."""
        self._value, self._allowed, self._owner, self._prefix = value, allowed, owner, prefix

    def __getattr__(self, name: str) -> object:
        """Return a declared value, or a Scope on the way to one."""
        key = f"{self._prefix}{name}"
        if name.startswith("_") or not any(_within(key, entry) or _within(entry, key) for entry in self._allowed):
            raise SettingsError(
                f"{paths.DVC_FILE}: stage {self._owner} reads {key}, but declares only {', '.join(self._allowed)}; "
                "add the key to its `params`, else DVC cannot know when to run it again"
            )
        value = self._value[name] if isinstance(self._value, dict) else getattr(self._value, name)
        if any(_within(key, entry) for entry in self._allowed):
            return value
        return _Scope(value, self._allowed, self._owner, f"{key}.")

    def __getitem__(self, name: str) -> object:
        """Return what the attribute of this name is; for names that are values, such as `envs[env]`."""
        return getattr(self, name)


def load_all(path: Path = paths.PARAMS) -> Settings:
    """Read every setting.

    Raises:
        SettingsError: names the file, the dotted key, the value found, the allowed ones and what to do. Also for a name in
            `run` without its section, and for an override that is no setting.
    """
    values = dvcfiles.read_yaml(path)
    try:
        model = _model(values)
        settings = _read(model, values, str(path))
        _check_names(settings)
        for env in settings.envs:
            merged = _read(
                model, _merged(values, values["envs"][env]["overrides"]), str(path), f"envs.{env}.overrides."
            )
            if env in settings.run.envs:
                _check_together(merged, env)
                _check_likelihood(merged, env)
                _check_tasks_are_found(merged, env)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{path}: {error}; params.yaml holds plain values only") from None
    except SettingsError as error:
        text = str(error).removeprefix(f"{path}: ").removeprefix(f"{paths.PARAMS}: ")
        raise SettingsError(f"{path}: {text}") from None
    return settings


def _model(values: Any) -> type[Settings]:
    """Return Settings with a section for each recipe and method that is named in the file."""
    sections: dict[str, Any] = {}
    for key, base, find in (("recipes", Recipes, get_recipe), ("methods", Methods, get_method)):
        named = values.get(key) if isinstance(values, Mapping) else None
        if isinstance(named, Mapping):
            fields: dict[str, Any] = {str(name): (_named(key, str(name), find).settings, ...) for name in named}
            sections[key] = (create_model(key.capitalize(), __base__=base, **fields), ...)
    return create_model("Settings", __base__=Settings, **sections)


def _named(key: str, name: str, find: Callable[[str], Recipe | Method]) -> Recipe | Method:
    try:
        return find(name)
    except SettingsError as error:
        raise SettingsError(f"{key}.{name}: {error}") from None


def _read(model: type[Settings], values: Any, file: str, prefix: str = "") -> Settings:
    """Validate plain values; `prefix` is where they come from in the file."""
    try:
        return model.model_validate_json(json.dumps(values, default=_refuse))
    except ValidationError as error:
        # Overrides are merged into sections that are right without them, so what is wrong now is theirs.
        first = problems(error, TypeAdapter(model))[0]
        raise SettingsError(f"{file}: {prefix}{_sentence(first)}") from None


def _refuse(value: object) -> Any:
    raise TypeError(f"found {value!r} ({type(value).__name__})")


def _sentence(problem: Problem) -> str:
    """Say what is wrong, what is allowed and what to do."""
    where = problem.where or "(top level)"
    if problem.kind == "unknown":
        return f"{where}: found an unknown key; allowed: {problem.expected}; correct or remove it"
    if problem.kind == "missing":
        return f"{where}: found nothing, the key is missing; allowed: {problem.expected}; add it"
    return f"{where}: found {problem.found}; allowed: {problem.expected}; change it"


def _check_names(settings: Settings) -> None:
    """Check that what `run` names has its section and its file, and that environments have the splits of their panels."""
    run = settings.run
    for key, names, section in (
        ("envs", run.envs, settings.envs.keys()),
        ("policies", run.policies, type(settings.recipes).model_fields.keys()),
        ("searches", run.searches, type(settings.methods).model_fields.keys()),
    ):
        home = {"envs": "envs", "policies": "recipes", "searches": "methods"}[key]
        for number, name in enumerate(names):
            if name not in section:
                raise SettingsError(
                    f"run.{key}[{number}]: found {name!r}; allowed: {', '.join(section)}; choose one of these or add "
                    f"{home}.{name}"
                )
    if SFT not in run.policies:
        raise SettingsError(
            f"run.policies: found {list(run.policies)}; allowed: a list with {SFT}, from which exploration and searches start"
        )
    if twice := set(run.policies) & set(run.searches):
        raise SettingsError(f"run.searches: found {sorted(twice)}; allowed: names that run.policies does not have")
    for env in run.envs:
        splits, found = get_definition(env).splits, settings.envs[env].panel
        if found.keys() != set(splits):
            raise SettingsError(f"envs.{env}.panel: found {list(found)}; allowed: the keys {', '.join(splits)}")


def _check_together(given: Settings, env: str) -> None:
    """Check what an environment's settings, its overrides merged in, ask of each other; a stage would find out hours later."""
    base, panel, splits = given.base, given.envs[env].panel, get_definition(env).splits
    if base.max_new_tokens >= base.max_length:
        raise SettingsError(
            f"base.max_new_tokens: found {base.max_new_tokens}; allowed: 1 to {base.max_length - 1}, below base.max_length, "
            "which holds the history too; lower it, or raise base.max_length"
        )
    for key, section in (("explore", given.explore), ("evaluate", given.evaluate)):
        if given.inference.server is not None and section.candidates == "admissible":
            raise SettingsError(
                f"{key}.candidates: found admissible on {env}; allowed: generate, because a server (inference.server) writes "
                "replies and ranks none; change it, or set inference.server to null"
            )
    if not given.evaluate.of(splits):
        raise SettingsError(
            f"evaluate.splits: found {given.evaluate.splits}; allowed: one of test, dev, all that names a split of {env} "
            f"({', '.join(splits)})"
        )
    trained, explored = panel["train"], given.explore.tasks or panel["train"]
    tasks, what = range(trained), f"the tasks of envs.{env}.panel.train"
    first(tasks, given.explore.tasks, f"explore.tasks on {env}", what)
    cast("SftRecipe", given.recipes[SFT]).chosen(tasks, 0, f"recipes.{SFT}.trajectories on {env}", what)
    if explored < 2:
        raise SettingsError(
            f"{'explore.tasks' if given.explore.tasks else f'envs.{env}.panel.train'}: found {explored}; allowed: 2 or more, "
            "because the QNet learns from some explored tasks and is measured on others; raise it"
        )
    learnt = explored - len(validation_tasks(map(str, range(explored)), given.qnet.validation_fraction))
    first(range(learnt), given.qnet.tasks, f"qnet.tasks on {env}", "explored tasks that are not kept for validation")


def runs_models(given: Settings) -> bool:
    """Say whether the local engine runs models: the policy, unless a server does, and the QNet for methods that need it."""
    return given.inference.server is None or any(get_method(name).needs_qnet for name in given.run.searches)


def _check_likelihood(settings: Settings, env: str) -> None:
    """Check that no method to be played needs log probabilities that the server is not asked for."""
    server = settings.inference.server
    if server is None or server.logprobs:
        return
    for name in settings.run.searches:
        section = settings.methods[name]
        if key := get_method(name).likelihood_setting(section):
            raise SettingsError(
                f"methods.{name}.{key}: found {getattr(section, key)} for {env}, which needs log probabilities, but "
                f"inference.server.logprobs is false; allowed: 0 without them; set it to 0, ask the server for them "
                f"(inference.server.logprobs: true), or take {name} out of run.searches"
            )


def _check_tasks_are_found(settings: Settings, env: str) -> None:
    """Check that methods that say the task in other words find it on the environment."""
    if get_definition(env).partition_task is not None:
        return
    for number, name in enumerate(settings.run.searches):
        if get_method(name).needs_task:
            raise SettingsError(
                f"run.searches[{number}]: found {name}, which says the task in other words, but {env} does not say where the "
                f"task stands in an observation (EnvDefinition.partition_task); take {name} out of run.searches, or {env} "
                "out of run.envs"
            )


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> Values:
    """Return nested mappings with some of their values changed."""
    found = dict(values)
    for key, change in changes.items():
        inner = found.get(key)
        found[key] = _merged(inner, change) if isinstance(inner, Mapping) and isinstance(change, Mapping) else change
    return found


def load(cell: dvcfiles.Cell, path: Path = paths.PARAMS, env: str | None = None) -> Settings:
    """Return settings of which a stage can read what it declares in `dvc.yaml`, and OPEN_KEYS; the rest is a SettingsError.

    Args:
        cell: the stage.
        path: the file.
        env: the environment whose overrides hold; by default that of the cell, if it has one.
    """
    settings = load_all(path)
    env = env or cell.items.get("env")
    scope = _Scope(settings if env is None else settings.on(env), (*cell.params, *OPEN_KEYS), cell.name)
    return cast("Settings", scope)


def declared(cell: dvcfiles.Cell, path: Path = paths.PARAMS) -> Values:
    """Return the values of the keys that a stage declares, as plain JSON values by dotted key.

    They are those that hold after the overrides, which are left out themselves.
    """
    settings = load(cell, path)
    found = {}
    for key in cell.params:
        if ".overrides." in key:
            continue
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part)
        found[key] = value.model_dump() if isinstance(value, BaseModel) else value
    return found


def _within(key: str, entry: str) -> bool:
    """Say whether `key` is `entry` or lies below it."""
    return key == entry or key.startswith(f"{entry}.")
