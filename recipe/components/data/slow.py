"""A file that takes long to read is named while it does: on a drive that hangs it may for ever."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from recipe import output
from recipe.formatting import printable


class _Reading(NamedTuple):
    name: str
    since: float
    limit: float


class _Watch:
    """A thread that looks, several times a second, at what its process reads."""

    def __init__(self) -> None:
        self.now: _Reading | None = None
        self._told: set[str] = set()
        threading.Thread(target=self._look, name="slow-files", daemon=True).start()

    def _look(self) -> None:
        while True:
            time.sleep(min(0.2, self.now.limit / 4) if self.now else 0.02)
            reading = self.now
            if reading is None or reading.name in self._told:
                continue
            if time.monotonic() - reading.since > reading.limit:
                self._told.add(reading.name)
                output.error(
                    f"data.slow_after: {reading.name} is being read for more than "
                    f"{reading.limit:g} s"
                )


@contextmanager
def named_after(seconds: float, path: Path) -> Iterator[None]:
    """While the block reads `path`, stderr is told, once for each file, if it takes longer."""
    watch = _watch(os.getpid())  # threads don't live on in a forked process
    watch.now = _Reading(printable(path), time.monotonic(), seconds)
    try:
        yield
    finally:
        watch.now = None


@functools.lru_cache(maxsize=1)
def _watch(process: int) -> _Watch:
    return _Watch()
