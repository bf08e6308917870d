"""Settings of all tests."""

from hypothesis import settings

# Examples are the same in every run, and a busy machine is no failure.
settings.register_profile("qlass", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("qlass")
