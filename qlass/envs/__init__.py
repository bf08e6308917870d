"""Environments: one folder each, and `core`, what they share. A package can offer more (`qlass.envs.core.registry`)."""

from qlass.envs.core.registry import GROUP, available, get_definition, make_env

__all__ = ["GROUP", "available", "get_definition", "make_env"]
