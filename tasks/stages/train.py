"""Stage `train`: a policy of the comparison, made by the recipe of its name."""

from __future__ import annotations

from pathlib import Path

from qlass.jsonl import read_records, write_json
from qlass.recipes.recipe import Ingredients, get_recipe
from qlass.records import Trajectory
from qlass.seeds import derive_seed
from tasks.experiments import curves
from tasks.project import paths, preflight
from tasks.running.runner import StageJob, run


def main(job: StageJob) -> None:
    """Write policy, loss curve and metrics."""
    preflight.check()
    env, name = job.cell.items.values()
    base = job.settings.base
    with job.work_folder() as folder:
        given = Ingredients(
            name=name,
            base=paths.BASE_POLICY,
            expert=lambda: read_records(paths.trajectories(env), Trajectory),
            instruction=paths.instruction(env).read_text(encoding="utf-8"),
            chat_format=base.chat_format,
            max_length=base.max_length,
            max_new_tokens=base.max_new_tokens,
            seed=derive_seed(base.seed, name, env),
            device=base.device,
            out_dir=paths.policy(env, name),
            work_dir=folder,
        )
        result = get_recipe(name).make(given, job.settings.recipes[name])
    curves.write_csv(paths.loss("policy", env, name), curves.LOSS, result.curve)
    write_json(paths.metrics("policy", env, name), result.metrics)
    curves.log_curve(job.tracker, result.curve)


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
