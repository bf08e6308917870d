"""Frozen episodes on the generated catalogue; see `webshop_traces`."""

import json

import pytest

pytest.importorskip("rapidfuzz")
pytest.importorskip("snowballstemmer")

from qlass.jsonl import from_json
from qlass.records import TaskSpec
from tests.envs.webshop_traces import FILE, N_EPISODES, WEBSHOP, options, replay

EPISODES = [json.loads(line) for line in FILE.read_text(encoding="ascii").splitlines()]


@pytest.mark.parametrize("episode", EPISODES, ids=range(len(EPISODES)))
def test_every_step_is_as_it_was(episode):
    env, actions = WEBSHOP.make(options(episode["mode"])), [step["action"] for step in episode["steps"][1:]]
    for found, frozen in zip(
        replay(env, from_json(TaskSpec, episode["spec"]), actions), episode["steps"], strict=True
    ):
        assert found == frozen


def test_the_frozen_episodes_meet_every_kind_of_page():
    assert len(EPISODES) == N_EPISODES
    steps = [step for episode in EPISODES for step in episode["steps"]]
    assert {step["valid"] for step in steps} == {True, False}
    assert {episode["mode"] for episode in EPISODES} == {"text", "text_rich"}
    assert any(step["reward"] == 1.0 for step in steps)
    assert any(step["terminated"] and step["reward"] < 1.0 for step in steps)
    for kind in ("Page 1 (", "Page 2 (", "Rating: ", "Thank you", "You have clicked ", "WebShop"):
        assert any(kind in step["observation"] for step in steps), kind
