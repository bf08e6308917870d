"""Settings of all tests."""

import pytest
from hypothesis import settings

# Examples are the same in every run, and a busy machine is no failure.
settings.register_profile("qlass", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("qlass")


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no proxy between a test and the servers that it starts or names."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
