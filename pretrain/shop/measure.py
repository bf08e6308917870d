"""Ask a model the exercises of shops that its corpus does not hold; print how many answers are right.

    python -m pretrain.shop.measure models/reader-shop-5m
    python -m pretrain.shop.measure models/reader-shop-5m --lengths

Answers are forced: a token counts where it is the most likely one after the right tokens before it, an answer where all
of its tokens count. With `--lengths` it prints how many tokens the expert's episodes have in the default run's shop,
which needs no weights: a folder with a tokenizer is enough.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from itertools import islice
from pathlib import Path

import yaml

from pretrain.measure import load_reader, print_table, read
from pretrain.shop.corpus import episodes
from qlass.envs.webshop import DEFINITION
from qlass.envs.webshop.adapter import normalise_action
from qlass.models.folders import load_tokenizer
from qlass.prompts import load_chat_format, render_reply
from qlass.records import Message, TaskSpec


def measure(folder: Path, catalogues: int, count: int) -> dict[str, tuple[int, int]]:
    """Return (right, asked) by kind of exercise; those that are answered with yes, no or none get rows of their own.

    Args:
        folder: of the model.
        catalogues: how many, those of the seeds after the corpus's.
        count: random episodes in each.
    """
    params = yaml.safe_load(Path("pretrain/params.yaml").read_text())["shop"]
    settings = params["corpus"]
    model, chat = load_reader(folder)
    begin = settings["first_seed"] + settings["catalogues"]
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for catalogue in range(begin, begin + catalogues):
        for messages in episodes(settings, params["seed"], catalogue, count):
            reading = read(model, chat, messages)
            for number, kind in messages.kinds.items():
                answer = messages[number][1]
                row = f"{kind}: {answer}" if answer in {"yes", "no", "none"} else kind
                found[row][0] += reading.right(number)
                found[row][1] += 1
    return {kind: (right, asked) for kind, (right, asked) in sorted(found.items())}


def expert_episode(spec: TaskSpec, max_steps: int) -> tuple[Message, ...]:
    """Play one of the expert's episodes in the default shop, actions in their normal form."""
    env, expert = DEFINITION.make(_options()), DEFINITION.make_expert(spec, 0)
    observation, _ = env.reset(spec)
    messages = [Message("system", DEFINITION.instruction), Message("user", observation)]
    for _ in range(max_steps):
        thought, action = expert.act(observation)
        messages.append(Message("assistant", render_reply(thought, normalise_action(action))))
        observation, _, terminated, _, _ = env.step(action)
        if terminated:
            break
        messages.append(Message("user", observation))
    return tuple(messages)


def _options() -> dict[str, object]:
    options: dict[str, object] = yaml.safe_load(Path("params.yaml").read_text())["envs"]["webshop"]["options"]
    return options


def print_lengths(folder: Path, tasks: int) -> None:
    """Print the tokens of the expert's episodes, by split."""
    chat = load_chat_format("qlass", load_tokenizer(folder))
    max_steps = yaml.safe_load(Path("params.yaml").read_text())["envs"]["webshop"]["max_steps"]
    print("| split | median | 95th percentile | longest |\n|---|---|---|---|")
    for split in ("train", "test_seen", "test_unseen"):
        specs = islice(DEFINITION.panels(_options(), split, 0), tasks)
        lengths = [sum(map(len, chat.segments(expert_episode(spec, max_steps)))) for spec in specs]
        print(
            f"| {split} | {statistics.median(lengths):.0f} | {statistics.quantiles(lengths, n=20)[-1]:.0f} | "
            f"{max(lengths)} |"
        )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--catalogues", type=int, default=2)
    parser.add_argument("--episodes", type=int, default=100, help="in each catalogue")
    parser.add_argument("--lengths", action="store_true", help="print the tokens of 200 expert episodes instead")
    given = parser.parse_args()
    if given.lengths:
        print_lengths(given.model, 200)
    else:
        print_table(measure(given.model, given.catalogues, given.episodes))


if __name__ == "__main__":
    main()
