"""A second engine for ALFWorld's games, in plain Python: no planner, no C library, no cache on disk.

It executes the same three texts as TextWorld (the PDDL domain, the game's PDDL problem, the text grammar), and answers
with the same characters; `tests/envs/test_native.py` compares it with TextWorld step by step.

`pddl.py` reads domain and problem, `facts.py` numbers facts, `rules.py` sorts conditions by when they can be decided,
`world.py` finds and applies operators, `grammar.py` words what players read, `engine.py` plays.
"""

from qlass.envs.alfworld.native.engine import NativeEngine

__all__ = ["NativeEngine"]
