"""Reports slow reads of files while they are in progress."""

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
from recipe.formatting import escape_unprintable


class _PendingRead(NamedTuple):
    name: str
    start_time: float
    limit_seconds: float


class _SlowReadMonitor:
    """A thread that checks several times per second which file the process is reading."""

    def __init__(self) -> None:
        self.current_read: _PendingRead | None = None
        self._reported: set[str] = set()
        threading.Thread(target=self._poll, name="slow-files", daemon=True).start()

    def _poll(self) -> None:
        while True:
            time.sleep(min(0.2, self.current_read.limit_seconds / 4) if self.current_read else 0.02)
            reading = self.current_read
            if reading is None or reading.name in self._reported:
                continue
            if time.monotonic() - reading.start_time > reading.limit_seconds:
                self._reported.add(reading.name)
                output.print_error(
                    f"data.slow_after: reading {reading.name} takes more than "
                    f"{reading.limit_seconds:g} s"
                )


@contextmanager
def report_slow_read(seconds: float, path: Path) -> Iterator[None]:
    """Prints a message, once per file, if the block takes longer than `seconds`."""
    monitor = _get_monitor(os.getpid())  # a forked process has no threads
    monitor.current_read = _PendingRead(escape_unprintable(path), time.monotonic(), seconds)
    try:
        yield
    finally:
        monitor.current_read = None


@functools.lru_cache(maxsize=1)
def _get_monitor(process: int) -> _SlowReadMonitor:
    return _SlowReadMonitor()
