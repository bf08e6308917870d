from tests.training.conftest import policy  # noqa: F401
