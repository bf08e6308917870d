from pathlib import Path

import pytest
import torch

from qlass.errors import DataError, ModelMismatch, SettingsError
from qlass.models.folders import load_policy
from qlass.recipes.recipe import get_recipe
from qlass.recipes.sft import drawn
from qlass.training.core import jobs
from qlass.training.objectives.sft import SftSettings
from tests.training import tiny


def test_training_learns_and_writes_a_policy(policy: Path, tmp_path: Path) -> None:
    result = tiny.make_sft(policy, tmp_path)
    assert result.metrics["loss_last"] < 0.9 * result.metrics["loss_first"]
    assert [row.step for row in result.curve] == [2, 4]
    before, _ = load_policy(policy)
    after, tokenizer = load_policy(tmp_path / "sft")
    assert tokenizer.get_vocab() == tiny.tokenizer().get_vocab()
    assert all(not torch.equal(old, new) for old, new in zip(before.parameters(), after.parameters(), strict=True))
    assert (tmp_path / "sft" / "tokenizer.json").read_bytes() == (policy / "tokenizer.json").read_bytes()


def test_adapters_are_saved_with_a_pointer_to_their_base(policy: Path, tmp_path: Path) -> None:
    tiny.make_sft(policy, tmp_path, lora={**tiny.LORA, "dropout": 0.1})
    names = {path.name for path in (tmp_path / "sft").iterdir()}
    assert names == {
        "adapter_config.json", "adapter_model.safetensors", "pointer.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "sft" / "adapter_config.json").read_text()
    before, _ = load_policy(policy)
    after, _ = load_policy(tmp_path / "sft")
    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert len(changed) == 14, "every linear layer, and neither embeddings nor norms"


def test_long_episodes_are_counted(policy: Path, tmp_path: Path) -> None:
    """With 45 tokens for a history, those with three steps or more are cut before their last replies."""
    given = tiny.ingredients(policy, tmp_path, max_length=61)
    result = get_recipe("sft").make(given, tiny.sft_recipe())
    assert (result.metrics["trajectories"], result.metrics["truncated_trajectories"]) == (8, 4)
    whole = tiny.make_sft(policy, tmp_path, "whole")
    assert whole.metrics["truncated_trajectories"] == 0
    assert result.metrics["supervised_tokens_per_epoch"] == whole.metrics["supervised_tokens_per_epoch"]


def test_two_runs_write_the_same_bytes(policy: Path, tmp_path: Path) -> None:
    tiny.make_sft(policy, tmp_path, "a")
    tiny.make_sft(policy, tmp_path, "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_tokenizer_of_another_model_is_refused(policy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny.model(vocab=16).save_pretrained(other)
    tiny.tokenizer().save_pretrained(other)
    with pytest.raises(ModelMismatch, match="only 16 embedding rows"):
        tiny.make_sft(other, tmp_path)


def test_nothing_to_train_on_is_an_error(policy: Path, tmp_path: Path) -> None:
    given = tiny.ingredients(policy, tmp_path, expert=list)
    with pytest.raises(DataError, match="run the stage `expert`"):
        get_recipe("sft").make(given, tiny.sft_recipe())


def test_the_first_trajectories_are_learnt_from(policy: Path, tmp_path: Path) -> None:
    """As if the expert had played no more."""
    few = tiny.make_sft(policy, tmp_path, "few", trajectories=3)
    given = tiny.ingredients(policy, tmp_path, "alone", expert=lambda: tiny.trajectories(3))
    alone = get_recipe("sft").make(given, tiny.sft_recipe())
    assert few.metrics["trajectories"] == 3
    assert (few.metrics, few.curve) == (alone.metrics, alone.curve)
    for path in (tmp_path / "few").iterdir():
        assert path.read_bytes() == (tmp_path / "alone" / path.name).read_bytes(), path.name
    whole = tiny.make_sft(policy, tmp_path, "whole")
    assert whole.metrics["trajectories"] == 8
    assert whole.curve != few.curve


def test_a_share_is_drawn_with_the_seed() -> None:
    everything = tiny.trajectories(40)
    half = drawn(everything, 0.5, seed=0)
    assert len(half) == 20
    assert [one for one in everything if one in half] == half, "their order is kept"
    assert half == drawn(everything, 0.5, seed=0)
    assert half not in (everything[:20], drawn(everything, 0.5, seed=1))
    assert drawn(everything, 1.0, seed=0) == everything
    assert len(drawn(everything[:3], 0.1, seed=0)) == 1
    few = tiny.sft_recipe(share=0.1, trajectories=1).chosen(everything[:3], 0, "recipes.sft.trajectories", "solved")
    assert len(few) == 1, "params.yaml is checked with the same rule"


def test_the_share_is_drawn_before_the_first_are_taken(policy: Path, tmp_path: Path) -> None:
    half = tiny.make_sft(policy, tmp_path, "half", share=0.5)
    given = tiny.ingredients(policy, tmp_path, "alone", expert=lambda: drawn(tiny.trajectories(8), 0.5, given.seed))
    alone = get_recipe("sft").make(given, tiny.sft_recipe())
    assert (half.metrics, half.curve) == (alone.metrics, alone.curve)
    assert tiny.make_sft(policy, tmp_path, "fewer", share=0.5, trajectories=3).metrics["trajectories"] == 3
    with pytest.raises(
        SettingsError, match=r"found 5; allowed: 1 to 4 \(tasks that the expert solved, a share of 0\.5\)"
    ):
        tiny.make_sft(policy, tmp_path, "more", share=0.5, trajectories=5)


def test_more_trajectories_than_there_are_is_an_error(policy: Path, tmp_path: Path) -> None:
    tiny.make_sft(policy, tmp_path, "all", trajectories=8)
    given = tiny.ingredients(policy, tmp_path, name="mine")
    with pytest.raises(SettingsError, match=r"recipes\.mine\.trajectories: found 9; allowed: 1 to 8 "):
        get_recipe("sft").make(given, tiny.sft_recipe(trajectories=9))
    assert not given.out_dir.exists()


class Launched(Exception):
    """Stands for the end of the ranks."""


def test_ranks_can_read_their_job(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to them as a file; the recipe has keys beside those of the objective."""
    found = []

    def launch(ranks: int, work_dir: Path) -> None:
        found.append((ranks, *jobs.read_job(work_dir)))
        raise Launched

    monkeypatch.setattr(jobs, "_launch", launch)
    with pytest.raises(Launched):
        tiny.make_sft(policy, tmp_path, backend="deepspeed", ranks=2, lora=tiny.LORA, trajectories=7)
    ((ranks, job, rows, _),) = found
    assert (ranks, len(rows)) == (2, 7)
    assert (job.name, job.objective, job.policy_dir) == ("sft", "sft", str(policy))
    assert isinstance(job.settings, SftSettings)
    wanted = tiny.sft_settings(backend="deepspeed", ranks=2, lora=tiny.LORA).model_dump()
    assert {key: value for key, value in job.settings.model_dump().items() if key in wanted} == wanted
