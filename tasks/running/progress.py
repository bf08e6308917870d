"""Progress as log lines: stages run below DVC below a scheduler, where a bar would be noise."""

from __future__ import annotations

import logging
import time
from typing import Any

logger = logging.getLogger(__name__)


class Progress:
    """Log one `key=value` line every few seconds, and one at the end."""

    def __init__(self, label: str, total: int | None, *, done: int = 0, every_s: float = 5.0) -> None:
        """Start the clock; `total` is None where unknown, `done` units were finished by an earlier run."""
        self._label, self._total, self._first, self._every_s = label, total, done, every_s
        self._began = time.monotonic()
        self._last = self._began
        if done:
            logger.info("progress=%s resumed=%d/%s", label, done, total)

    def update(self, done: int, **values: Any) -> None:
        """Say that `done` units are finished; `values` join the line."""
        now = time.monotonic()
        if done != self._total and now - self._last < self._every_s:
            return
        self._last = now
        elapsed = now - self._began
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        values = {
            "done": done if self._total is None else f"{done}/{self._total}",
            "elapsed_s": round(elapsed),
            **values,
        }
        if self._total is not None and rate > 0:
            values["left_s"] = round((self._total - done) / rate)
        logger.info("progress=%s %s", self._label, " ".join(f"{name}={value}" for name, value in values.items()))
