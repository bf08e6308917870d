"""Ask a model the exercises of tasks that its corpus does not hold; print how many answers are right.

    python -m pretrain.sciworld.measure pretrain/data/sciworld/model
    python -m pretrain.sciworld.measure pretrain/data/sciworld/model --lengths

The tasks are those of the split `dev`. Answers are forced, as in `pretrain.measure`. With `--lengths` it prints how
many tokens the expert's episodes have, which needs no weights: a folder with a tokenizer is enough.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import yaml

from pretrain.conversations import Conversation
from pretrain.measure import ask, print_lengths, print_table
from pretrain.sciworld.corpus import tell, walk
from qlass.envs.sciworld import DEFINITION
from qlass.envs.sciworld.adapter import SciworldEnv
from qlass.seeds import derive_seed


def fresh(count: int) -> Iterator[Conversation]:
    """Yield random episodes in tasks that the corpus does not hold, with the names that they have."""
    params = yaml.safe_load(Path("pretrain/params.yaml").read_text())["sciworld"]
    settings = params["corpus"] | {"renamed": 0.0}
    env = SciworldEnv({})
    for number, spec in enumerate(islice(DEFINITION.panels({}, "dev", 0), count)):
        rng = random.Random(derive_seed(params["seed"], "measure", number))
        yield tell(walk(env, spec, settings["max_steps"], rng), settings, rng)
    env.close()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--lengths", action="store_true", help="print the tokens of the expert's episodes instead")
    given = parser.parse_args()
    if given.lengths:
        print_lengths(given.model, DEFINITION, 200)
    else:
        print_table(ask(given.model, fresh(given.episodes)))


if __name__ == "__main__":
    main()
