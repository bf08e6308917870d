from tests.training.conftest import _one_thread, policy  # noqa: F401
