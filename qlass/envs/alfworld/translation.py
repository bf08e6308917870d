"""PDDL to SAS: the translation of one game, once per problem, kept on disk.

Stock TextWorld translates every problem four times per game (two variants, at load and again at reset), 0.1 to 0.9
CPU-seconds each. The answer depends only on the two PDDL texts, so it is stored as zlib-compressed JSON.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import gc
import hashlib
import io
import json
import logging
import os
import sys
import uuid
import zlib
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlass.envs.alfworld.games import brief
from qlass.envs.alfworld.grounding import ground
from qlass.envs.alfworld.library import NAME_SIZE
from qlass.errors import EnvironmentFault, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

logger = logging.getLogger(__name__)

FORMAT = 2
"""Version of the cache files; a change gives every problem a new key."""


@dataclass(frozen=True, slots=True)
class Translation:
    """What the engine needs of a translated problem.

    Attributes:
        sas: the planning task in fast-downward's SAS format, zlib-compressed (10 to 120 KB for 0.2 to 2.2 MB).
        types: (type name, names of its supertypes), in the domain's order.
        objects: object name to type name, everything in lower case.
        parameters: action name to its (parameter name without `?`, type name) pairs.
        init: the problem's initial facts, (predicate, argument names...).
        fluents: predicates that some action changes; all others are constant during a game.
    """

    sas: bytes
    types: list[tuple[str, list[str]]]
    objects: dict[str, str]
    parameters: dict[str, list[tuple[str, str]]]
    init: list[list[str]]
    fluents: list[str]


def cache_folder(options: Mapping[str, Any]) -> Path:
    """Return the folder of the translations: option `cache`, else $QLASS_CACHE/alfworld, else ~/.cache/qlass/alfworld."""
    if options.get("cache"):
        return Path(str(options["cache"])).expanduser()
    root = os.environ.get("QLASS_CACHE")
    return Path(root).expanduser() / "alfworld" if root else Path.home() / ".cache" / "qlass" / "alfworld"


@functools.cache
def _versions() -> str:
    return "\0".join((str(FORMAT), version("textworld"), version("fast-downward-textworld")))


def problem_key(domain: str, problem: str) -> str:
    """Return a hash of everything that a translation depends on."""
    return hashlib.sha256("\0".join((_versions(), domain, problem)).encode()).hexdigest()[:32]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Give fast-downward the process as it wants it, and undo that: arguments, standard output, collector."""
    argv, stdout, collecting = sys.argv, sys.stdout, gc.isenabled()
    sys.argv, sys.stdout = ["translate.py", "domain", "task"], io.StringIO()
    gc.disable()  # The translator makes a million small objects and no cycles: collecting costs a third of its time.
    try:
        yield
    finally:
        sys.argv, sys.stdout = argv, stdout
        if collecting:
            gc.enable()


def translate(domain: str, problem: str, *, stock: bool = False) -> Translation:
    """Translate one problem; nothing is pruned, as in TextWorld's `PddlState`.

    Args:
        domain: text of the PDDL domain.
        problem: text of the PDDL problem.
        stock: take fast-downward's own grounding also where ours would do.

    Raises:
        EnvironmentFault: the texts are not PDDL that fast-downward understands, or their names are too long for it.
    """
    try:
        with _undisturbed():
            task = _parse(domain, problem)
            sas = None if stock else ground(task)
            if sas is None:
                import fast_downward  # type: ignore[import-untyped]

                task, sas = fast_downward.pddl2sas(domain, problem, optimize=False)
    # fast-downward's parser ends the process on bad input, and asserts.
    except (SystemExit, AssertionError, IndexError, KeyError, ValueError) as error:
        raise EnvironmentFault(
            f"alfworld problem {problem.strip()[:60]!r}: fast-downward cannot read it ({brief(error)}); "
            "expected is a PDDL problem for ALFWorld's domain. Remove the game file or download it again."
        ) from error
    longest = max(map(len, sas.encode().split(b"\n")))
    if longest >= NAME_SIZE:
        raise EnvironmentFault(
            f"alfworld problem {problem.strip()[:60]!r}: a fact or an action has a name of {longest:,} bytes; "
            f"fast-downward has room for {NAME_SIZE - 1:,}. Shorten the names of the objects."
        )
    return Translation(
        sas=zlib.compress(sas.encode(), 6),
        types=[(t.name, list(t.supertype_names)) for t in task.types],
        objects={o.name: o.type_name for o in task.objects},
        parameters={a.name: [(p.name.strip("?"), p.type_name) for p in a.parameters] for a in task.actions},
        init=[[a.predicate, *a.args] for a in task.init if hasattr(a, "predicate") and a.predicate != "="],
        fluents=sorted({effect.literal.predicate for action in task.actions for effect in action.effects}),
    )


def _parse(domain: str, problem: str) -> Any:
    from fast_downward.translate import normalize  # type: ignore[import-untyped]
    from fast_downward.translate.pddl_parser import (  # type: ignore[import-untyped]
        lisp_parser,
        parsing_functions,
    )

    texts = (lisp_parser.parse_nested_list(text.split("\n")) for text in (domain, problem))
    task = parsing_functions.parse_task(*texts)
    normalize.normalize(task)
    return task


def _read(path: Path) -> Translation | None:
    try:
        record = json.loads(zlib.decompress(path.read_bytes()))
        sas = base64.b64decode(record["sas"], validate=True)
        zlib.decompress(sas)
        return Translation(**{**record, "sas": sas})
    except FileNotFoundError:
        return None
    except (zlib.error, ValueError, TypeError, KeyError, OSError) as error:
        logger.warning("event=cache_unreadable file=%s error=%r action=translate_again", path, error)
        return None


def _write(path: Path, translation: Translation) -> None:
    record = {**asdict(translation), "sas": base64.b64encode(translation.sas).decode()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Workers may translate the same problem at once: each writes a file of its own and renames it.
        temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
        temporary.write_bytes(zlib.compress(json.dumps(record, separators=(",", ":")).encode(), 6))
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot write: {error}; make room, or name another folder for translated games: the option `cache` "
            "of envs.alfworld.options, or the variable QLASS_CACHE"
        ) from error


def cached_translation(domain: str, problem: str, folder: Path) -> Translation:
    """Return the translation of a problem, from `folder` where it is there, else made and stored."""
    path = folder / f"{problem_key(domain, problem)}.json.z"
    found = _read(path)
    if found is None:
        found = translate(domain, problem)
        _write(path, found)
    return found
