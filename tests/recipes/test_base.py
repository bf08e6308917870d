import shutil
from pathlib import Path

import torch

from qlass.jsonl import read_json
from qlass.models.folders import load_policy
from qlass.recipes.base import BaseSettings
from qlass.recipes.recipe import get_recipe
from tests.training import tiny


def test_the_base_policy_is_a_pointer_that_travels_with_it(tmp_path: Path) -> None:
    here = tmp_path / "here"
    policy = tiny.save_policy(here / "base" / "policy")
    given = tiny.ingredients(policy, here / "made", "base", name="base")
    result = get_recipe("base").make(given, BaseSettings())
    assert (result.metrics, list(result.curve)) == ({"steps": 0}, [])
    assert [path.name for path in given.out_dir.iterdir()] == ["pointer.json"]
    assert str(tmp_path) not in (given.out_dir / "pointer.json").read_text()
    shutil.move(here, tmp_path / "there")
    model, tokenizer = load_policy(tmp_path / "there" / "made" / "base")
    wanted, _ = load_policy(tmp_path / "there" / "base" / "policy")
    assert all(map(torch.equal, model.parameters(), wanted.parameters()))
    assert tokenizer.get_vocab() == tiny.tokenizer().get_vocab()


def test_a_base_policy_that_is_a_pointer_itself_is_followed(policy: Path, tmp_path: Path) -> None:
    get_recipe("base").make(tiny.ingredients(policy, tmp_path, "one"), BaseSettings())
    get_recipe("base").make(tiny.ingredients(tmp_path / "one", tmp_path, "two"), BaseSettings())
    assert read_json(tmp_path / "two" / "pointer.json") == {"source": "../one", "revision": None}
    model, _ = load_policy(tmp_path / "two")
    wanted, _ = load_policy(policy)
    assert all(map(torch.equal, model.parameters(), wanted.parameters()))
