"""The local policy and value function against plain forward passes and `generate` of transformers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from qlass.errors import SettingsError
from qlass.policies.base import Propose, Proposed, Score
from qlass.policies.llama import LlamaTrunk
from qlass.policies.local import LocalPolicy, LocalValueFunction, _draw, _uniforms
from qlass.prompts import ChatFormat, render_reply
from qlass.records import History, Message, Proposal

BuildModel = Callable[..., LlamaForCausalLM]
Plain = Callable[[LlamaForCausalLM, Sequence[int]], torch.Tensor]

LENGTH, NEW = 400, 24
ACTIONS = ("enter red room", "go east", "go west", "take key")


class Setup:
    """A policy on a tiny model, with what a test needs to check it."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        chat: ChatFormat,
        tokenizer: PreTrainedTokenizerFast,
        cache_bytes: int = 1 << 30,
        min_p: float = 0.0,
    ) -> None:
        self.model, self.chat, self.tokenizer = model, chat, tokenizer
        self.texts: dict[str, list[int]] = {}
        self.policy = LocalPolicy(
            LlamaTrunk(model.model, dtype=torch.float32, cache_bytes=cache_bytes),
            model.lm_head.weight,
            chat,
            self.decode,
            str.lower,
            max_length=LENGTH,
            max_new_tokens=NEW,
            min_p=min_p,
        )

    def decode(self, ids: list[int]) -> str:
        text = str(self.tokenizer.decode(ids))
        self.texts[text] = ids
        return text

    def ids(self, history: History) -> tuple[int, ...]:
        return self.chat.prompt(history, LENGTH - NEW).ids

    def generated(self, proposal: Proposal) -> list[int]:
        """Return the ids of a proposal, its end of turn included where it has one."""
        ids = self.texts[proposal.text]
        return ids if proposal.tokens == len(ids) else [*ids, self.chat.stop]


@pytest.fixture
def setup(build_model: BuildModel, chat: ChatFormat, tokenizer: PreTrainedTokenizerFast) -> Setup:
    """A model that ends some replies early and some not at all."""
    return Setup(build_model(1, initializer_range=0.15), chat, tokenizer)


def logprob(plain: Plain, model: LlamaForCausalLM, prompt: Sequence[int], reply: Sequence[int]) -> float:
    with torch.inference_mode():
        logits = model.lm_head(plain(model, [*prompt, *reply])).log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(reply) - 1)
    return sum(float(logits[place, token]) for place, token in zip(places, reply, strict=True))


def test_greedy_replies_equal_generate(setup: Setup, histories: list[History]) -> None:
    answers = setup.policy.propose([Propose(history, (0,), 0.0) for history in histories])
    ended = 0
    for history, answer in zip(histories, answers, strict=True):
        ids = torch.tensor([setup.ids(history)])
        expected = setup.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=setup.chat.stop,
            pad_token_id=0,
        )[0, ids.shape[1] :].tolist()
        assert setup.generated(answer.proposals[0]) == expected
        assert answer.proposals[0].tokens == len(expected)
        assert answer.prompt_tokens == ids.shape[1]
        ended += expected[-1] == setup.chat.stop
    assert len({answer.proposals[0].text for answer in answers}) > 3


def test_log_probabilities(setup: Setup, plain: Plain, histories: list[History]) -> None:
    answers = setup.policy.propose([Propose(history, (1, 2, 3), 1.3) for history in histories])
    tokens = []
    for history, answer in zip(histories, answers, strict=True):
        for proposal in answer.proposals:
            reply = setup.generated(proposal)
            tokens.append(proposal.tokens)
            assert proposal.tokens == len(reply) <= NEW
            assert setup.chat.stop not in reply[:-1]
            expected = logprob(plain, setup.model, setup.ids(history), reply)
            assert proposal.logprob == pytest.approx(expected, rel=1e-4)
    assert min(tokens) < NEW == max(tokens)  # some replies end, some hit the limit


def same(found: Sequence[Proposed], expected: Sequence[Proposed]) -> None:
    """Replies must be equal; log probabilities up to rounding."""
    for one, other in zip(found, expected, strict=True):
        assert one.prompt_tokens == other.prompt_tokens
        for left, right in zip(one.proposals, other.proposals, strict=True):
            assert (left.text, left.action, left.tokens) == (right.text, right.action, right.tokens)
            assert left.logprob == pytest.approx(right.logprob, rel=1e-4)


def test_replies_do_not_depend_on_the_batch(
    build_model: BuildModel, chat: ChatFormat, tokenizer: PreTrainedTokenizerFast, histories: list[History]
) -> None:
    """Alone, together, in another order, with other neighbours, with or without caches: the same replies."""

    def fresh(cache_bytes: int = 1 << 30) -> LocalPolicy:
        return Setup(build_model(1, initializer_range=0.15), chat, tokenizer, cache_bytes).policy

    requests = [
        Propose(history, tuple(range(10 * number, 10 * number + 1 + number % 3)), 0.9 * (number % 4 > 0))
        for number, history in enumerate(histories)
    ]
    together = fresh().propose(requests)
    same([fresh().propose([request])[0] for request in requests[:6]], together[:6])
    policy = fresh()
    same(policy.propose(requests[::-1]), together[::-1])
    same(policy.propose(requests[3:9]), together[3:9])  # everything is cached now
    same(fresh(0).propose(requests[::2]), together[::2])
    assert policy.propose([]) == []


def test_a_seed_gives_its_reply_beside_any_other(setup: Setup, histories: list[History]) -> None:
    history = histories[2]
    (many,) = setup.policy.propose([Propose(history, (7, 8, 9, 7), 1.0)])
    same([Proposed((many.proposals[3],), many.prompt_tokens)], [Proposed((many.proposals[0],), many.prompt_tokens)])
    assert len({proposal.text for proposal in many.proposals}) == 3
    alone = [setup.policy.propose([Propose(history, (seed,), 1.0)])[0] for seed in (9, 8)]
    same(
        alone, [Proposed((many.proposals[2],), many.prompt_tokens), Proposed((many.proposals[1],), many.prompt_tokens)]
    )


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-3, 0.2, 1.0, 3.0]), min_size=2, max_size=6).filter(any),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 2.0]),
)
def test_inverse_transform_draws_by_probability(weights: list[float], temperature: float) -> None:
    count = 4000
    logits = torch.tensor(weights).log().expand(count, -1)
    uniform = torch.arange(count) / count  # every cell of the unit interval once, 0 included
    drawn = torch.bincount(_draw(logits, temperature, 0.0, uniform), minlength=len(weights)) / count
    expected = (torch.tensor(weights).log() / temperature).softmax(-1)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=2 / count)
    assert not drawn[torch.tensor(weights) == 0].any()
    largest = torch.full((count,), 1 - 2**-24)
    assert torch.tensor(weights)[_draw(logits, temperature, 0.0, largest)].all()


@given(
    weights=st.lists(st.sampled_from([0.0, 1e-3, 0.2, 1.0, 3.0]), min_size=2, max_size=6).filter(any),
    temperature=st.sampled_from([0.3, 0.7, 1.0, 2.0]),
    min_p=st.sampled_from([0.01, 0.1, 0.5, 0.99]),
)
def test_min_p_leaves_out_what_is_improbable_beside_the_likeliest(
    weights: list[float], temperature: float, min_p: float
) -> None:
    """The rest keeps its proportions, at the temperature at which it is drawn."""
    count = 4000
    logits = torch.tensor(weights).log()
    uniform = torch.arange(count) / count
    drawn = (
        torch.bincount(_draw(logits.expand(count, -1), temperature, min_p, uniform), minlength=len(weights)) / count
    )
    usual = (logits / temperature).softmax(-1)
    kept = torch.where(usual >= min_p * usual.max(), usual, 0.0)
    torch.testing.assert_close(drawn, kept / kept.sum(), rtol=0, atol=2 / count)


def test_min_p_holds_for_every_token_of_a_reply(
    build_model: BuildModel, chat: ChatFormat, tokenizer: PreTrainedTokenizerFast, histories: list[History]
) -> None:
    """Near 1 only the likeliest tokens are left, whatever the seed; log probabilities are those of the whole model."""
    model = build_model(1, initializer_range=0.15)
    greedy, others = [
        Setup(model, chat, tokenizer, min_p=min_p).policy.propose([Propose(histories[0], (1, 2, 3), temperature)])
        for min_p, temperature in ((0.0, 0.0), (0.999, 1.0))
    ]
    first = greedy[0].proposals[0]
    assert [one.text for one in others[0].proposals] == [first.text] * 3
    assert [one.logprob for one in others[0].proposals] == pytest.approx([first.logprob] * 3)


def test_uniform_numbers_follow_the_seed_alone() -> None:
    assert _uniforms(5, 8).tolist() == _uniforms(5, 3).tolist() + _uniforms(5, 8)[3:].tolist()
    assert _uniforms(5, 8).tolist() != _uniforms(6, 8).tolist()
    many = _uniforms((1 << 63) - 1, 5000)
    assert 0 <= many.min() < many.max() < 1
    assert abs(float(many.mean()) - 0.5) < 0.02


def test_unparsable_replies_are_data(setup: Setup, histories: list[History]) -> None:
    (answer,) = setup.policy.propose([Propose(histories[0], (1,), 1.5)])
    proposal = answer.proposals[0]
    assert not proposal.valid  # a random model writes no action
    assert (proposal.thought, proposal.action) == ("", proposal.text.strip().lower())


def test_long_histories_are_cut(setup: Setup, histories: list[History], plain: Plain) -> None:
    turns = [message for _ in range(30) for message in histories[4][2:]]
    history = (*histories[4][:2], *turns)
    (answer,) = setup.policy.propose([Propose(history, (3,), 1.0)])
    assert LENGTH - NEW - 40 < answer.prompt_tokens <= LENGTH - NEW
    proposal = answer.proposals[0]
    expected = logprob(plain, setup.model, setup.ids(history), setup.generated(proposal))
    assert proposal.logprob == pytest.approx(expected, rel=1e-4)
    with pytest.raises(SettingsError, match=r"base\.max_length"):
        setup.policy.propose([Propose((Message("system", "red " * LENGTH), histories[0][1]), (3,), 1.0)])


def test_admissible_greedy_choice_is_the_most_likely_reply(
    setup: Setup, plain: Plain, histories: list[History]
) -> None:
    history = histories[3]
    stop, chat = setup.chat.stop, setup.chat
    expected = {}
    for action in ACTIONS:
        reply = [*chat.reply(render_reply("", action)), stop]
        expected[action] = (len(reply), logprob(plain, setup.model, setup.ids(history), reply))
    ranked = sorted(ACTIONS, key=lambda action: -expected[action][1])
    (answer,) = setup.policy.propose([Propose(history, (0, 1, 2), 0.0, ACTIONS)])
    assert [proposal.action for proposal in answer.proposals] == ranked[:3]
    for proposal in answer.proposals:
        assert proposal.valid
        assert proposal.text == render_reply("", proposal.action)
        assert proposal.tokens == expected[proposal.action][0]
        assert proposal.logprob == pytest.approx(expected[proposal.action][1], rel=1e-4)
    assert answer.prompt_tokens == len(setup.ids(history))


def test_admissible_choices_are_distinct_and_follow_their_probabilities(
    setup: Setup, histories: list[History]
) -> None:
    temperature, draws = 4.0, 200
    (ranked,) = setup.policy.propose([Propose(histories[1], (0, 1, 2, 3), 0.0, ACTIONS)])
    probabilities = (torch.tensor([p.logprob for p in ranked.proposals]) / temperature).softmax(-1)
    assert probabilities.min() > 0.02
    answers = setup.policy.propose([Propose(histories[1], (n, n + 1), temperature, ACTIONS) for n in range(draws)])
    first = Counter(answer.proposals[0].action for answer in answers)
    for proposal, probability in zip(ranked.proposals, probabilities.tolist(), strict=True):
        assert first[proposal.action] / draws == pytest.approx(probability, abs=0.1)
    assert all(answer.proposals[0].action != answer.proposals[1].action for answer in answers)
    again = setup.policy.propose([Propose(histories[1], (5, 99), temperature, ACTIONS)])
    assert [p.action for p in again[0].proposals] == [p.action for p in answers[5].proposals]


def test_no_more_choices_than_actions(setup: Setup, histories: list[History]) -> None:
    requests = [Propose(histories[0], (1, 2, 3), 0.7, ACTIONS[:2]), Propose(histories[0], (1, 2, 3), 0.7)]
    chosen, free = setup.policy.propose(requests)
    assert sorted(proposal.action for proposal in chosen.proposals) == sorted(ACTIONS[:2])
    assert len(free.proposals) == 3


@pytest.mark.parametrize("cache_bytes", [1 << 30, 0])
def test_values_equal_a_plain_forward_pass(
    build_model: BuildModel,
    plain: Plain,
    tokenizer: PreTrainedTokenizerFast,
    chat: ChatFormat,
    histories: list[History],
    cache_bytes: int,
) -> None:
    """Read at the last token of each reply; histories ask for one to four replies of different lengths."""
    model = build_model(2)
    head = torch.nn.Linear(32, 1).requires_grad_(False)
    trunk = LlamaTrunk(model.model, dtype=torch.float32, cache_bytes=cache_bytes)
    values = LocalValueFunction(trunk, lambda x: head(x)[:, 0], chat, max_length=LENGTH, room=NEW)
    replies = [render_reply("", ACTIONS[0]), render_reply("now you see", ACTIONS[1]), "Action: take", "key"]
    requests = [Score(history, tuple(replies[: 1 + n % 4])) for n, history in enumerate(histories)]
    for _ in range(2):  # the second time from the cache
        found = values.score(requests)
        for request, scores in zip(requests, found, strict=True):
            assert len(scores) == len(request.replies)
            for reply, score in zip(request.replies, scores, strict=True):
                row = chat.row((*request.history, Message("assistant", reply)), LENGTH - NEW)
                state = plain(model, row.ids[: row.action_ends[-1] + 1])[-1]
                assert score == pytest.approx(float(head(state)), rel=1e-4, abs=1e-4)


def test_values_along_a_conversation(
    build_model: BuildModel, tokenizer: PreTrainedTokenizerFast, chat: ChatFormat, histories: list[History]
) -> None:
    """What was scored before makes no difference, nor do the other replies."""

    def fresh() -> LocalValueFunction:
        trunk = LlamaTrunk(build_model(2).model, dtype=torch.float32, cache_bytes=1 << 30)
        return LocalValueFunction(trunk, lambda x: x.sum(-1), chat, max_length=LENGTH, room=NEW)

    values = fresh()
    for history in histories[:5]:
        together = values.score([Score(history, ("Action: go east", "", "Action: take key"))])[0]
        alone = fresh().score([Score(history, ("Action: take key",))])[0]
        assert together[2] == pytest.approx(alone[0], rel=1e-4, abs=1e-4)
