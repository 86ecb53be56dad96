"""Where the worker processes of a sweep come from.

On the CPU of Linux they are forked from one process, a fork server, that has imported what a job
needs and done nothing else: torch is imported once for all of them, while the sweep itself is
looked at. It has no thread yet, and its threads and how they wait are said by its environment, as
torch reads them when it is imported. With a GPU, which is to be chosen before torch is imported,
and on other systems each process is started anew.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any, TypeVar

from hydra.core.utils import env_override

from recipe.components.device import thread_environment

SPAWN = multiprocessing.get_context("spawn")
"""A process forked from one that computes would have torch's threads in name only."""

IMPORTS = [
    "recipe.runner.start",
    "recipe.training.build",
    "recipe.cli.main",
    "recipe.runner.run_summary",
    "recipe.runner.plan",
    "recipe.runner.plots",
    "recipe.store.results",
    "recipe.sweep.job",
    "recipe.sweep.launchers.worker",
    "recipe.runner.fit",
    "scipy.special",
]
"""What a job needs, whatever its parts are."""

AT_WORK: list[int] = []
"""The threads of each process that the fork server is for, while there is one."""

ANSWERING: list[ProcessPoolExecutor] = []
"""The process that is asked."""

A = TypeVar("A")
B = TypeVar("B")


def begin(threads: int) -> None:
    """Starts importing, for processes with so many threads each; returns at once."""
    if sys.platform != "linux" or threads in AT_WORK:
        return
    end()
    resource_tracker.ensure_running()  # it lifts the block of signals
    forkserver.set_forkserver_preload(IMPORTS)
    with _deaf(), env_override(thread_environment(threads)):
        forkserver.ensure_running()
    AT_WORK.append(threads)


def context(threads: int) -> SpawnContext | ForkServerContext:
    """What makes processes with so many threads each, for jobs on the CPU."""
    begin(threads)
    return multiprocessing.get_context("forkserver") if AT_WORK else SPAWN


def asked(question: Callable[[A], B], about: A, *, alone: bool = False) -> B:
    """The answer of a process that has torch imported, if there is one to be had, else of this
    one; `alone`: of a process that ends when it has answered, as one that has used a GPU must. The
    question raises nothing."""
    if alone:
        with ProcessPoolExecutor(1, SPAWN) as fresh:
            return fresh.submit(question, about).result()
    if not AT_WORK:
        return question(about)
    if not ANSWERING:
        fork, ends = multiprocessing.get_context("forkserver"), functools.partial(os._exit, 1)
        ANSWERING.append(ProcessPoolExecutor(1, fork, initializer=orphaned, initargs=(ends,)))
    try:
        answer: B = ANSWERING[0].submit(question, about).result()
        return answer
    except BrokenProcessPool:
        return question(about)


def end_answers() -> None:
    """Ends the process that is asked, with the memory that it keeps."""
    while ANSWERING:
        ANSWERING.pop().shutdown()


def end() -> None:
    """Of the fork server, whose other processes have ended."""
    end_answers()
    if AT_WORK:
        AT_WORK.clear()
        server: Any = forkserver._forkserver
        if server._forkserver_pid is not None:
            os.kill(server._forkserver_pid, signal.SIGKILL)  # it may be importing yet
        server._stop()  # which waits for it


def orphaned(then: Callable[[], None]) -> None:
    """Calls it, in a thread, when the sweep's process is gone: a fork server doesn't tell, and
    stays for as long as any of its processes."""

    def wait() -> None:
        sweep = multiprocessing.parent_process()
        assert sweep is not None
        connection.wait([sweep.sentinel])
        then()

    threading.Thread(target=wait, daemon=True).start()


SIGNALS = (signal.SIGINT, signal.SIGTERM)


def heed_signals() -> None:
    """In a process that may come from a fork server."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def _deaf() -> Iterator[None]:
    """A process started in the block doesn't get what the terminal sends to all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
