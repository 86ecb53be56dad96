"""Where the worker processes of a sweep come from.

On Linux, jobs for the CPU run in processes forked from a fork server, which has imported what a job
needs and nothing else: torch is imported once for all of them, while the sweep is checked. The fork
server has no threads; the number of threads of its children is set by its environment, which torch
reads when it is imported. With a GPU, which must be selected before torch is imported, and on other
systems each process is spawned.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

from hydra.core.utils import env_override

from recipe.components.device import thread_environment

SPAWN_CONTEXT = multiprocessing.get_context("spawn")
"""A fork of a process that computes would inherit torch's thread pool without its threads."""

PRELOADED_MODULES = [
    "recipe.runner.start",
    "recipe.training.build",
    "recipe.cli.main",
    "recipe.runner.run_summary",
    "recipe.runner.plan",
    "recipe.runner.plots",
    "recipe.store.results",
    "recipe.sweep.job",
    "recipe.sweep.preflight",
    "recipe.sweep.launchers.worker_pool",
    "recipe.runner.fit",
    "scipy.special",
]
"""What every job needs."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TorchHelper:
    """multiprocessing's fork server, and a process forked from it that answers questions which
    need torch."""

    def __init__(self) -> None:
        self._threads: int | None = None
        self._executor: ProcessPoolExecutor | None = None

    @property
    def is_started(self) -> bool:
        return self._threads is not None

    def start(self, threads: int) -> None:
        """Starts the fork server for processes with this number of threads; returns at once."""
        if sys.platform != "linux" or threads == self._threads:
            return
        self.stop()
        resource_tracker.ensure_running()  # it unblocks signals
        forkserver.set_forkserver_preload(PRELOADED_MODULES)
        with _block_signals(), env_override(thread_environment(threads)):
            forkserver.ensure_running()
        self._threads = threads

    def get_context(self, threads: int) -> SpawnContext | ForkServerContext:
        """The context for processes with this number of threads that compute on the CPU."""
        self.start(threads)
        return multiprocessing.get_context("forkserver") if self.is_started else SPAWN_CONTEXT

    def call(self, function: str, *arguments: Any) -> Any:
        """Calls a function, given as `module:name`, in the helper process; in this process without
        a fork server. The function must not raise."""
        if not self.is_started:
            return _call(function, *arguments)
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                1,
                multiprocessing.get_context("forkserver"),
                initializer=watch_parent,
                initargs=(functools.partial(os._exit, 1),),
            )
        try:
            return self._executor.submit(_call, function, *arguments).result()
        except BrokenProcessPool:
            return _call(function, *arguments)

    def stop_helper(self) -> None:
        """Ends the helper process, which frees its memory."""
        if self._executor is not None:
            self._executor.shutdown()
            self._executor = None

    def stop(self) -> None:
        """Ends the helper process and the fork server; its other children have ended by now."""
        self.stop_helper()
        if self.is_started:
            self._threads = None
            server: Any = forkserver._forkserver
            if server._forkserver_pid is not None:
                os.kill(server._forkserver_pid, signal.SIGKILL)  # it may still be importing
            server._stop()  # waits for it


TORCH_HELPER = TorchHelper()
"""One for the process, as multiprocessing has one fork server."""


def call_in_fresh_process(function: str, *arguments: Any) -> Any:
    """Calls a function that may use a GPU, given as `module:name`, in a new process."""
    with ProcessPoolExecutor(1, SPAWN_CONTEXT) as fresh:
        return fresh.submit(_call, function, *arguments).result()


def _call(function: str, *arguments: Any) -> Any:
    return pkgutil.resolve_name(function)(*arguments)


def watch_parent(on_exit: Callable[[], None]) -> None:
    """Starts a thread that calls `on_exit` when the process of the sweep is gone: a fork server
    doesn't report that, and lives as long as any of its children."""

    def wait() -> None:
        sweep = multiprocessing.parent_process()
        assert sweep is not None
        connection.wait([sweep.sentinel])
        on_exit()

    threading.Thread(target=wait, daemon=True).start()


def unblock_signals() -> None:
    """Undoes `_block_signals`, which children of the fork server inherit."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def _block_signals() -> Iterator[None]:
    """A process started in the block doesn't receive the signals that a terminal sends to all."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
