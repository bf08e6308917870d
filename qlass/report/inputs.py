"""What a report is made from. Every path is passed in; a file that does not exist becomes a sentence in the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from qlass.settings import Fraction, Resamples, Section


class IntervalSettings(Section):
    """How the intervals of all tables are computed."""

    bootstrap: Resamples
    """Random resamples from which each interval is read."""
    confidence: Fraction
    """Share of the resampled values that lies inside each interval."""


class ReportSettings(IntervalSettings):
    """The same, with the seed of the resampling; equal inputs and seed give equal bytes."""

    bootstrap: Resamples = 2000
    confidence: Fraction = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True)
class EnvInputs:
    """The files of one environment.

    Attributes:
        name: the environment's name, as in `TaskSpec.env`.
        label: how its numbers are labelled, for example "ALFWorld engine, generated games".
        episodes: evaluated episodes (JSON Lines of Episode) by (method, split); methods that the paper does not have are
            shown in this order, behind those that it has.
        categories: all task types, in table order; types that occur beside them follow in alphabetical order.
        panels: the panel of each split (JSON with `count` and `sha256`).
        trees: exploration trees (JSON Lines of ExplorationTree).
        labels: Q-values (Parquet, columns as QLabel).
        method_notes: a few words under a row's name, for example {"best_of_n_qnet": "N = 6, picked by the QNet"}.
        policy_loss: `loss.csv` of each policy (columns step, loss); without rows where nothing was trained.
        qnet_loss: `loss.csv` of the QNet (columns step, loss).
        qnet_loss_words: what that loss consists of.
        calibration: QNet calibration (columns bin_low, bin_high, n, mean_predicted, mean_target).
        siblings: sibling ranking (columns depth, n_pairs, pairwise_accuracy, n_groups, rank_correlation).
        metrics: `metrics.json` by stage name; shown as they are.
        published: the tasks are those of published results, so the page does not call them others.
    """

    name: str
    label: str
    episodes: Mapping[tuple[str, str], Path]
    categories: tuple[str, ...] = ()
    panels: Mapping[str, Path] = field(default_factory=dict)
    trees: Path | None = None
    labels: Path | None = None
    method_notes: Mapping[str, str] = field(default_factory=dict)
    policy_loss: Mapping[str, Path] = field(default_factory=dict)
    qnet_loss: Path | None = None
    qnet_loss_words: str = "squared error of Q-values"
    calibration: Path | None = None
    siblings: Path | None = None
    metrics: Mapping[str, Path] = field(default_factory=dict)
    published: bool = False


@dataclass(frozen=True, slots=True)
class ReportInputs:
    """Everything a report is made from.

    Attributes:
        out: folder that receives index.html, summary.json, results.csv, results.md and plots/.
        envs: the environments, in page order.
        facts: what was run, as (name, value) rows under the title, for example ("base model", "models/reader-3m").
        differences: the file about differences from the paper; the page names it and links to it; None for neither.
    """

    out: Path
    envs: tuple[EnvInputs, ...]
    facts: tuple[tuple[str, str], ...] = ()
    differences: Path | None = None
