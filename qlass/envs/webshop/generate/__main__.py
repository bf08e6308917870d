"""Write a generated catalogue as upstream's three files and print its statistics as JSON.

python -m qlass.envs.webshop.generate --size 1000 --seed 0 OUT
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from qlass.envs.webshop.catalogue import Catalogue
from qlass.envs.webshop.generate import Generated, generate
from qlass.envs.webshop.generate.difficulty import describe, measure, solutions
from qlass.envs.webshop.generate.vocabulary import nouns
from qlass.envs.webshop.goals import human_goals, synthetic_goals
from qlass.envs.webshop.nouns import lexicon
from qlass.errors import QlassError

PER_PRODUCT = 3
"""Synthetic goals of one product; all combinations of options would let one product flood the set."""


def statistics(generated: Generated, n_goals: int) -> dict[str, Any]:
    """Return what a catalogue is like and how hard its goals are, the first `n_goals` of each kind."""
    catalogue = Catalogue.of(generated.items(), generated.instructions(), generated.human(), seed=generated.seed)
    extractor = lexicon(nouns())
    families = {product.family for product in generated.products}
    found: dict[str, Any] = {
        "name": "webshop-generated",
        "size": generated.size,
        "seed": generated.seed,
        "families": len(families),
        "types": len({product.kind.label for product in generated.products}),
        "catalogue": describe(catalogue),
    }
    for kind, goals in (
        ("human", human_goals(catalogue)),
        ("synthetic", synthetic_goals(catalogue, per_product=PER_PRODUCT)),
    ):
        if goals:
            measured = {"all_goals": len(goals)} | solutions(catalogue, goals[:n_goals], extractor)
            found[kind] = measured | measure(catalogue, goals[:n_goals], extractor)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code; errors are one line each."""
    parser = argparse.ArgumentParser(prog="python -m qlass.envs.webshop.generate", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the three files")
    parser.add_argument("--size", type=int, default=1000, help="products, 1 to 100000 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    parser.add_argument("--goals", type=int, default=500, help="goals of each kind to measure (default: %(default)s)")
    settings = parser.parse_args(arguments)
    try:
        generated = generate(settings.size, settings.seed)
        generated.write(settings.out)
        print(json.dumps(statistics(generated, settings.goals), indent=2))
    except QlassError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
