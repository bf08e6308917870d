from pathlib import Path

import pytest
import torch

from tests.training import tiny


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random policy folder."""
    return tiny.save_policy(tmp_path_factory.mktemp("base") / "policy")
