"""Seeds by derivation: every unit of work has its own, from what it is and never from when or where it runs."""

from __future__ import annotations

import hashlib
import json


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2^63) from a stable hash of `parts`: (base seed, stage, env, task_id, node path).

    The parts are hashed as a JSON list, so ("ab", "c"), ("a", "bc"), (1,) and ("1",) all differ. The value is the same
    on every machine and in every process, unlike `hash()`; it fits a signed 64-bit integer, as torch wants.
    """
    digest = hashlib.blake2b(json.dumps(parts).encode("ascii"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
