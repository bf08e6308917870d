"""`LlamaTrunk` computes what `LlamaModel` computes, whatever is cached, forked, evicted or decoded side by side."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, Qwen2Config, Qwen2Model

from qlass.errors import ModelMismatch
from qlass.policies.llama import COLUMNS, PREFILL_QUERIES, SHARED_TOKENS, LlamaTrunk
from qlass.prompts import Prompt

BuildModel = Callable[..., LlamaForCausalLM]
Plain = Callable[[LlamaForCausalLM, Sequence[int]], torch.Tensor]

AMPLE = 1 << 30
SHAPES: dict[str, dict[str, Any]] = {
    "MQA": {"num_key_value_heads": 1},
    "GQA": {"num_key_value_heads": 2},
    "MHA": {"num_key_value_heads": 4},
    "wide heads": {"num_key_value_heads": 2, "head_dim": 16},
    "one layer": {"num_hidden_layers": 1},
    "llama3 rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
}


def trunk_of(model: LlamaForCausalLM, cache_bytes: int = AMPLE) -> LlamaTrunk:
    return LlamaTrunk(model.model, dtype=torch.float32, cache_bytes=cache_bytes)


def talk(rng: random.Random, messages: int, *, opening: bool = True, longest: int = 9) -> list[tuple[int, ...]]:
    """Return message segments of random ids; the last one is the opening of a reply (or empty)."""
    parts = [tuple(rng.randrange(7, 30) for _ in range(rng.randint(1, longest))) for _ in range(messages)]
    return [*parts, (5,) if opening else ()]


def prompt_of(parts: Sequence[tuple[int, ...]]) -> Prompt:
    boundaries, length = [], 0
    for part in parts[:-1]:
        length += len(part)
        boundaries.append(length)
    return Prompt(tuple(number for part in parts for number in part), tuple(boundaries))


def check(trunk: LlamaTrunk, model: LlamaForCausalLM, plain: Plain, prompts: Sequence[Prompt]) -> int:
    """Compare a prefill with plain forward passes; return the number of encoded tokens."""
    _, last, encoded = trunk.prefill(prompts)
    expected = torch.stack([plain(model, prompt.ids)[-1] for prompt in prompts])
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-4)
    return encoded


def kv_bytes(trunk: LlamaTrunk, tokens: int) -> int:
    return tokens * trunk.layers * 2 * trunk.kv_heads * trunk.head_dim * 4


@pytest.mark.parametrize("shape", SHAPES)
def test_prefill(build_model: BuildModel, plain: Plain, shape: str) -> None:
    rng, model = random.Random(0), build_model(**SHAPES[shape])
    prompts = [prompt_of(talk(rng, messages)) for messages in (1, 2, 7, 3, 3)]
    assert check(trunk_of(model), model, plain, prompts) == sum(len(prompt.ids) for prompt in prompts)


@pytest.mark.parametrize("shape", SHAPES)
def test_turns_continue_what_is_cached(build_model: BuildModel, plain: Plain, shape: str) -> None:
    rng, model = random.Random(1), build_model(**SHAPES[shape])
    trunk = trunk_of(model)
    talks = [talk(rng, 2) for _ in range(3)]
    check(trunk, model, plain, [prompt_of(parts) for parts in talks])
    for _ in range(3):
        new = [talk(rng, 2) for _ in talks]
        talks = [[*parts[:-1], *more] for parts, more in zip(talks, new, strict=True)]
        encoded = check(trunk, model, plain, [prompt_of(parts) for parts in talks])
        assert encoded == sum(len(part) for more in new for part in more)


@pytest.mark.parametrize("opening", [True, False])
def test_the_same_prompt_again(build_model: BuildModel, plain: Plain, opening: bool) -> None:
    """Redraws ask for the same prompt; without an opening (llama-2) all of it is cached, but its state is not."""
    rng, model = random.Random(2), build_model()
    trunk = trunk_of(model)
    prompts = [prompt_of(talk(rng, messages, opening=opening)) for messages in (2, 4, 4)]
    check(trunk, model, plain, prompts)
    assert check(trunk, model, plain, prompts) == len(prompts)
    assert check(trunk, model, plain, prompts[1:2]) == 1
    other = prompt_of(talk(rng, 2, opening=opening))
    assert check(trunk, model, plain, [*prompts, other]) == len(prompts) + len(other.ids)


def test_forks_share_their_beginning(build_model: BuildModel, plain: Plain) -> None:
    rng, model = random.Random(3), build_model()
    trunk = trunk_of(model)
    stem = talk(rng, 4)
    check(trunk, model, plain, [prompt_of(stem)])
    branches = [talk(rng, 2) for _ in range(3)]
    forks = [prompt_of([*stem[:-1], *branch]) for branch in branches]
    assert check(trunk, model, plain, forks) == sum(len(part) for branch in branches for part in branch)
    early = [*stem[:2], *talk(rng, 2)]  # leaves the stem after two messages
    assert check(trunk, model, plain, [prompt_of(early)]) == sum(map(len, early[2:]))
    assert check(trunk, model, plain, forks) == len(forks)


def test_a_beginning_that_several_prompts_share_is_encoded_once(build_model: BuildModel, plain: Plain) -> None:
    """Two tasks of one environment, three rollouts of each: one instruction and two observations are encoded."""
    model = build_model()
    long, opening = SHARED_TOKENS, (5,)
    tasks = [[(7, 8) * (long // 2), (first, 9) * (long // 2), opening] for first in (10, 11)]
    prompts = [prompt_of(parts) for parts in tasks for _ in range(3)]
    assert check(trunk_of(model), model, plain, prompts) == long + 2 * long + len(prompts)


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), budget=st.sampled_from([0, 10, 40, 120]), opening=st.booleans())
def test_eviction_never_changes_a_number(
    build_model: BuildModel, plain: Plain, seed: int, budget: int, opening: bool
) -> None:
    """Random walks over forks and continuations with room for `budget` tokens."""
    rng, model = random.Random(seed), build_model(num_hidden_layers=1)
    trunk = trunk_of(model, kv_bytes(trunk_of(model), budget))
    known = [talk(rng, 2, opening=opening, longest=5) for _ in range(2)]
    for _ in range(5):
        asked = []
        for _ in range(rng.randint(1, 4)):
            stem = rng.choice(known)[:-1]
            asked.append(
                [*stem[: rng.randint(1, len(stem))], *talk(rng, rng.randint(0, 3), opening=opening, longest=5)]
            )
        check(trunk, model, plain, [prompt_of(parts) for parts in asked])
        known.extend(asked)


def test_a_conversation_is_kept_once(build_model: BuildModel, plain: Plain) -> None:
    """Two conversations and just the room for both: no turn encodes anything again."""
    rng, model = random.Random(4), build_model()
    talks = [talk(rng, 12, longest=6) for _ in range(2)]
    trunk = trunk_of(model)
    trunk = trunk_of(model, kv_bytes(trunk, sum(len(prompt_of(parts).ids) for parts in talks)))
    for turn in range(2, 13, 2):
        for parts in talks:
            new = parts[turn - 2 : turn]
            prompt = prompt_of([*parts[:turn], parts[-1]])
            assert check(trunk, model, plain, [prompt]) == sum(map(len, new)) + len(parts[-1])


def test_the_oldest_conversations_are_forgotten(build_model: BuildModel, plain: Plain) -> None:
    """Room for three conversations of 20 tokens; using one again makes it the newest."""
    rng, model = random.Random(10), build_model(num_hidden_layers=1)
    trunk = trunk_of(model, kv_bytes(trunk_of(model), 60))
    prompts = [Prompt((*(rng.randrange(7, 30) for _ in range(20)), 5), (10, 20)) for _ in range(4)]
    for prompt in prompts[:3]:
        assert check(trunk, model, plain, [prompt]) == 21
    assert check(trunk, model, plain, [prompts[0]]) == 1
    assert check(trunk, model, plain, [prompts[3]]) == 21  # the second one goes
    assert check(trunk, model, plain, [prompts[0], prompts[2], prompts[3]]) == 3
    assert check(trunk, model, plain, [prompts[1]]) == 21


def test_nothing_is_left_after_forgetting(build_model: BuildModel, plain: Plain) -> None:
    rng, model = random.Random(2), build_model()
    trunk = trunk_of(model)
    prompts = [prompt_of(talk(rng, messages)) for messages in (2, 4)]
    encoded = check(trunk, model, plain, prompts)
    assert check(trunk, model, plain, prompts) < encoded
    trunk.forget()
    assert check(trunk, model, plain, prompts) == encoded


def test_joined_weights_are_parts_of_one_tensor(build_model: BuildModel) -> None:
    """Else a model would take nearly twice its memory; the model itself computes as before."""
    model, ids = build_model(), torch.arange(9)[None]
    before = model(ids).logits
    trunk_of(model)
    for layer in model.model.layers:
        for joined in (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")):
            block: Any = layer.self_attn if "q_proj" in joined else layer.mlp
            assert len({getattr(block, name).weight.untyped_storage().data_ptr() for name in joined}) == 1
    assert torch.equal(model(ids).logits, before)


def test_long_prompts_are_split_into_groups(build_model: BuildModel, plain: Plain) -> None:
    rng, model = random.Random(5), build_model(num_hidden_layers=1)
    lengths = (900, 30, 1000, 2, 950, 2100)
    prompts = [Prompt(tuple(rng.randrange(7, 30) for _ in range(n)), (n // 2, n)) for n in lengths]
    assert check(trunk_of(model), model, plain, prompts) == sum(lengths)


@pytest.mark.parametrize("shape", SHAPES)
def test_blocks_of_queries_and_of_columns(build_model: BuildModel, plain: Plain, shape: str) -> None:
    """Lengths about the sizes in which scores are computed and caches are laid out; from nothing, and continued."""
    rng, model = random.Random(11), build_model(**SHAPES[shape])
    trunk = trunk_of(model)
    lengths = (COLUMNS - 1, COLUMNS, COLUMNS + 1, PREFILL_QUERIES, PREFILL_QUERIES + 1, 2 * PREFILL_QUERIES + 40)
    ids = [tuple(rng.randrange(7, 30) for _ in range(length + 2 * PREFILL_QUERIES)) for length in lengths]
    first = [Prompt(row[:length], (length,)) for row, length in zip(ids, lengths, strict=True)]
    assert check(trunk, model, plain, first) == sum(lengths)
    longer = [Prompt(row, (*prompt.boundaries, len(row))) for row, prompt in zip(ids, first, strict=True)]
    assert check(trunk, model, plain, longer) == len(lengths) * 2 * PREFILL_QUERIES


def test_one_state_of_each_reply(build_model: BuildModel, plain: Plain) -> None:
    """Asked for one position, the last layer computes no other; what was cached goes on as before."""
    rng, model = random.Random(12), build_model()
    trunk = trunk_of(model)
    prompts = [prompt_of(talk(rng, messages)) for messages in (1, 4)]
    space, _, _ = trunk.prefill(prompts)
    replies = torch.tensor([[[rng.randrange(7, 30) for _ in range(70)] for _ in range(3)] for _ in prompts])
    read = torch.tensor([[4, 0, 2], [1, 4, 3]])
    states = trunk.extend(space, replies[:, :, :5], read)
    assert states.shape == (2, 3, 1, 32)
    rest = trunk.extend(space, replies[:, :, 5:])
    for row, prompt in enumerate(prompts):
        for sibling in range(3):
            whole = plain(model, [*prompt.ids, *replies[row, sibling].tolist()])[len(prompt.ids) :]
            one = whole[read[row, sibling]]
            torch.testing.assert_close(states[row, sibling, 0], one, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(rest[row, sibling], whole[5:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_siblings_extend_a_shared_prefix(build_model: BuildModel, plain: Plain, shape: str) -> None:
    rng, model = random.Random(6), build_model(**SHAPES[shape])
    trunk = trunk_of(model)
    prompts = [prompt_of(talk(rng, messages)) for messages in (1, 5, 2)]
    space, _, _ = trunk.prefill(prompts)
    replies = torch.tensor([[[rng.randrange(7, 30) for _ in range(6)] for _ in range(4)] for _ in prompts])
    parts = [trunk.extend(space, replies[:, :, start:end]) for start, end in ((0, 1), (1, 4), (4, 5), (5, 6))]
    states = torch.cat(parts, 2)
    for row, prompt in enumerate(prompts):
        for sibling in range(4):
            expected = plain(model, [*prompt.ids, *replies[row, sibling].tolist()])[len(prompt.ids) :]
            torch.testing.assert_close(states[row, sibling], expected, rtol=1e-4, atol=1e-4)


def test_rows_can_be_dropped_between_chunks(build_model: BuildModel, plain: Plain) -> None:
    rng, model = random.Random(7), build_model()
    trunk = trunk_of(model)
    prompts = [prompt_of(talk(rng, messages)) for messages in (3, 1, 2)]
    space, _, _ = trunk.prefill(prompts)
    replies = torch.tensor([[[rng.randrange(7, 30) for _ in range(4)] for _ in range(2)] for _ in prompts])
    trunk.extend(space, replies[:, :, :2])
    states = trunk.extend(space.select(torch.tensor([2, 0])), replies[[2, 0]][:, :, 2:])
    for place, row in enumerate((2, 0)):
        for sibling in range(2):
            expected = plain(model, [*prompts[row].ids, *replies[row, sibling].tolist()])[-2:]
            torch.testing.assert_close(states[place, sibling], expected, rtol=1e-4, atol=1e-4)


def test_bfloat16(build_model: BuildModel, plain: Plain) -> None:
    rng, model = random.Random(8), build_model(initializer_range=0.1)
    prompts = [prompt_of(talk(rng, messages)) for messages in (2, 5)]
    replies = torch.tensor([[[rng.randrange(7, 30) for _ in range(3)] for _ in range(2)] for _ in prompts])
    whole = [
        [plain(model, [*prompt.ids, *reply.tolist()]) for reply in rows]
        for prompt, rows in zip(prompts, replies, strict=True)
    ]
    trunk = LlamaTrunk(model.model, dtype=torch.bfloat16, cache_bytes=AMPLE)
    for _ in range(2):  # the second time from the cache
        space, last, _ = trunk.prefill(prompts)
        states = trunk.extend(space, replies)
        for row, prompt in enumerate(prompts):
            end = len(prompt.ids)
            torch.testing.assert_close(last[row].float(), whole[row][0][end - 1], rtol=0.05, atol=0.1)
            for sibling in range(2):
                torch.testing.assert_close(
                    states[row, sibling].float(), whole[row][sibling][end:], rtol=0.05, atol=0.1
                )


@pytest.mark.gpu
def test_on_a_gpu(build_model: BuildModel, plain: Plain) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    rng, model = random.Random(9), build_model(initializer_range=0.1)
    prompts = [prompt_of(talk(rng, messages)) for messages in (2, 5)]
    expected = torch.stack([plain(model, prompt.ids)[-1] for prompt in prompts])
    trunk = LlamaTrunk(model.model.to("cuda"), dtype=torch.bfloat16, cache_bytes=AMPLE)
    for _ in range(2):
        space, last, _ = trunk.prefill(prompts)
        torch.testing.assert_close(last.float().cpu(), expected, rtol=0.05, atol=0.1)
    ids = torch.full((2, 3, 1), 9, device="cuda")
    assert trunk.extend(space, ids).isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
        {"auto_map": {"AutoModelForCausalLM": "modeling_own.OwnModel"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_llama_models_with_other_parts_are_refused(build_model: BuildModel, changes: dict[str, Any]) -> None:
    with pytest.raises(
        ModelMismatch, match=r"the local engine runs models with .*but not the QNet|code of its own, which is never"
    ):
        trunk_of(build_model(**changes))


def test_other_architectures_are_refused() -> None:
    config = Qwen2Config(
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model: Any = Qwen2Model(config)
    with pytest.raises(ModelMismatch, match="model_type: found 'qwen2'; the local engine runs models with 'llama'"):
        LlamaTrunk(model, dtype=torch.float32, cache_bytes=0)
