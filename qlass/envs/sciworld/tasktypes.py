"""The thirty types of task of scienceworld 1.2.3, how many variations each has, and how the package divides them.

The numbers are the package's (`getTaskMaxVariations`; tests/envs compares them). They stand here so that panels need
no Java, and because the simulator does not complain about a variation that does not exist: it plays a task without a
goal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec


class Start(NamedTuple):
    """What the simulator needs to start a task: name of the type, number of the variation, simplifications."""

    task: str
    variation: int
    simplifications: str


@dataclass(frozen=True, slots=True)
class TaskType:
    """One type of task.

    Attributes:
        number: of the package, topic and type.
        name: of the package.
        variations: how many there are; they are numbered from 0.
        short: an expert that teleports needs at most 12 actions.
        paper: in the lists of ETO and QLASS, which have 24 of the 30.
    """

    number: str
    name: str
    variations: int
    short: bool = False
    paper: bool = True

    @property
    def blocks(self) -> tuple[range, range, range]:
        """Return the package's train, dev and test: half, a quarter, and what is left."""
        quarter = self.variations // 4
        return range(2 * quarter), range(2 * quarter, 3 * quarter), range(3 * quarter, self.variations)


TYPES = (
    TaskType("1-1", "boil", 30),
    TaskType("1-2", "melt", 30),
    TaskType("1-3", "freeze", 30),
    TaskType("1-4", "change-the-state-of-matter-of", 30),
    TaskType("2-1", "use-thermometer", 540, short=True),
    TaskType("2-2", "measure-melting-point-known-substance", 436),
    TaskType("2-3", "measure-melting-point-unknown-substance", 300, paper=False),
    TaskType("3-1", "power-component", 20, short=True),
    TaskType("3-2", "power-component-renewable-vs-nonrenewable-energy", 20),
    TaskType("3-3", "test-conductivity", 900),
    TaskType("3-4", "test-conductivity-of-unknown-substances", 600),
    TaskType("4-1", "find-living-thing", 300, short=True),
    TaskType("4-2", "find-non-living-thing", 300, short=True),
    TaskType("4-3", "find-plant", 300, short=True),
    TaskType("4-4", "find-animal", 300, short=True),
    TaskType("5-1", "grow-plant", 126),
    TaskType("5-2", "grow-fruit", 126),
    TaskType("6-1", "chemistry-mix", 32),
    TaskType("6-2", "chemistry-mix-paint-secondary-color", 36, short=True),
    TaskType("6-3", "chemistry-mix-paint-tertiary-color", 36),
    TaskType("7-1", "lifespan-longest-lived", 125, short=True),
    TaskType("7-2", "lifespan-shortest-lived", 125, short=True),
    TaskType("7-3", "lifespan-longest-lived-then-shortest-lived", 125, short=True),
    TaskType("8-1", "identify-life-stages-1", 14),
    TaskType("8-2", "identify-life-stages-2", 10),
    TaskType("9-1", "inclined-plane-determine-angle", 168, paper=False),
    TaskType("9-2", "inclined-plane-friction-named-surfaces", 1386, paper=False),
    TaskType("9-3", "inclined-plane-friction-unnamed-surfaces", 162, paper=False),
    TaskType("10-1", "mendelian-genetics-known-plant", 120, paper=False),
    TaskType("10-2", "mendelian-genetics-unknown-plant", 480, paper=False),
)

CONTAINERS = ("open", "closed")
"""How containers are at the start."""

BY_NAME = {one.name: one for one in TYPES}
_BY_NUMBER = {one.number: one for one in TYPES}
_PREFIX = re.compile(r"task-[\dab]+-|[()]")


def type_named(name: str) -> TaskType | None:
    """Return the type of a name as the package, its older versions and ETO's lists write it; None where there is none.

    "4-4", "find-animal", "task-4-find-animal" and "task-4-(find-animal)" are one type; older "mendelian" had two l.
    """
    plain = _PREFIX.sub("", name).replace("mendellian", "mendelian")
    return _BY_NUMBER.get(name) or BY_NAME.get(plain)


def start_of(spec: TaskSpec) -> Start:
    """Return how to start a task; its key has `task`, the name of the type, `variation`, and `containers`.

    Raises:
        EnvironmentFault: there is no such task.
    """
    task, variation, containers = (spec.key.get(name) for name in ("task", "variation", "containers"))
    known = BY_NAME.get(str(task))
    numbers = range(known.variations) if known is not None else ()
    if known is None or type(variation) is not int or variation not in numbers or containers not in CONTAINERS:
        allowed = "the names of 30 types" if known is None else f"variations 0 to {known.variations - 1}"
        raise EnvironmentFault(
            f"{spec.task_id}: key={spec.key!r} is no task of ScienceWorld 1.2.3; allowed are {allowed}, and "
            f"containers {' or '.join(CONTAINERS)}. Make the panels again"
        )
    return Start(known.name, variation, simplifications(known.name, str(containers)))


def simplifications(task: str, containers: str) -> str:
    """Return what the simulator is to make easier for a type of task, in its words.

    `easy`, which ETO and QLASS ask for, opens no containers, though their prompts say that they are open; and it
    cannot be named beside another simplification, so all are named. Tasks about circuits keep the actions that connect
    things.

    Args:
        task: name of the type.
        containers: open or closed.
    """
    if containers == "closed":
        return "easy"
    names = "teleportAction,openContainers,openDoors,selfWateringFlowerPots"
    return names if "power-component" in task or "conductivity" in task else f"{names},noElectricalAction"
