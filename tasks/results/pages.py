"""What is kept of the runs of a preset, as Markdown for people: a page of its own, and a short table for documents."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from qlass.evaluation import Interval
from qlass.report.headline import split_name
from qlass.report.results import BASELINE
from tasks.results.collect import OTHERS
from tasks.results.kept import EnvResults, Kept, Row, Run, Stages
from tasks.results.runs import MEASURES
from tasks.results.tables import change, interval_words, level, seed_heads, table

_WIDTH = 120
"""Characters of a line of text in a document."""
_HASH = 12
"""Characters of a hash; summary.json has all of them."""
GENERATED = (
    "**The data is generated, or chosen otherwise than that of published results**: compare these numbers with each "
    "other, not with published ones."
)


def page(kept: Kept) -> str:
    """Return `results.md`."""
    seeds = [run.seed for run in kept.runs]
    command = f"python -m tasks.publish {kept.preset} PROJECT{' ...' if len(seeds) > 1 else ''}"
    settings = "`params.yaml`" if kept.preset == "default" else f"`presets/{kept.preset}.yaml`"
    parts = [
        f"# Results of `{kept.preset}`",
        _fill(
            f"Written by `{command}` on the runs below, from their episodes; do not edit. The settings are those of "
            f"{settings}, with {_seeds(kept)}. The same numbers and more digits are in [summary.json](summary.json)."
        ),
        _runs_table(kept.runs),
        _fill(
            "The commit is that of the code when the run ended, with which all stages were up to date. Rewards, success "
            "and invalid actions are × 100. Differences are in mean outcome reward and paired: both methods on the same "
            f"tasks of the same seed. {_interval_note(kept)}"
        ),
    ]
    for its in kept.envs:
        parts += _env(kept, its)
    return "\n\n".join(parts) + "\n"


def short(kept: Kept, link: str) -> str:
    """Return the short table for a document; `link` leads from there to the page."""
    parts = []
    for its in kept.envs:
        rows = _overall(kept, its)
        commits = ", ".join(dict.fromkeys(f"`{run.commit[:7]}`" for run in kept.runs))
        over = rows[0].reward.over
        words = (
            f"{its.label}; {_seeds(kept)}, {kept.date}, commit {commits}. Mean outcome reward × 100; "
            f"{kept.confidence:.0%} intervals are over {over}."
        )
        parts += [_fill(words), _short_table(its, rows)]
    return "\n\n".join([*parts, f"[All numbers]({link})"])


def _short_table(its: EnvResults, rows: Sequence[Row]) -> str:
    """Write one row per method: every split without interval, but for the last one."""
    splits = list(dict.fromkeys(row.split for row in rows))
    cells = {(row.split, row.method): row for row in rows}
    counts = {row.split: row.tasks for row in rows}
    names = {split: split.removeprefix("test_") for split in splits}
    lines = []
    for method in its.methods:
        found = [cells[split, method.name] for split in splits]
        last = found[-1]
        lines.append(
            [
                method.title,
                *(f"{row.reward.mean:.1f}" for row in found[:-1]),
                level(last.reward),
                f"{last.success.mean:.1f}",
                change(last.minus.get(BASELINE)),
                f"{last.generated_tokens:,.0f}",
                method.note,
            ]
        )
    heads = [f"{names[split]} ({counts[split]:,})" for split in splits]
    heads += ["success %", "minus SFT, paired", "tokens / episode", "how it plays"]
    return table(["method", *heads], lines, last="---")


def _env(kept: Kept, its: EnvResults) -> list[str]:
    """Return the parts of the page about one environment."""
    rows = _overall(kept, its)
    parts = [f"## {its.env}: {its.label}", *([] if its.published else [_fill(GENERATED)])]
    parts.append("\n".join(_fill(f"* {method.title}: {method.note}", indent="  ") for method in its.methods))
    titles = {method.name: method.title for method in its.methods}
    for split in dict.fromkeys(row.split for row in rows):
        here = [row for row in rows if row.split == split]
        parts += [f"### {split_name(split).capitalize()}", _split_table(here, titles)]
        if len(kept.runs) > 1:
            parts += _each_seed(kept, [row for row in its.rows if row.split == split], titles)
    return [*parts, "### The stages before", _stages_table(its.stages)]


def _split_table(rows: Sequence[Row], titles: Mapping[str, str]) -> str:
    """Write everything about one split, of all runs together."""
    others = [other for other in OTHERS if other in titles]
    heads = ["method", "mean outcome reward", "success %", *(f"minus {titles[other]}" for other in others)]
    heads += ["tasks", "tokens / episode", "steps / episode", "invalid actions %"]
    return table(
        heads,
        (
            [
                titles[row.method],
                level(row.reward),
                level(row.success),
                *(change(row.minus.get(other)) for other in others),
                f"{row.tasks:,}",
                f"{row.generated_tokens:,.0f}",
                f"{row.env_steps:.1f}",
                f"{100 * row.invalid_action_rate:.1f}",
            ]
            for row in rows
        ),
    )


def _each_seed(kept: Kept, rows: Sequence[Row], titles: Mapping[str, str]) -> list[str]:
    """Write the tables of one split that show each seed beside all of them."""
    heads = ["method", *seed_heads(run.seed for run in kept.runs)]
    by_method: dict[str, list[Row]] = {}
    for row in rows:  # the rows of all runs are the last ones
        by_method.setdefault(row.method, []).append(row)
    parts = []
    for name, measure in MEASURES.items():
        found = {method: [_measured(row, name) for row in some] for method, some in by_method.items()}
        words = interval_words(kept.confidence, next(iter(found.values())))
        parts += [
            f"{measure.title} ({words}):",
            table(heads, ([titles[method], *map(level, some)] for method, some in found.items())),
        ]
    for other in OTHERS:
        gaps = {method: [row.minus[other] for row in some if other in row.minus] for method, some in by_method.items()}
        lines = [[titles[method], *map(change, some)] for method, some in gaps.items() if some]
        if lines:
            parts += [f"Minus {titles[other]}, in points (paired, same intervals):", table(heads, lines)]
    return parts


def _measured(row: Row, measure: str) -> Interval:
    return {"reward": row.reward, "success": row.success}[measure]


def _stages_table(stages: Sequence[Stages]) -> str:
    """Write the headline numbers of the stages before the comparison, one column per run."""

    def accuracy(one: Stages) -> str:
        return "no pairs" if one.sibling_accuracy is None else f"{one.sibling_accuracy:.1f} of {one.sibling_pairs:,}"

    numbers = {
        "expert: training tasks solved, %": lambda one: f"{one.expert_solved:.1f}",
        "SFT: loss per token at the end": lambda one: f"{one.sft_loss:.3f}",
        "exploration: mean outcome reward of sampled branches": lambda one: f"{one.exploration_reward:.1f}",
        "QNet: squared error (of always predicting the mean)": (
            lambda one: f"{one.qnet_error:.3f} ({one.qnet_mean_error:.3f})"
        ),
        "QNet: pairs of siblings in the right order, %": accuracy,
    }
    heads = ["", *(f"seed {one.seed}" for one in stages)]
    return table(heads, ([name, *map(write, stages)] for name, write in numbers.items()))


def _runs_table(runs: Sequence[Run]) -> str:
    """Write where the numbers come from."""
    heads = ["seed", "date", "commit", "params.yaml (SHA-256)", "dvc.lock (SHA-256)"]
    return table(
        heads,
        (
            [
                str(run.seed),
                run.date,
                f"`{run.commit[:_HASH]}`{' with changes' if run.dirty else ''}",
                f"`{run.params_sha256[:_HASH]}`",
                f"`{run.dvc_lock_sha256[:_HASH]}`",
            ]
            for run in runs
        ),
    )


def _interval_note(kept: Kept) -> str:
    """Say what intervals speak for."""
    level_words = f"{kept.confidence:.0%} intervals"
    if len(kept.runs) == 1:
        return f"The {level_words} are over tasks: another training may differ by more."
    return f"The {level_words} of a seed are over tasks, those of all seeds over tasks and runs."


def _seeds(kept: Kept) -> str:
    """Name the seeds."""
    seeds = [str(run.seed) for run in kept.runs]
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {', '.join(seeds)}"


def _overall(kept: Kept, its: EnvResults) -> list[Row]:
    """Return the rows of all runs together, or of the only one."""
    return [row for row in its.rows if row.seed is None or len(kept.runs) == 1]


def _fill(text: str, indent: str = "") -> str:
    """Break a paragraph into lines; `indent` begins all but the first."""
    return textwrap.fill(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
