"""Errors of DataLoader workers that died: killed, or out of memory.

torch raises them in a signal handler, so they can occur anywhere in the main thread.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from recipe.errors import DataError


def has_worker_died(error: Exception) -> bool:
    """Whether torch raised the error because a worker died; torch has no type for it."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def worker_died_error(workers: int, error: RuntimeError) -> DataError:
    return DataError(
        f"data.workers: one of {workers} died while it read images "
        f"({' '.join(str(error).split())}), perhaps for lack of memory; use fewer workers"
    )


def ignore_interrupts(number: int) -> None:
    """Initialises a worker, which the run ends: a terminal sends Ctrl-C to all processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def translate_worker_errors(workers: int) -> Iterator[None]:
    """Raises the error for a worker that died as a DataError."""
    try:
        yield
    except RuntimeError as error:
        if not has_worker_died(error):
            raise
        raise worker_died_error(workers, error) from error
