"""Shards played with the settings of `inference`: the same episodes from the local engine and from a server."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import qlass.policies.load
from qlass.envs import get_definition
from qlass.errors import Busy, DataError, QlassError, SettingsError
from qlass.models.folders import load_policy
from qlass.policies.base import Policy, ValueFunction
from qlass.policies.scripted import ScriptedValueFunction
from qlass.policies.server import Server
from qlass.records import Episode
from tasks.playing import episodes
from tasks.playing.rollouts import EnvSpec, Models, Player
from tasks.project import settings
from tasks.running.shards import Crew, Plan, run_shards
from tests.methods.playing import saying_its_task
from tests.policies.counting import Counting
from tests.policies.local_server import DROP
from tests.policies.local_server import Server as LocalServer
from tests.tasks import mortal

REPOSITORY = Path(__file__).parents[2]
OPTIONS = {"length": 5, "rooms": 3}
LONGEST, NEW = 700, 12
FP32 = {"slots": None, "overlap": False, "cache_mb": 1, "precision": "fp32"}


def given(**inference: Any) -> settings.Settings:
    """Return the repository's settings with another section `inference`."""
    found = settings.load_all(REPOSITORY / "params.yaml")
    base = found.base.model_copy(update={"max_length": LONGEST, "max_new_tokens": NEW, "device": "cpu"})
    how = settings.Inference(**{**FP32, "server": None} | inference)
    return found.model_copy(update={"base": base, "inference": how})


def server_at(url: str, **changes: Any) -> Server:
    values = {
        "base_url": url, "model": "{policy}-{env}", "api": "completions", "api_key_env": "", "concurrency": 2,
        "timeout_s": 60.0, "retries": 0, "request_per_seed": True, "logprobs": True, "version": "1",
    }  # fmt: skip
    return Server(**values | changes)


@pytest.fixture(scope="module")
def policy(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random policy whose greedy replies vary."""
    folder = tmp_path_factory.mktemp("models") / "lively"
    shutil.copytree(tiny_policy, folder)
    config = LlamaConfig.from_pretrained(tiny_policy, tie_word_embeddings=False, initializer_range=0.5)
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def server(policy: Path) -> Iterator[LocalServer]:
    """A completions server that runs the policy by `generate` of transformers, one request at a time."""
    model, tokenizer = load_policy(policy)

    def answer(_: int, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        if body["model"] != "sft-corridor":
            return 404, {}, f"no model {body['model']}"
        ids = torch.tensor([body["prompt"]])
        end = tokenizer.eos_token_id
        found = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=body["max_tokens"],
            pad_token_id=end,
        )[0, ids.shape[1] :].tolist()
        text = tokenizer.decode([token for token in found if token != end])
        choice = {"index": 0, "text": text, "logprobs": {"token_logprobs": [-1.0] * len(found)}}
        usage = {"prompt_tokens": ids.shape[1], "completion_tokens": len(found)}
        return 200, {}, json.dumps({"choices": [choice], "usage": usage})

    with closing(LocalServer(answer)) as made:
        yield made


def setup_of(found: settings.Settings, policy: Path) -> episodes.EvaluationSetup:
    models = Models.of(found, "corridor", "sft", policy, None)
    return episodes.EvaluationSetup.of(found, EnvSpec("corridor", OPTIONS, 5), models, "sft", "greedy")


def play(found: settings.Settings, policy: Path, shards: int = 1, tasks: int = 4) -> list[Episode]:
    """Play the same shard of the corridor greedily in this process, as often as asked."""
    panel = get_definition("corridor").panels(OPTIONS, "train", 0)
    work, shard = episodes.start(setup_of(found, policy)), [(next(panel), 0) for _ in range(tasks)]
    return [episode for _ in range(shards) for episode in work(shard)]


def test_a_server_plays_as_the_local_engine(policy: Path, server: LocalServer) -> None:
    local = play(given(), policy)
    assert len({step.action for episode in local for step in episode.steps}) > 1
    served = play(given(server=server_at(server.url)), policy)
    assert [episode.steps for episode in served] == [episode.steps for episode in local]
    assert [episode.cost for episode in served] == [episode.cost for episode in local]
    assert {body["model"] for body in server.bodies} == {"sft-corridor"}
    assert server.peak == 2


def test_min_p_reaches_the_engine_and_the_server(policy: Path, server: LocalServer) -> None:
    found = given()
    drawn = found.model_copy(update={"base": found.base.model_copy(update={"min_p": 0.25})})
    assert setup_of(drawn, policy).models.min_p == 0.25
    play(given(server=server_at(server.url)), policy)
    assert all("min_p" not in body for body in server.bodies), "a field that the protocol does not have"
    before = len(server.bodies)
    play(drawn.model_copy(update={"inference": given(server=server_at(server.url)).inference}), policy)
    assert {body["min_p"] for body in server.bodies[before:]} == {0.25}


@pytest.mark.parametrize("inference", [{"slots": 1}, {"slots": 3, "overlap": True}, {"slots": 9}, {"cache_mb": 0}])
def test_no_episode_depends_on_the_engine(policy: Path, inference: dict[str, Any]) -> None:
    assert play(given(**inference), policy) == play(given(), policy)


def test_a_process_loads_once_and_begins_each_shard_with_an_empty_cache(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    load = qlass.policies.load.load_policy

    def counting_load(*given: Any, **named: Any) -> Any:
        loaded.append(given)
        return load(*given, **named)

    monkeypatch.setattr(qlass.policies.load, "load_policy", counting_load)
    count = Counting(monkeypatch)
    found = play(given(), policy, shards=2)
    assert found[:4] == found[4:]
    assert len(loaded) == 1
    half = len(count.prefills) // 2
    assert count.prefills[:half] == count.prefills[half:]


def test_engines_are_few_kept_and_closed(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the definition allows, used for all shards, closed when the player is gone."""
    plain = play(given(), policy, shards=2)
    notes = mortal.offer(monkeypatch, tmp_path, max_engines=2)
    assert play(given(), policy, shards=2) == plain
    assert notes() == ["built", "built", "closed", "closed"]
    assert play(given(slots=1), policy, shards=2) == plain
    assert notes()[4:] == ["built", "closed"]


def test_an_engine_that_raised_is_replaced(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task is lost, the others are played on a new one; never are there two where one is allowed."""
    plain = play(given(), policy)
    notes = mortal.offer(monkeypatch, tmp_path, max_engines=1, dies_on="train/00001")
    found = play(given(), policy)
    assert found[1].error == "EnvironmentFault: the virtual machine is gone"
    assert [found[0], *found[2:]] == [plain[0], *plain[2:]]
    assert notes() == ["built", "closed", "built", "closed"]


def test_an_error_that_ends_the_process_closes_all_engines_first(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent of a worker process kills it as soon as it has reported the error."""
    notes = mortal.offer(monkeypatch, tmp_path, max_engines=2, bug_on="train/00001")
    with pytest.raises(AssertionError, match="a bug"):
        play(given(), policy)
    assert notes() == ["built", "built", "closed", "closed"]


def test_a_worker_process_closes_its_engines_at_its_end(policy: Path, tmp_path: Path) -> None:
    setup = setup_of(given(), policy)
    panel = get_definition("corridor").panels(OPTIONS, "train", 0)
    plan = Plan(mortal.start, (tmp_path, setup), Episode, tmp_path, 3, Crew(1), "test")
    assert len(list(run_shards(plan, [(next(panel), 0) for _ in range(6)]))) == 6
    assert mortal.notes(tmp_path) == ["built", "built", "closed", "closed"]


def test_a_server_that_does_not_know_the_model(policy: Path, server: LocalServer) -> None:
    with pytest.raises(SettingsError, match="HTTP 404: no model base"):
        play(given(server=server_at(server.url, model="base")), policy, 1)


@pytest.fixture
def walking() -> Iterator[LocalServer]:
    """A chat server that walks east, and tells no log probabilities."""
    answer = {"choices": [{"index": 0, "message": {"content": "Action: go east"}, "logprobs": None}]}
    with closing(LocalServer(lambda number, body: (200, {}, json.dumps(answer)))) as made:
        yield made


def test_log_probabilities_that_were_promised(policy: Path, walking: LocalServer) -> None:
    found = given(server=server_at(walking.url, api="chat"))
    with pytest.raises(SettingsError, match=r"no log probabilities, although .*inference\.server\.logprobs in params"):
        play(found, policy)


def test_what_needs_no_log_probabilities_is_played(walking: LocalServer, tmp_path: Path) -> None:
    """Best-of-N has its other rows; a value function of our own stands for the QNet."""
    found = given(server=server_at(walking.url, api="chat", logprobs=False))
    models = Models.of(found, "corridor", "sft", tmp_path, None)
    environment = EnvSpec("corridor", OPTIONS, 5)
    setup = episodes.EvaluationSetup.of(found, environment, models, "best_of_n", "best_of_n")
    player = Valued(setup.environment, setup.models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episodes, "Player", lambda *_: player)
        work = episodes.start(setup)
        episodes_found = work([(next(get_definition("corridor").panels(OPTIONS, "train", 0)), 0)])
    assert [episode.method for episode in episodes_found] == ["best_of_n", "best_of_n_qnet"]


def test_task_perturbation_draws_with_the_seeds_of_qlass(walking: LocalServer, tmp_path: Path) -> None:
    """The first proposal of every step is the one of `qlass`, since the server is asked the same with the same seed."""
    found = given(server=server_at(walking.url, api="chat", logprobs=False))
    models, environment = Models.of(found, "corridor", "sft", tmp_path, None), EnvSpec("corridor", OPTIONS, 5)
    spec = next(get_definition("corridor").panels(OPTIONS, "train", 0))
    asked: dict[str, list[dict[str, Any]]] = {}
    for row in ("qlass", "qlass_perturbed", "best_of_n"):
        setup = episodes.EvaluationSetup.of(found, environment, models, row, row)
        player = Valued(setup.environment, setup.models)
        player.definition = saying_its_task(player.definition)
        walking.bodies.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(episodes, "Player", lambda *_, player=player: player)
            episodes.start(setup)([(spec, 0)])
        asked[row] = list(walking.bodies)
    seeds = {row: {body["seed"] for body in bodies} for row, bodies in asked.items()}
    assert seeds["qlass"] == seeds["qlass_perturbed"]
    assert seeds["qlass"].isdisjoint(seeds["best_of_n"])
    assert (
        sum(body in asked["qlass_perturbed"] for body in asked["qlass"]) == 5
    )  # one per step; the others are reworded


class Valued(Player):
    """A player whose QNet values every reply alike."""

    @contextmanager
    def _fresh(self) -> Iterator[tuple[Policy, ValueFunction | None]]:
        with super()._fresh() as (policy, _):
            yield policy, ScriptedValueFunction(lambda history, reply: 0.0)


FAULTS = {
    "refused": (400, {}, '{"error": "this conversation is too odd"}'),
    "no choices": (200, {}, '{"choices": []}'),
    "dropped": (DROP, {}, ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_was_finished_before_a_fault_is_kept(walking: LocalServer, tmp_path: Path, fault: str) -> None:
    """The server answers two tasks of three, then fails; a second run asks for the third only."""
    found = given(server=server_at(walking.url, api="chat", logprobs=False))
    setup = setup_of(found, tmp_path)
    plan = Plan(episodes.start, setup, Episode, tmp_path / "shards", 1, Crew(1), "test")
    panel = get_definition("corridor").panels(OPTIONS, "train", 0)
    items = [(next(panel), 0) for _ in range(3)]
    mended, spent = walking.answer, 5 * 2  # five steps each
    walking.answer = lambda number, body: mended(number, body) if number < spent else FAULTS[fault]
    with pytest.raises(QlassError, match=re.escape(walking.url)) as caught:
        run_shards(plan, items)
    assert type(caught.value) in (SettingsError, DataError, Busy)
    assert sorted(path.name for path in plan.folder.iterdir()) == ["shard-00000.jsonl", "shard-00001.jsonl"]
    walking.answer, asked = mended, len(walking.bodies)
    assert [episode.task_id for episode in run_shards(plan, items)] == [spec.task_id for spec, _ in items]
    assert len(walking.bodies) == asked + 5


def test_no_server(policy: Path) -> None:
    with pytest.raises(Busy, match=r"http://127.0.0.1:9/sft/v1/: no answer after 1 attempts"):
        play(given(server=server_at("http://127.0.0.1:9/{policy}/v1")), policy, 1)
