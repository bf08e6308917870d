"""The corridor of the search tests, with its engines and policies that remember what was asked of them."""

from tests.search.conftest import corridor, new_env, run, specs, wanderer  # noqa: F401
