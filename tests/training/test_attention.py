import copy

import pytest
import torch

from qlass.training.core.attention import BLOCK, NAME, choose_attention
from tests.training import tiny


@pytest.mark.parametrize("length", [1, 7, BLOCK, BLOCK + 1, 300])
def test_blocked_attention_equals_the_reference(length: int) -> None:
    reference = tiny.model()
    reference.set_attn_implementation("eager")
    blocked = tiny.model()
    choose_attention(blocked, torch.device("cpu"))
    assert blocked.config._attn_implementation == NAME
    ids = torch.randint(0, 64, (2, length), generator=torch.Generator().manual_seed(1))
    for model in (reference, blocked):
        model(input_ids=ids, use_cache=False).logits.square().mean().backward()
    for (name, wanted), found in zip(reference.named_parameters(), blocked.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, msg=name, rtol=1e-4, atol=1e-6)


def test_padding_on_the_right_changes_nothing() -> None:
    model = tiny.model()
    choose_attention(model, torch.device("cpu"))
    ids = torch.randint(0, 64, (1, 150), generator=torch.Generator().manual_seed(1))
    padded = torch.nn.functional.pad(ids, (0, 60))
    torch.testing.assert_close(model(input_ids=padded).logits[:, :150], model(input_ids=ids).logits)


def test_other_architectures_keep_their_own_attention() -> None:
    model = tiny.model()
    model.config = copy.deepcopy(model.config)
    model.config.model_type = "qwen3"
    choose_attention(model, torch.device("cpu"))
    assert model.config._attn_implementation == "sdpa"
