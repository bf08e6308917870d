from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from qlass.errors import DataError, ModelMismatch
from qlass.jsonl import write_json
from qlass.models.folders import check_saved, check_tokenizer, load_policy, load_tokenizer
from tests.training import tiny


def test_a_pointer_leads_to_a_folder(policy: Path, tmp_path: Path) -> None:
    write_json(tmp_path / "pointer.json", {"source": str(policy), "revision": None})
    model, tokenizer = load_policy(tmp_path)
    wanted, _ = load_policy(policy)
    assert all(map(torch.equal, model.parameters(), wanted.parameters()))
    assert tokenizer.eos_token == "<|end|>"


@pytest.mark.parametrize(
    ("pointer", "error", "message"),
    [
        ({"source": "some/model"}, DataError, "expected the keys source and revision"),
        ({"source": "some/model", "revision": None}, ModelMismatch, "set base.revision"),
    ],
)
def test_a_pointer_that_pins_nothing_is_refused(tmp_path: Path, pointer: object, error: type, message: str) -> None:
    write_json(tmp_path / "pointer.json", pointer)
    with pytest.raises(error, match=message):
        load_policy(tmp_path)


def test_an_empty_folder_is_no_policy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a policy"):
        load_policy(tmp_path)


def test_missing_weights_are_refused_not_drawn_at_random(tmp_path: Path) -> None:
    tiny.save_policy(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelMismatch, match=r"missing_keys.*layers\.1\.mlp\.up_proj"):
        load_policy(tmp_path)


def test_a_policy_without_tokenizer_is_refused(tmp_path: Path) -> None:
    tiny.model().save_pretrained(tmp_path)
    with pytest.raises(ModelMismatch, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_must_be_able_to_end_a_turn() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelMismatch, match="no eos_token"):
        check_tokenizer(64, tokenizer, "here")


@pytest.mark.parametrize("value", [torch.zeros(2, 2), torch.ones(0), torch.full((2, 2), torch.nan)])
def test_empty_weights_do_not_pass_as_saved(tmp_path: Path, value: torch.Tensor) -> None:
    save_file({"good": torch.ones(2, 2), "bad": value}, tmp_path / "model.safetensors")
    with pytest.raises(ModelMismatch, match="tensor bad"):
        check_saved(tmp_path)
