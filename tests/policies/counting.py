"""What a trunk was asked to do."""

from __future__ import annotations

from typing import Any

import pytest

from qlass.policies.llama import LlamaTrunk


class Counting:
    """Counts the tokens that every trunk encodes, call by call, and the chunks that it extends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.prefills: list[int] = []
        self.chunks = 0
        prefill, extend = LlamaTrunk.prefill, LlamaTrunk.extend

        def counted_prefill(trunk: LlamaTrunk, prompts: Any) -> Any:
            found = prefill(trunk, prompts)
            self.prefills.append(found[2])
            return found

        def counted_extend(trunk: LlamaTrunk, *arguments: Any) -> Any:
            self.chunks += 1
            return extend(trunk, *arguments)

        monkeypatch.setattr(LlamaTrunk, "prefill", counted_prefill)
        monkeypatch.setattr(LlamaTrunk, "extend", counted_extend)

    @property
    def encoded(self) -> int:
        """All tokens."""
        return sum(self.prefills)
