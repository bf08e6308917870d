"""`AlfworldEnv`: the ALFWorld text engine as a `TextEnv`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from qlass.envs.alfworld.engine import TextworldEngine
from qlass.envs.alfworld.games import REMEDY, brief, load_game, origin
from qlass.envs.alfworld.gamestore import shared_store
from qlass.envs.alfworld.library import require_alfworld
from qlass.envs.alfworld.native import NativeEngine
from qlass.envs.alfworld.translation import cache_folder
from qlass.envs.core.base import Info, Snapshot, StepResult, TextEnv
from qlass.errors import EnvironmentFault, QlassError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from qlass.records import TaskSpec

EngineName = Literal["textworld", "native"]

ENGINES: tuple[EngineName, ...] = ("textworld", "native")
"""textworld: fast-downward's state machine and TextWorld's parsers, packages that are built from C++; native: plain
Python on the games' own texts, with the same answers (compared in tests/envs) in a ninth of the time."""

Wording = Literal["move", "classic"]

WORDINGS: tuple[Wording, ...] = ("move", "classic")
"""move: "move X to Y", "You arrive at Y." (alfworld 0.4, json_2.1.2 and later); classic: "put X in/on Y", "You arrive at
loc N." (alfworld 0.2 and 0.3, json_2.1.1, the wording of ReAct's and ETO's prompts)."""

# (classic, move): how alfred.twl2 differs between alfworld 0.3.5 and 0.4.2 (compared line by line), and a line of help.
_WORDING_LINES = (
    ("You arrive at {lend.name}. ", "You arrive at {r.name}. "),
    ('template :: "put {o} in/on {r}"', 'template :: "move {o} to {r}"'),
    ("You put the {o.name} in/on the {r.name}.", "You move the {o.name} to the {r.name}."),
    ("put (object) in/on (receptacle):", "move (object) to (receptacle):"),
)


def normalise_action(text: str) -> str:
    """Return the form in which the engine knows a command: one space between words, lower case, no final period."""
    return " ".join(text.lower().split()).rstrip(". ")


def normalise_wording(grammar: str, wording: Wording) -> str:
    """Return a game's grammar in one of the two wordings, whichever it had."""
    for classic, move in _WORDING_LINES:
        old, new = (classic, move) if wording == "move" else (move, classic)
        grammar = grammar.replace(old, new)
    return grammar


class GameEngine(Protocol):
    """What `TextworldEngine` and `NativeEngine` have in common."""

    def load(self, data: Mapping[str, Any]) -> None:
        """Load a game."""

    def reset(self) -> str:
        """Go to the first state; return the introduction."""

    def step(self, command: str) -> tuple[str, bool]:
        """Execute a command; return (feedback, whether it was admissible)."""

    def admissible_commands(self) -> list[str]:
        """Return every command that would be executed now, sorted."""

    def won(self) -> bool:
        """Return whether the goal holds."""

    def snapshot(self) -> Snapshot:
        """Return the current state."""

    def restore(self, snapshot: Snapshot, /) -> None:
        """Go back to a state of the loaded game."""

    def close(self) -> None:
        """Free what the engine holds."""


class AlfworldEnv(TextEnv):
    """One ALFWorld game at a time; reward 1.0 when the goal holds, which ends the episode.

    There is no step limit here. Equal specs give equal episodes whatever the seed: the engine has no randomness.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Start an engine.

        Args:
            options: `engine` ("textworld" or "native", default "textworld": see ENGINES); `wording` ("move" or
                "classic", default "move"); `admissible` (bool, default False: say which
                actions are admissible after every step, about 0.1 ms); `cache` (folder of translated problems, default
                $QLASS_CACHE/alfworld or ~/.cache/qlass/alfworld); `data` (folder with json_2.1.1, for real games).

        Raises:
            DependencyNotInstalled: alfworld or textworld is missing.
            EnvironmentFault: an option has a value that is not allowed.
        """
        for name, allowed in (("engine", ENGINES), ("wording", WORDINGS)):
            value = options.get(name, allowed[0])
            if value not in allowed:
                raise EnvironmentFault(
                    f"alfworld options: {name} is {value!r}; allowed are {allowed}. Set one of them."
                )
        self._options = dict(options)
        self._wording: Wording = options.get("wording", WORDINGS[0])
        self._admissible = bool(options.get("admissible", False))
        self._engine: GameEngine = NativeEngine() if options.get("engine") == "native" else _textworld_engine(options)
        self._game = "no game"

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:  # noqa: ARG002 (the engine has no randomness)
        """Start a task; return the room and the goal, without the engine's welcome line.

        Raises:
            EnvironmentFault: the game cannot be read or played; names it.
        """
        game = load_game(spec.key, self._options)
        self._game = f"{spec.task_id}: {origin(spec.key, self._options)}"
        with self._named():
            self._engine.load({**game, "grammar": normalise_wording(game["grammar"], self._wording)})
            introduction = self._engine.reset()
            playable = bool(self._engine.admissible_commands())
            info = self._info(valid=True, won=False)
        if not playable:
            raise EnvironmentFault(
                f"{self._game}: no command can be executed in the first state, because the goal can never be reached or "
                f"something that every action needs is missing. {REMEDY}"
            )
        _, separator, observation = introduction.partition("\n\n")
        if not separator:
            raise EnvironmentFault(
                f"{self._game}: the introduction has no welcome line: {introduction[:80]!r}; expected "
                "'-= Welcome to TextWorld, ALFRED! =-', an empty line, the room. Check the game's grammar."
            )
        return observation.strip(), info

    def step(self, action: str) -> StepResult:
        """Execute one command, after `normalise_action`; an unknown one gets "Nothing happens."."""
        with self._named():
            feedback, valid = self._engine.step(normalise_action(action))
            won = self._engine.won()
            return feedback.strip(), float(won), won, False, self._info(valid=valid, won=won)

    def snapshot(self) -> Snapshot:
        """Return the current state, valid until the next `reset` (2 KB; copies nothing)."""
        return self._engine.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a state of the current episode."""
        self._engine.restore(snapshot)

    def close(self) -> None:
        """Free the engine; calling it twice is fine."""
        self._engine.close()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the game in whatever the engine raises on it, as an EnvironmentFault.

        A game is a program: its grammar holds Python expressions, and its domain says what the engine computes. So a
        damaged one can end in any exception there is. What the operating system refuses is not the game's fault.
        """
        try:
            yield
        except EnvironmentFault as error:
            raise EnvironmentFault(f"{self._game}: {error}") from error
        except (QlassError, OSError, MemoryError):
            raise
        except Exception as error:
            raise EnvironmentFault(
                f"{self._game}: the engine cannot play it ({brief(error)}); expected is a game of ALFWorld. {REMEDY}"
            ) from error

    def _info(self, *, valid: bool, won: bool) -> Info:
        names = self._engine.admissible_commands() if self._admissible else []
        return {
            "admissible_actions": tuple(a for a in names if a != "help"),
            "valid": valid,
            "success": won,
            "outcome": float(won),
        }


def _textworld_engine(options: Mapping[str, Any]) -> TextworldEngine:
    folder = cache_folder(options)
    data = options.get("data") or os.environ.get("ALFWORLD_DATA") or folder
    require_alfworld(Path(str(data)))
    return TextworldEngine(shared_store(folder))
