"""A process that reads data and dies: killed, or out of memory.

torch tells of it by an exception out of a signal handler, so it may come wherever the main thread
happens to be, not only where it waits for a batch.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from recipe.errors import DataError

WORKER_DIED_PREFIX = "DataLoader worker (pid"
"""How torch's messages about it begin."""


def worker_died_error(workers: int, error: RuntimeError) -> DataError:
    """One of `workers` processes did, as `error` tells."""
    return DataError(
        f"data.workers: one of {workers} ended while it read images "
        f"({' '.join(str(error).split())}); there may be too little memory, use fewer"
    )


def ignore_interrupts(number: int) -> None:
    """A worker's first act: Ctrl-C reaches every process of a terminal, and it is for the run to
    say when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def translate_worker_errors(workers: int) -> Iterator[None]:
    """Turns torch's message, wherever in the block it comes, into a DataError."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(WORKER_DIED_PREFIX):
            raise
        raise worker_died_error(workers, error) from error
