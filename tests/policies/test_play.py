"""The local models inside the search: corridor, explored and played with a tiny random policy and value function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from qlass.envs import get_definition, make_env
from qlass.labels import label_tree
from qlass.methods.base import Assignment, get_method
from qlass.policies.llama import LlamaTrunk
from qlass.policies.local import LocalPolicy, LocalValueFunction
from qlass.prompts import ChatFormat
from qlass.search.branch import Candidates
from qlass.search.explore import ExploreSettings, explore
from tests.engines import drive

BuildModel = Callable[..., LlamaForCausalLM]

CORRIDOR = get_definition("corridor")
OPTIONS = {"length": 5, "rooms": 3}
SPECS = list(islice(CORRIDOR.panels(OPTIONS, "train", 0), 3))
LENGTH, NEW = 300, 12
KINDS: tuple[Candidates, ...] = ("generate", "admissible")


@pytest.fixture
def models(
    build_model: BuildModel, chat: ChatFormat, tokenizer: PreTrainedTokenizerFast
) -> Callable[[], tuple[LocalPolicy, LocalValueFunction]]:
    """Return a function that makes the same policy and value function anew, with empty caches."""

    def build() -> tuple[LocalPolicy, LocalValueFunction]:
        actor, critic = (
            build_model(seed, vocab_size=len(tokenizer), initializer_range=0.2, num_hidden_layers=1) for seed in (3, 4)
        )
        trunk, other = (LlamaTrunk(one.model, dtype=torch.float32, cache_bytes=1 << 16) for one in (actor, critic))

        def decode(ids: list[int]) -> str:
            return str(tokenizer.decode(ids))

        return (
            LocalPolicy(
                trunk,
                actor.lm_head.weight,
                chat,
                decode,
                CORRIDOR.normalise_action,
                max_length=LENGTH,
                max_new_tokens=NEW,
            ),
            LocalValueFunction(other, lambda states: states.sum(-1), chat, max_length=LENGTH, room=NEW),
        )

    return build


@pytest.mark.parametrize("candidates", KINDS)
def test_explore(models: Callable[[], Any], candidates: Candidates) -> None:
    budget = ExploreSettings(
        width=3, depth=2, temperature=0.9, rollout_temperature=None, expert_branch=False, max_invalid=None, max_redraws=1,
        max_nodes=200, candidates=candidates,
    )  # fmt: skip

    def grow(env: Any, number: int, wave: int) -> Any:
        return explore(env, CORRIDOR, SPECS[number], budget, None, seed=number, wave=wave)

    def forest(engines: int, wave: int) -> list[Any]:
        starts = [partial(grow, number=number, wave=wave) for number in range(len(SPECS))]
        found = dict(drive(starts, [make_env(CORRIDOR, OPTIONS, 6) for _ in range(engines)], models()[0]))
        return [found[number] for number in range(len(SPECS))]

    together, alone = forest(3, 8), forest(1, 1)
    for tree, other in zip(together, alone, strict=True):
        assert sorted(node.step.action for node in tree.nodes) == sorted(node.step.action for node in other.nodes)
        assert tree.cost == other.cost
        assert len(label_tree(tree, 0.9)) == len(tree.nodes) == tree.cost.env_steps
        assert all(node.step.valid for node in tree.nodes) or candidates == "generate"


@pytest.mark.parametrize("candidates", KINDS)
def test_play(models: Callable[[], Any], candidates: Candidates) -> None:
    def play(name: str, settings: Any, number: int, env: Any) -> Any:
        given = Assignment(env, CORRIDOR, SPECS[number], name, number=0, seed=number, candidates=candidates)
        return get_method(name).routine(given, settings)

    for name, count in (("qlass", {"proposals": 3}), ("best_of_n", {"rollouts": 3})):
        settings = get_method(name).settings(seeds=(0,), temperature=0.9, **count)
        starts = [partial(play, name, settings, number) for number in range(len(SPECS))]
        together = dict(drive(starts, [make_env(CORRIDOR, OPTIONS, 6) for _ in starts], *models()))
        alone = dict(drive(starts, [make_env(CORRIDOR, OPTIONS, 6)], *models()))
        for number in range(len(SPECS)):
            for episode, other in zip(together[number], alone[number], strict=True):
                assert episode.steps == other.steps
                assert episode.cost == other.cost
                assert not episode.error
