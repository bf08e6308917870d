"""`check_env` passes what keeps the contract, and names the rule that is broken."""

import itertools

import pytest

from qlass.envs import get_definition
from qlass.envs.core.base import TextEnv
from qlass.envs.core.checker import CHECKS, CheckFailed, check_env
from qlass.errors import DataError, EnvironmentFault, SettingsError
from qlass.records import TaskSpec
from tests.envs.conftest import Counter as Toy


def test_the_toy_passes(toy):
    assert check_env(toy(), {}) == tuple(CHECKS)


@pytest.mark.parametrize("split", ["train", "dev", "test_seen", "test_unseen"])
def test_corridor_passes(split):
    assert check_env(get_definition("corridor"), {"length": 5, "rooms": 3}, split=split) == tuple(CHECKS)


@pytest.mark.alfworld
def test_alfworld_passes(tmp_path):
    pytest.importorskip("alfworld")
    options = {"cache": str(tmp_path), "admissible": True}
    assert check_env(get_definition("alfworld"), options, n_tasks=2) == tuple(CHECKS)


def returning(result):
    """Return a `step` that answers "up" with `result(self)`."""
    return lambda self, action: result(self)


counter = itertools.count()


def numbered_reset(self, spec, *, seed=0):
    return f"Hello for the {next(counter)}th time.", self.info()


def forgetful_restore(self, snapshot):
    self.count = 0


def leaky_step(original):
    # Remembers, over a restore, what happened on the other branch.
    def step(self, action):
        self.total = getattr(self, "total", 0) + 1
        observation, *rest = original(self, action)
        return f"{observation} after {self.total} actions", *rest

    return step


def understanding_step(original):
    def step(self, action):
        return original(self, action if action in ("up", "down") else "up")

    return step


def raising_step(original):
    def step(self, action):
        if action not in ("up", "down"):
            raise KeyError(action)
        return original(self, action)

    return step


def refusing_step(original):
    def step(self, action):
        return original(self, "what" if action == "down" else action)

    return step


def half_paid_step(original):
    def step(self, action):
        observation, reward, terminated, truncated, info = original(self, action)
        return observation, reward, terminated, truncated, info | {"outcome": reward or 0.5 * (self.count > 1)}

    return step


def close_once(self):
    if getattr(self, "closed", False):
        raise RuntimeError("already closed")
    self.closed = True


class Lazy:
    def __init__(self, spec, seed):
        pass

    def act(self, observation):
        return "", "down"


def drawn_tasks(options, split, seed):
    return (TaskSpec(f"toy/{split}/{next(counter)}", "toy", split, "count", {"goal": 3, "n": i}) for i in range(9))


def foreign_tasks(options, split, seed):
    return (TaskSpec(f"toy/{split}/{i}", "toy", split, "jump", {"goal": 3, "n": i}) for i in range(9))


def object_tasks(options, split, seed):
    return (TaskSpec(f"toy/{split}/{i}", "toy", split, "count", {"goal": (3, i)}) for i in range(9))


BROKEN = {
    "panel differs each time": ("panel", {"panels": drawn_tasks}, "twice gives different tasks"),
    "category not declared": ("panel", {"panels": foreign_tasks}, "category 'jump' not declared"),
    "key is no JSON": ("panel", {"panels": object_tasks}, "is not plain JSON"),
    "reset differs": ("reset_determinism", {"reset": numbered_reset}, "a second reset differs from the first"),
    "reset returns a text": ("reset_determinism", {"reset": lambda self, spec, seed=0: "Hello."}, "reset returned 'Hello.'"),
    "reset says nothing": ("reset_determinism", {"reset": lambda self, spec, seed=0: ("", self.info())}, "observation=''"),
    "reset is not valid": ("reset_determinism", {"reset": lambda self, spec, seed=0: ("o", self.info(valid=False))}, "must be True"),
    "reset is a success": ("reset_determinism", {"reset": lambda self, spec, seed=0: ("o", self.info(success=True))}, "before the end"),
    "reset raises": ("reset_determinism", {"reset": lambda self, spec: ("o", {})}, "raised TypeError"),
    "info is empty": ("reset_determinism", {"info": lambda self, **_: {}}, r"lacks \['admissible_actions', 'outcome', 'success', 'valid'\]"),
    "info is None": ("reset_determinism", {"info": lambda self, **_: None}, "lacks"),
    "a 4-tuple": ("step_contract", {"step": returning(lambda self: ("o", 0.0, False, self.info()))}, "expected a 5-tuple"),
    "observation is bytes": ("step_contract", {"step": returning(lambda self: (b"o", 0.0, False, False, self.info()))}, "expected a text"),
    "reward is an int": ("step_contract", {"step": returning(lambda self: ("o", 1, True, False, self.info()))}, "reward=1, expected a float"),
    "reward above 1": ("step_contract", {"step": returning(lambda self: ("o", 2.0, True, False, self.info()))}, r"reward=2\.0"),
    "reward is NaN": ("step_contract", {"step": returning(lambda self: ("o", float("nan"), True, False, self.info()))}, "reward=nan"),
    "reward before the end": ("step_contract", {"step": returning(lambda self: ("o", 0.1, False, False, self.info()))}, "before the end"),
    "terminated is an int": ("step_contract", {"step": returning(lambda self: ("o", 1.0, 1, False, self.info()))}, "terminated=1"),
    "both ended": ("step_contract", {"step": returning(lambda self: ("o", 1.0, True, True, self.info()))}, "both terminated and truncated"),
    "success too early": ("step_contract", {"step": returning(lambda self: ("o", 0.0, False, False, self.info(success=True)))}, "'success'"),
    "outcome is no float": ("reset_determinism", {"reset": lambda self, spec, seed=0: ("o", self.info(outcome=0))}, r"info\['outcome'\]=0, expected a float"),
    "outcome is too high": ("step_contract", {"step": returning(lambda self: ("o", 0.0, False, False, self.info(outcome=1.5)))}, r"info\['outcome'\]=1.5"),
    "outcome is not the reward": ("step_contract", {"step": returning(lambda self: ("o", 1.0, True, False, self.info(outcome=0.5)))}, r"info\['outcome'\]=0.5 at the end, but the reward is 1.0"),
    "a truncated end pays something else": ("step_contract", {"step": returning(lambda self: ("o", 0.0, False, True, self.info(outcome=0.5)))}, r"info\['outcome'\]=0.5 at the end, but the reward is 0.0"),
    "the expert fails": ("step_contract", {"make_expert": Lazy}, "earned no reward in 50 steps"),
    "an unknown action raises": ("invalid_action", {"step": raising_step}, "raised KeyError"),
    "an unknown action is valid": ("invalid_action", {"step": understanding_step}, r"info\['valid'\] is True"),
    "admissible is not understood": ("admissible_actions", {"step": refusing_step}, r"step\('down'\): admissible"),
    "normal form is not stable": ("normalise_action", {"normalise_action": lambda action: action + "!"}, "changes its own result"),
    "normal form does not work": ("normalise_action", {"normalise_action": str.upper}, "but normalised"),
    "restore goes elsewhere": ("snapshot_equals_replay", {"restore": forgetful_restore}, "but after restore"),
    "restore forgets a part": ("snapshot_equals_replay", {"step": leaky_step}, "but after restore"),
    "no snapshot": ("snapshot_equals_replay", {"snapshot": None}, "raised TypeError"),
    "close fails the second time": ("close_idempotent", {"close": close_once}, "raised RuntimeError"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_faults_are_named(toy, fault):
    check, parts, message = BROKEN[fault]
    if parts.get("step") in (raising_step, understanding_step, refusing_step, leaky_step):
        parts = {"step": parts["step"](toy().make.step)}
    with pytest.raises(CheckFailed, match=f"environment toy fails the check {check}: .*{message}") as caught:
        check_env(toy(**parts), {})
    assert caught.value.check == check


def test_partial_credit_keeps_the_contract(toy):
    """Half of the way is worth 0.5 before the end, but is paid only there."""
    check_env(toy(step=half_paid_step(toy().make.step)), {})


@pytest.mark.parametrize("name", ["reset", "step", "snapshot", "restore", "close"])
def test_a_forgotten_method_fails_at_once(name):
    methods = {part: getattr(Toy, part) for part in ("reset", "step", "snapshot", "restore", "close") if part != name}
    with pytest.raises(TypeError, match=f"abstract method '?{name}"):
        type("Unfinished", (TextEnv,), methods)()


def test_never_two_engines_at_a_time(toy):
    """Where a process can hold one engine only, it can be checked nonetheless."""
    alive = []

    class Single(Toy):
        def __init__(self, options):
            super().__init__(options)
            alive.append(self)
            assert len(alive) == 1

        def close(self):
            if self in alive:
                alive.remove(self)

    assert check_env(toy(make=Single), {}) == tuple(CHECKS)
    assert not alive


@pytest.mark.parametrize("count", [0, -1])
def test_a_limit_below_one_engine(toy, count):
    with pytest.raises(EnvironmentFault, match=f"environment toy: max_engines is {count}; allowed are 1 or more"):
        toy(max_engines=count)


def test_what_is_no_fault_of_the_contract_keeps_its_name():
    with pytest.raises(SettingsError, match="corridor options"):
        check_env(get_definition("corridor"), {})


def test_too_few_tasks(toy):
    with pytest.raises(DataError, match="99 tasks wanted, the environment has 9"):
        check_env(toy(), {}, n_tasks=99)
