"""The numbers of the page as data: summary.json, results.csv, results.md and the series of the plots."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qlass.evaluation.bootstrap import Interval
from qlass.report.headline import INTERVALS_SAY, signed, span
from qlass.report.inputs import ReportInputs
from qlass.report.paper import LABEL, REPORTED, method_name
from qlass.report.results import Result
from qlass.report.sections import EnvPage

COLUMNS = (
    "env",
    "split",
    "method",
    "mean_reward",
    "success_rate",
    "ci_low",
    "ci_high",
    "paired_vs_sft_mean",
    "paired_vs_sft_ci_low",
    "paired_vs_sft_ci_high",
    "n_tasks",
    "n_seeds",
    "generated_tokens_per_episode",
    "env_steps_per_episode",
)
"""Columns of summary.json and results.csv. Rewards, rates and differences are x 100.

Intervals are over tasks; the one without a name is of mean_reward.
"""


BUDGET_COLUMNS = ("env", "split", "method", "generated_tokens", "mean_reward", "reward_low", "reward_high")
CATEGORY_COLUMNS = ("env", "split", "category", "method", "n_tasks", "mean_reward")
BRANCH_COLUMNS = ("env", "actions", "rewarded", "unrewarded")


def summary_row(result: Result) -> dict[str, Any]:
    """Return one row of the summary; numbers are rounded to four decimals."""
    versus = result.versus_sft
    values = (
        result.env,
        result.split,
        result.method,
        result.reward.mean,
        result.success.mean,
        result.reward.low,
        result.reward.high,
        versus.mean if versus else None,
        versus.low if versus else None,
        versus.high if versus else None,
        result.summary["n_tasks"],
        result.summary["n_seeds"],
        result.tokens.mean,
        result.summary["env_steps_per_episode"],
    )
    rounded = (round(value, 4) if isinstance(value, float) else value for value in values)
    return dict(zip(COLUMNS, rounded, strict=True))


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Return summary.json: the rows, and the numbers once more by name, because DVC compares only named ones."""
    rows = [summary_row(result) for result in results]
    metrics: dict[str, Any] = {}
    for row in rows:
        numbers = {key: row[key] for key in ("mean_reward", "success_rate", "generated_tokens_per_episode")}
        metrics.setdefault(row["env"], {}).setdefault(row["split"], {})[row["method"]] = numbers
    return {"rows": rows, "metrics": metrics}


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as CSV; None is an empty cell."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def results_markdown(inputs: ReportInputs, results: Sequence[Result], pages: Sequence[EnvPage], level: str) -> str:
    """Return results.md: the headline, one table per environment, and what failed."""
    lines = ["# Results", ""]
    for env, page in zip(inputs.envs, pages, strict=True):
        rows = [result for result in results if result.env == env.name]
        lines += [f"## {_cell(env.label)}", "", _cell(page.headline), "", *_markdown_table(rows, level), ""]
        if page.failures:
            lines += ["Tasks that could not be played:", "", *(f"* {_cell(one)}" for one in page.failures), ""]
    lines += [f"{INTERVALS_SAY} Differences are paired: both methods on the same tasks.", ""]
    lines.append(f"Paper: {LABEL}. Its Best-of-N keeps the trajectory with the highest true reward.")
    return "\n".join(lines) + "\n"


def _markdown_table(results: Sequence[Result], level: str) -> list[str]:
    """Return the lines of one table."""
    lines = [
        f"| split | method | mean reward ({level} interval over tasks) | success % | minus SFT, paired "
        "| tasks × seeds | tokens / episode | paper |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        reported = REPORTED.get((result.env, result.split, result.method))
        cells = (
            result.split,
            _cell(method_name(result.method)),
            f"{result.reward.mean:.1f} ({result.reward.low:.1f}–{result.reward.high:.1f})",
            f"{result.success.mean:.1f}",
            _versus(result.versus_sft),
            f"{result.summary['n_tasks']} × {result.summary['n_seeds']}",
            f"{result.tokens.mean:,.0f}",
            "" if reported is None else f"{reported:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _versus(interval: Interval | None) -> str:
    """Write a paired difference."""
    return "" if interval is None else f"{signed(interval.mean)} ({span(interval)})"


def _cell(text: str) -> str:
    """Escape what would break a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def budget_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return the series of the plot of mean reward against tokens."""
    return [
        {
            "env": result.env,
            "split": result.split,
            "method": result.method,
            "generated_tokens": round(result.tokens.mean, 4),
            "mean_reward": round(result.reward.mean, 4),
            "reward_low": round(result.reward.low, 4),
            "reward_high": round(result.reward.high, 4),
        }
        for result in results
    ]


def category_rows(pages: Iterable[EnvPage]) -> list[dict[str, Any]]:
    """Return the per-category table of every split."""
    return [
        {
            "env": page.name,
            "split": split,
            "category": category,
            "method": method,
            "n_tasks": n_tasks,
            "mean_reward": round(mean, 4),
        }
        for page in pages
        for split, rows in page.categories
        for category, n_tasks, means in rows
        for method, mean in means.items()
    ]


def branch_rows(pages: Iterable[EnvPage]) -> list[dict[str, Any]]:
    """Return the series of the plot of explored branches."""
    return [
        {"env": page.name, "actions": actions, "rewarded": rewarded, "unrewarded": unrewarded}
        for page in pages
        if page.exploration
        for actions, (rewarded, unrewarded) in sorted(page.exploration.statistics.lengths.items())
    ]
