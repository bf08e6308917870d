"""One expert episode: played, and verified by replay."""

from __future__ import annotations

from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.errors import ReplayDivergence
from qlass.records import Step, TaskSpec, Trajectory
from qlass.seeds import derive_seed


def play(env: TextEnv, definition: EnvDefinition, spec: TaskSpec, *, seed: int, thoughts: bool) -> Trajectory:
    """Let the expert play one task to its end; without `thoughts`, its actions alone are kept."""
    expert = definition.make_expert(spec, derive_seed(seed, "expert", spec.task_id))
    first, info = env.reset(spec)
    observation, steps = first, list[Step]()
    while not steps or not (steps[-1].terminated or steps[-1].truncated):
        thought, action = expert.act(observation)
        observation, reward, terminated, truncated, info = env.step(action)
        thought = thought if thoughts else ""
        steps.append(Step(thought, action, observation, reward, terminated, truncated, info["valid"]))
    return Trajectory(spec.task_id, "expert", first, tuple(steps), steps[-1].reward, info["success"])


def verify(env: TextEnv, spec: TaskSpec, trajectory: Trajectory) -> None:
    """Replay a trajectory after a fresh reset.

    Raises:
        ReplayDivergence: an observation or a reward differs from the recorded one.
    """
    observation, _ = env.reset(spec)
    found, expected = (observation, 0.0), (trajectory.observation, 0.0)
    for number, step in enumerate((None, *trajectory.steps)):
        if step is not None:
            observation, reward, *_ = env.step(step.action)
            found, expected = (observation, reward), (step.observation, step.reward)
        if found != expected:
            raise ReplayDivergence(
                f"{spec.task_id}: replay of step {number} gives {found}, recorded was {expected}; the environment is "
                "not deterministic (run `qlass.envs.core.checker.check_env` on it)"
            )
