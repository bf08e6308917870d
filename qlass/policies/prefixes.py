"""Keys and values of conversations, found again by the longest prefix that a new prompt shares with them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor

from qlass.prompts import Prompt


@dataclass(slots=True)
class Slot:
    """Keys and values of one conversation.

    Attributes:
        ids: the token ids that are cached.
        cache: (layers, 2, kv_heads, capacity, head_dim); the first `len(ids)` positions are valid.
        marks: prefix keys that lead here, removed on eviction.
    """

    ids: tuple[int, ...]
    cache: Tensor
    marks: list[int]


class PrefixCache:
    """Slots by conversation prefix, the least recently used ones forgotten when the budget is spent."""

    def __init__(self, budget_bytes: int) -> None:
        """Keep at most `budget_bytes` of keys and values between calls, but always the newest conversation."""
        self._budget, self._used = budget_bytes, 0
        self._slots: OrderedDict[int, Slot] = OrderedDict()
        self._by_prefix: dict[int, int] = {}
        self._next = 0

    def longest(self, prompt: Prompt) -> tuple[Slot | None, int]:
        """Return the slot that shares the longest prefix (ending with a message) with the prompt, and its length."""
        for length, key in reversed(_prefix_keys(prompt)):
            slot = self._slots.get(self._by_prefix.get(key, -1))
            if slot is not None and slot.ids[:length] == prompt.ids[:length]:
                self._slots.move_to_end(self._by_prefix[key])
                return slot, length
        return None, 0

    def put(self, prompt: Prompt, cache: Tensor) -> None:
        """Remember a conversation up to its last message end. `cache` is owned by the cache from here on."""
        length = prompt.boundaries[-1]
        keys = [key for _, key in _prefix_keys(prompt)]
        # The turn before ended two messages ago (its reply and the new observation came since); it is part of this one.
        for old in {self._by_prefix[key] for key in keys[-3:] if key in self._by_prefix}:
            if prompt.ids[: len(self._slots[old].ids)] == self._slots[old].ids:
                self._forget(old)
        self._slots[self._next] = Slot(prompt.ids[:length], cache, keys)
        for key in keys:
            self._by_prefix[key] = self._next
        self._next += 1
        self._used += cache.nbytes
        while self._used > self._budget and len(self._slots) > 1:
            self._forget(next(iter(self._slots)))

    def _forget(self, number: int) -> None:
        slot = self._slots.pop(number)
        self._used -= slot.cache.nbytes
        for key in slot.marks:
            if self._by_prefix.get(key) == number:
                del self._by_prefix[key]


def _prefix_keys(prompt: Prompt) -> list[tuple[int, int]]:
    """Return (length, running hash) at each message end. Hashes of int tuples do not depend on PYTHONHASHSEED."""
    keys, running, start = [], 0, 0
    for end in prompt.boundaries:
        running = hash((running, prompt.ids[start:end]))
        keys.append((end, running))
        start = end
    return keys
