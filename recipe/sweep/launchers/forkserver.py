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

SPAWN_CONTEXT = multiprocessing.get_context("spawn")
"""A process forked from one that computes would have torch's threads in name only."""

PRELOADED_MODULES = [
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

FORKSERVER_THREADS: list[int] = []
"""The threads of each process that the fork server is for, while there is one."""

HELPER_EXECUTORS: list[ProcessPoolExecutor] = []
"""The process that is asked."""

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


def start(threads: int) -> None:
    """Starts importing, for processes with so many threads each; returns at once."""
    if sys.platform != "linux" or threads in FORKSERVER_THREADS:
        return
    stop()
    resource_tracker.ensure_running()  # it lifts the block of signals
    forkserver.set_forkserver_preload(PRELOADED_MODULES)
    with _block_signals(), env_override(thread_environment(threads)):
        forkserver.ensure_running()
    FORKSERVER_THREADS.append(threads)


def get_context(threads: int) -> SpawnContext | ForkServerContext:
    """What makes processes with so many threads each, for jobs on the CPU."""
    start(threads)
    return multiprocessing.get_context("forkserver") if FORKSERVER_THREADS else SPAWN_CONTEXT


def call_in_helper(
    function: Callable[[InputT], OutputT], argument: InputT, *, fresh_process: bool = False
) -> OutputT:
    """The answer of a process that has torch imported, if there is one to be had, else of this
    one; `alone`: of a process that ends when it has answered, as one that has used a GPU must. The
    question raises nothing."""
    if fresh_process:
        with ProcessPoolExecutor(1, SPAWN_CONTEXT) as fresh:
            return fresh.submit(function, argument).result()
    if not FORKSERVER_THREADS:
        return function(argument)
    if not HELPER_EXECUTORS:
        fork, ends = multiprocessing.get_context("forkserver"), functools.partial(os._exit, 1)
        HELPER_EXECUTORS.append(
            ProcessPoolExecutor(1, fork, initializer=watch_parent, initargs=(ends,))
        )
    try:
        answer: OutputT = HELPER_EXECUTORS[0].submit(function, argument).result()
        return answer
    except BrokenProcessPool:
        return function(argument)


def stop_helper() -> None:
    """Ends the process that is asked, with the memory that it keeps."""
    while HELPER_EXECUTORS:
        HELPER_EXECUTORS.pop().shutdown()


def stop() -> None:
    """Of the fork server, whose other processes have ended."""
    stop_helper()
    if FORKSERVER_THREADS:
        FORKSERVER_THREADS.clear()
        server: Any = forkserver._forkserver
        if server._forkserver_pid is not None:
            os.kill(server._forkserver_pid, signal.SIGKILL)  # it may be importing yet
        server._stop()  # which waits for it


def watch_parent(on_exit: Callable[[], None]) -> None:
    """Calls it, in a thread, when the sweep's process is gone: a fork server doesn't tell, and
    stays for as long as any of its processes."""

    def wait() -> None:
        sweep = multiprocessing.parent_process()
        assert sweep is not None
        connection.wait([sweep.sentinel])
        on_exit()

    threading.Thread(target=wait, daemon=True).start()


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def unblock_signals() -> None:
    """In a process that may come from a fork server."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def _block_signals() -> Iterator[None]:
    """A process started in the block doesn't get what the terminal sends to all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
