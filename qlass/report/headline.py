"""The sentences at the top of the page, made from the numbers; they say so when QLASS does not win."""

from __future__ import annotations

from collections.abc import Sequence

from qlass.evaluation.bootstrap import Interval
from qlass.report.inputs import ReportSettings
from qlass.report.paper import family, method_name
from qlass.report.results import OURS, POOLED, Failure, Groups, Result, difference, headline_split

SPLIT_NAMES = {"test_seen": "seen test tasks", "test_unseen": "unseen test tasks", POOLED: "all test tasks"}

INTERVALS_SAY = "Intervals are over tasks: another training may differ by more."


def split_name(split: str) -> str:
    """Return the words for a split; other splits print as they are."""
    return SPLIT_NAMES.get(split, split)


def signed(value: float) -> str:
    """Write a difference with its sign and one decimal; the minus is a true minus."""
    text = f"{value:+.1f}"
    return text.replace("-", "\N{MINUS SIGN}") if text not in ("-0.0", "+0.0") else "0.0"


def span(interval: Interval) -> str:
    """Write the ends of an interval of differences."""
    return f"{signed(interval.low)} to {signed(interval.high)}"


def verdict(interval: Interval, other: str, confidence: float) -> str:
    """Say how QLASS stands to another method, as strong as the interval allows."""
    name, size = method_name(other), f"{abs(interval.mean):.1f} points"
    paired = f"paired {confidence:.0%} interval over {interval.over} {span(interval)}"
    if interval.low > 0:
        return f"{size} above {name} ({paired})"
    if interval.high < 0:
        return f"{size} below {name} ({paired})"
    return f"not distinguishable from {name} (difference {signed(interval.mean)}, {paired})"


def headline(label: str, results: Sequence[Result], groups: Groups, settings: ReportSettings) -> tuple[str, str]:
    """Return the headline of one environment, and further sentences about Best-of-N, variants and the best method."""
    if not results:
        return f"Nothing has been evaluated on {label} yet.", ""
    split = headline_split(groups)
    here = {result.method: result for result in results if result.split == split}
    best = max(here.values(), key=lambda result: (result.reward.mean, result.method))
    if OURS not in here:
        return (
            f"QLASS has not been evaluated on {label} ({split_name(split)}); the best of the other methods is "
            f"{method_name(best.method)} with {best.reward.mean:.1f}.",
            "",
        )
    ours = here[OURS]
    first = (
        f"On {label}, QLASS scores {ours.reward.mean:.1f} on {split_name(split)} (n = {ours.summary['n_tasks']}; "
        f"{settings.confidence:.0%} interval over {ours.reward.over} {ours.reward.low:.1f} to {ours.reward.high:.1f})"
    )
    sft = ours.versus_sft
    if sft is None:
        return f"{first}; without SFT on the same tasks, there is nothing to compare it with.", ""
    return f"{first}: {verdict(sft, 'sft', settings.confidence)}.", _second(here, best, groups, settings, split)


def _second(here: dict[str, Result], best: Result, groups: Groups, settings: ReportSettings, split: str) -> str:
    """Compare with Best-of-N at its cost, say how variants of QLASS do, and name the best method where it is another one."""
    ours, sentences = here[OURS], []
    if "best_of_n" in here:
        other = here["best_of_n"]
        interval = difference(ours.env, split, OURS, "best_of_n", groups, settings)
        if interval is not None:
            sentences.append(
                f"QLASS is {verdict(interval, 'best_of_n', settings.confidence)}, {_cost_ratio(ours, other)}."
            )
    for other in here.values():
        if family(other.method) == OURS != other.method and other.versus_sft is not None:
            standing = verdict(other.versus_sft, "sft", settings.confidence)
            sentences.append(f"{method_name(other.method)} scores {other.reward.mean:.1f}, {standing}.")
    if best.reward.mean > ours.reward.mean and best.method not in ("best_of_n", "sft"):
        sentences.append(f"The highest mean here is {method_name(best.method)} with {best.reward.mean:.1f}.")
    return " ".join(sentences)


def failed_tasks(failed: Sequence[Failure]) -> str:
    """Say how many tasks could not be played; empty where all were."""
    if not failed:
        return ""
    count = f"{len(failed)} task{'s' if len(failed) > 1 else ''}"
    return f"The environment could not play {count} to the end, which counts as not solved; the reasons are under Results."


def failure(one: Failure) -> str:
    """Say which task could not be played, by which methods, and why."""
    names = ", ".join(map(method_name, one.methods))
    return f"{one.task_id} ({split_name(one.split)}) failed and counts as not solved by {names}: {one.reason}"


def _cost_ratio(ours: Result, other: Result) -> str:
    """Say how the generated tokens compare."""
    if not other.tokens.mean or not ours.tokens.mean:
        return "with no tokens counted"
    ratio = ours.tokens.mean / other.tokens.mean
    if 0.95 < ratio < 1.05:
        return "with about as many generated tokens"
    share = f"{ratio:.0%} of" if ratio < 1 else f"{ratio:.1f} times"
    return f"with {share} its generated tokens"
