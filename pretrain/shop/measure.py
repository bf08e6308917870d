"""Ask a model the exercises of shops that its corpus does not hold; print how many answers are right.

    python -m pretrain.shop.measure models/reader-shop-5m
    python -m pretrain.shop.measure models/reader-shop-5m --lengths

Answers are forced: a token counts where it is the most likely one after the right tokens before it, an answer where all
of its tokens count. With `--lengths` it prints how many tokens the expert's episodes have in the default run's shop,
which needs no weights: a folder with a tokenizer is enough.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import yaml

from pretrain.conversations import Conversation
from pretrain.measure import ask, print_lengths, print_table
from pretrain.shop.corpus import episodes
from qlass.envs.webshop import DEFINITION


def fresh(catalogues: int, count: int) -> Iterator[Conversation]:
    """Yield random episodes that the corpus does not hold.

    Args:
        catalogues: how many, those of the seeds after the corpus's.
        count: episodes in each.
    """
    params = yaml.safe_load(Path("pretrain/params.yaml").read_text())["shop"]
    settings = params["corpus"]
    begin = settings["first_seed"] + settings["catalogues"]
    for catalogue in range(begin, begin + catalogues):
        yield from episodes(settings, params["seed"], catalogue, count)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--catalogues", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=100, help="in each catalogue")
    parser.add_argument("--lengths", action="store_true", help="print the tokens of 200 expert episodes instead")
    given = parser.parse_args()
    if given.lengths:
        print_lengths(given.model, DEFINITION, 200)
    else:
        print_table(ask(given.model, fresh(given.catalogues, given.episodes)))


if __name__ == "__main__":
    main()
