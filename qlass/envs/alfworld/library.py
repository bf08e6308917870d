"""A private copy of fast-downward's shared library, small and quick to load.

The library keeps its planning task in C globals, so every engine needs a copy of its own. The file is 33.8 MB, of which
1.1 MB are ever mapped; the rest are debug symbols, cut off here.

A copy is never unloaded. All copies of a process share one C++ singleton (`options::RawRegistry`, a GNU unique symbol)
that keeps pointers into each of them: after a `dlclose`, as in `fast_downward.close_lib`, loading the next copy
crashes the process. Copies that are given back wait here for the next engine.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import os
import struct
import tempfile
from pathlib import Path

from qlass.errors import DependencyNotInstalled

_ELF64_LITTLE = b"\x7fELF\x02\x01"

NAME_SIZE = 1024
"""Bytes of the buffers into which fast-downward writes names, the final zero included; it does not look how long they are."""

_idle: list[ctypes.CDLL] = []


class Operator(ctypes.Structure):
    """One ground action, as `Operator_t` of fast-downward-textworld's interface.cc."""

    _fields_ = (("id", ctypes.c_int), ("name", ctypes.c_char * NAME_SIZE), ("effects", ctypes.c_int))


class Atom(ctypes.Structure):
    """One fact, as `Atom_t` of fast-downward-textworld's interface.cc."""

    _fields_ = (("name", ctypes.c_char * NAME_SIZE),)


@functools.lru_cache(maxsize=1)
def _stripped_library() -> bytes:
    """Return the library's file without what the loader never maps (section headers, debug symbols)."""
    try:
        from fast_downward.interface import DOWNWARD_LIB_PATH  # type: ignore[import-untyped]
    except ImportError as error:
        raise DependencyNotInstalled(
            f"alfworld: the package fast-downward-textworld is missing ({error}); run `pip install qlass[alfworld]`."
        ) from error
    content = Path(DOWNWARD_LIB_PATH).read_bytes()
    if not content.startswith(_ELF64_LITTLE):
        return content
    # ELF64 header: program headers at 32 (offset), 54 (entry size), 56 (count); section headers at 40, 58, 60, 62.
    offset, size, count = (*struct.unpack_from("<Q", content, 32), *struct.unpack_from("<HH", content, 54))
    segments = [struct.unpack_from("<IIQQQQ", content, offset + i * size) for i in range(count)]
    end = max(start + length for _, _, start, _, _, length in segments)
    header = bytearray(content[:end])
    struct.pack_into("<Q", header, 40, 0)
    struct.pack_into("<HHH", header, 58, 64, 0, 0)
    return bytes(header)


def load_library() -> ctypes.CDLL:
    """Return a copy of the library for one engine alone; give it back with `release_library`."""
    return _idle.pop() if _idle else _new_copy()


def release_library(library: ctypes.CDLL) -> None:
    """Free the library's task and keep the copy for the next engine."""
    library.cleanup()
    _idle.append(library)


def _new_copy() -> ctypes.CDLL:
    # The loader recognises a file by its inode, so a copy must be a file of its own; it may be unlinked at once.
    with tempfile.TemporaryDirectory(prefix="qlass-alfworld-") as folder:
        path = Path(folder, "libdownward.so")
        path.write_bytes(_stripped_library())
        library = ctypes.CDLL(str(path))
    library.load_sas.argtypes, library.load_sas.restype = [ctypes.c_char_p], None
    library.cleanup.argtypes, library.cleanup.restype = [], None
    library.get_applicable_operators_count.argtypes = []
    library.get_applicable_operators.argtypes = [ctypes.POINTER(Operator)]
    library.get_applicable_operators.restype = None
    # The second argument may be null: then the effects are not written out.
    library.apply_operator.argtypes = [ctypes.c_size_t, ctypes.POINTER(Atom)]
    library.apply_operator.restype = ctypes.c_size_t
    library.check_goal.argtypes, library.check_goal.restype = [], ctypes.c_bool
    library.get_state_id.argtypes, library.get_state_id.restype = [], ctypes.c_int
    library.set_state_id.argtypes, library.set_state_id.restype = [ctypes.c_int], None
    return library


def require_alfworld(data_folder: Path) -> None:
    """Import the engine's packages or say how to install them."""
    # `import alfworld` sets this variable and creates ~/.cache/alfworld where it is unset.
    os.environ.setdefault("ALFWORLD_DATA", str(data_folder))
    try:
        for name in ("alfworld.agents.utils.misc", "fast_downward", "textworld.envs.pddl"):
            importlib.import_module(name)
    except ImportError as error:
        raise DependencyNotInstalled(
            f"alfworld: the engine cannot be imported ({error}); run `pip install qlass[alfworld]` "
            "(its packages are built from source: a C++ compiler and make are needed)."
        ) from error
