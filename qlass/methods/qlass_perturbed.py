"""QLASS with task perturbation (Figure 9 of the paper): proposals after the first see the task in other words.

A policy that is sure proposes one action again and again, and the QNet has nothing to choose from. Each further proposal of
a step is drawn from a history in which a paraphrase stands wherever the task stands, the same one through the episode. The
QNet values every proposal in the original history, which also goes on with the executed action.

The first proposal is that of `qlass`, with the same seed, so that the two rows differ by the paraphrases alone.

*Differs from the paper*, where GPT-3.5-Turbo paraphrases: rules do, unless an endpoint is named (`qlass.perturbation`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle, islice

from qlass.errors import SettingsError
from qlass.methods.base import Assignment, DrawnSettings, Method, Play
from qlass.perturbation import rules
from qlass.perturbation.endpoint import Endpoint, desk
from qlass.policies.base import Proposed
from qlass.records import Episode, History, Proposal
from qlass.search.branch import Sampling, spent
from qlass.search.driver import Routine
from qlass.seeds import derive_seed
from qlass.settings import Replies

Partition = Callable[[str], tuple[str, str, str]]


class PerturbedSettings(DrawnSettings):
    """QLASS, with the task in other words for every reply of a step but the first."""

    proposals: Replies
    """Replies per step, one of which is executed (M); every one after the first has a paraphrase of its own."""
    paraphraser: Endpoint | None
    """An OpenAI-compatible chat endpoint that says the task in other words, whose tokens count as those of replies do;
    null: rules do."""

    def api_keys(self) -> dict[str, str]:
        """Return the variable of the paraphraser's API key, if one is asked."""
        return {} if self.paraphraser is None else {"paraphraser": self.paraphraser.api_key_env}


def play(given: Assignment, settings: PerturbedSettings) -> Routine[list[Episode]]:
    """Play one trajectory; a single distinct proposal is executed without asking for its value."""
    partition = given.definition.partition_task
    if partition is None:
        raise SettingsError(
            f"environment {given.definition.name}: its definition does not say where the task stands in an observation "
            "(partition_task); allowed: environments that say it; play another method"
        )
    (one,) = given.begin()
    texts = yield from _paraphrases(given, one, partition(one.observation)[1], settings)
    sampling = given.sampling(settings.temperature)
    while not one.cursor.ended:
        histories = [one.cursor.history, *(reworded(one.cursor.history, partition, text) for text in texts)]
        yield from one.execute_best((yield from _draw(one, sampling, histories)))
    return [given.episode(one)]


def _paraphrases(given: Assignment, one: Play, task: str, settings: PerturbedSettings) -> Routine[list[str]]:
    """Return the task in other words for each draw after the first: different ones, as far as there are any."""
    count, seed = settings.proposals - 1, derive_seed(given.seed, "paraphrases")
    if settings.paraphraser is None:
        texts = rules.paraphrases(task, count, seed)
    else:
        asked = desk(settings.paraphraser)
        order = asked.order(task, count, seed)
        yield []  # all episodes that begin now order first; then one call asks for all of it
        found = asked.collect(order)
        one.cost += found.cost
        texts = found.texts
    return list(islice(cycle(texts or (task,)), count))


def reworded(history: History, partition: Partition, text: str) -> History:
    """Return a history with a text in place of the task, in every observation that says the task.

    Args:
        history: as the agent has it; replies stay as they are, also where they repeat the task.
        partition: see `EnvDefinition.partition_task`.
        text: the task in other words.
    """
    messages = []
    for message in history:
        if message.role == "user":
            before, task, after = partition(message.content)
            message = message._replace(content=f"{before}{text if task else ''}{after}")  # noqa: PLW2901
        messages.append(message)
    return tuple(messages)


def _draw(one: Play, sampling: Sampling, histories: Sequence[History]) -> Routine[list[Proposal]]:
    """Draw one reply to each history, all in one batch, with the seeds of the draws of `qlass`."""
    answers: list[Proposed] = yield [
        sampling.request(replace(one.cursor, history=history), "guided", (draw,))
        for draw, history in enumerate(histories)
    ]
    for answer in answers:
        one.cost += spent(answer.proposals, answer.prompt_tokens)
    return [proposal for answer in answers for proposal in answer.proposals]


def note(settings: PerturbedSettings) -> dict[str, str]:
    """Describe the row."""
    by = "by rules" if settings.paraphraser is None else f"by {settings.paraphraser.model}"
    return {"": f"M = {settings.proposals}, {settings.in_words()}; all but the first see the task paraphrased {by}"}


METHOD = Method(
    title="QLASS (task perturbation)",
    settings=PerturbedSettings,
    play=play,
    note=note,
    seeded_as="qlass",
    needs_task=True,
)
