"""From finished runs to what is kept of them; everything about the methods is computed anew from the episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

from qlass.envs import get_definition
from qlass.evaluation import interval_over_runs, paired_differences
from qlass.evaluation.metrics import PERCENT
from qlass.jsonl import read_json
from qlass.report import ReportSettings
from qlass.report.paper import method_name
from qlass.report.results import BASELINE, Groups, difference, group, methods_of, summarise_env
from qlass.seeds import derive_seed
from tasks.project import paths, settings
from tasks.results.kept import EnvResults, Kept, Method, Row, Stages, rounded
from tasks.results.provenance import check_complete, run_of
from tasks.results.runs import MEASURES, episodes_of
from tasks.stages.report import notes

OTHERS = (BASELINE, "best_of_n_qnet")
"""What every method is compared with."""


def collect(preset: str, projects: Mapping[int, Path]) -> Kept:
    """Return what is kept of the runs of a preset.

    Args:
        preset: its name.
        projects: by `base.seed`; their settings are those of the preset.

    Raises:
        DataError: a run is not complete or out of date, nobody knows its commit, or a file is corrupt.
    """
    for project in projects.values():
        check_complete(project)
    runs = tuple(run_of(seed, project) for seed, project in projects.items())
    given = {seed: settings.load_all(project / paths.PARAMS) for seed, project in projects.items()}
    one = next(iter(given.values()))
    envs = tuple(_env(env, projects, given) for env in one.run.envs)
    date = max(run.date for run in runs)
    return rounded(Kept(preset, date, one.report.confidence, one.report.bootstrap, runs, envs))


def _env(env: str, projects: Mapping[int, Path], given: Mapping[int, settings.Settings]) -> EnvResults:
    """Return the results on one environment."""
    groups = [group(episodes_of(project, env, given[seed])) for seed, project in projects.items()]
    its = next(iter(given.values())).on(env)
    methods = methods_of(groups[0])
    words = notes(its.run, its.methods, methods)
    rows = [list(_rows_of(env, its_groups, given[seed])) for seed, its_groups in zip(projects, groups, strict=True)]
    if len(rows) > 1:
        rows.append(list(_rows_of_all(rows, groups, its)))
    definition, options = get_definition(env), its.envs[env].options
    return EnvResults(
        env=env,
        label=definition.label_of(options),
        published=definition.published(options),
        methods=tuple(Method(name, method_name(name), words[name]) for name in methods),
        stages=tuple(_stages_of(seed, project, env) for seed, project in projects.items()),
        rows=tuple(row for some in rows for row in some),
    )


def _rows_of(env: str, groups: Groups, given: settings.Settings) -> Iterator[Row]:
    """Yield the rows of one run; its intervals are those of its report."""
    report = ReportSettings(**given.report.model_dump(), seed=derive_seed(given.base.seed, "report"))
    for result in summarise_env(env, groups, report):
        gaps = {
            other: difference(env, result.split, result.method, other, groups, report)
            for other in OTHERS
            if other != result.method
        }
        yield Row(
            split=result.split,
            method=result.method,
            seed=given.base.seed,
            tasks=result.summary["n_tasks"],
            reward=result.reward,
            success=result.success,
            minus={other: interval for other, interval in gaps.items() if interval is not None},
            generated_tokens=result.summary["generated_tokens_per_episode"],
            env_steps=result.summary["env_steps_per_episode"],
            invalid_action_rate=result.summary["invalid_action_rate"],
        )


def _rows_of_all(rows: Sequence[Sequence[Row]], groups: Sequence[Groups], given: settings.Settings) -> Iterator[Row]:
    """Yield the rows of all runs together; `rows` has those of each run, in the same order."""
    interval = partial(
        interval_over_runs, resamples=given.report.bootstrap, confidence=given.report.confidence, seed=0
    )
    values = {
        name: [{key: measure.by_task(episodes) for key, episodes in its.items()} for its in groups]
        for name, measure in MEASURES.items()
    }
    for same in zip(*rows, strict=True):
        split, method = same[0].split, same[0].method
        reward, success = ([its[split, method] for its in values[name]] for name in ("reward", "success"))
        yield Row(
            split=split,
            method=method,
            seed=None,
            tasks=len(set().union(*reward)),
            reward=interval(reward),
            success=interval(success),
            minus={
                other: interval(
                    [paired_differences(its[split, method], its[split, other]) for its in values["reward"]]
                )
                for other in same[0].minus
            },
            generated_tokens=fmean(row.generated_tokens for row in same),
            env_steps=fmean(row.env_steps for row in same),
            invalid_action_rate=fmean(row.invalid_action_rate for row in same),
        )


def _stages_of(seed: int, project: Path, env: str) -> Stages:
    """Read the headline numbers of the stages before the comparison."""
    policy, explore, qnet = (
        read_json(project / paths.metrics(stage, env, name))
        for stage, name in (("policy", settings.SFT), ("explore", ""), ("qnet", ""))
    )
    accuracy = qnet["pairwise_accuracy"]
    return Stages(
        seed=seed,
        expert_solved=read_json(project / paths.expert_stats(env))["success_rate"],
        sft_loss=policy["loss_last"],
        exploration_reward=explore["sampled_mean_reward"],
        qnet_error=qnet["mse"],
        qnet_mean_error=qnet["baseline_mse"],
        sibling_accuracy=None if accuracy is None else PERCENT * accuracy,
        sibling_pairs=qnet["pairwise_pairs"],
    )
