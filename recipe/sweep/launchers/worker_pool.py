"""The worker processes of a sweep: each runs one job after the other, and is replaced when it
dies."""

from __future__ import annotations

import contextlib
import gc
import os
import pkgutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from omegaconf import DictConfig, OmegaConf, open_dict

from recipe import output
from recipe.components.device import thread_environment
from recipe.errors import OutputClosedInterrupt, OutputError, TerminateInterrupt, is_output_closed
from recipe.runner.exit_status import discard_output
from recipe.runner.signals import install_signal_handlers
from recipe.sweep.launchers import forkserver
from recipe.sweep.launchers.forkserver import TORCH_HELPER
from recipe.sweep.launchers.gpu_assignment import GpuSlots

CrashCallback = Callable[[int, str], None]
"""Called with the number of a job whose process died, and the cause."""


class Task(NamedTuple):
    """A job, and the files for its output."""

    job_number: int
    config: DictConfig
    """As Hydra composed it, with the node `hydra`."""
    stdout_path: Path
    stderr_path: Path


@dataclass
class _Worker:
    process: Any
    connection: Any
    task: Task | None = None

    def send_task(self, task: Task) -> None:
        """Raises OSError if the process has ended since its last job."""
        self.connection.send(task)
        self.task = task


class WorkerPool:
    """Worker processes with the same number of threads, on a GPU each if there are `gpus`."""

    def __init__(self, size: int, threads: int, gpus: GpuSlots | None, *, on_cpu: bool) -> None:
        """`on_cpu`: whether all jobs are for the CPU."""
        self._size, self._threads, self._gpus = size, threads, gpus
        self._context = TORCH_HELPER.get_context(threads) if on_cpu else forkserver.SPAWN_CONTEXT
        self._workers: list[_Worker] = []
        self._output_dir = Path(tempfile.mkdtemp(prefix="recipe-"))
        # at exit before multiprocessing joins the workers, which wait for jobs
        self.close = Finalize(
            self, _close_workers, args=(self._workers, self._output_dir), exitpriority=1
        )

    def run_jobs(self, jobs: Iterator[tuple[int, Any]], on_crash: CrashCallback) -> None:
        """Runs jobs, each a number and a config; the output of a job is printed when it ends.

        SIGINT and SIGTERM are forwarded to the jobs, which are waited for. When the output is
        closed, the jobs are terminated in the same way, and OutputClosedInterrupt is raised.
        """
        waiting: deque[tuple[int, Any]] = deque()
        stopped: KeyboardInterrupt | None = None
        while True:
            try:
                if stopped is None:
                    self._dispatch_jobs(jobs, waiting)
                if not self._busy_workers():
                    break
                self._receive_messages(on_crash)
            except KeyboardInterrupt as error:
                stopped = stopped or error
                self._send_signal(
                    signal.SIGTERM if isinstance(error, TerminateInterrupt) else signal.SIGINT
                )
            except (SystemExit, BrokenPipeError, OutputError) as error:
                if not is_output_closed(error):
                    raise
                discard_output()
                stopped = stopped or OutputClosedInterrupt()
                self._send_signal(signal.SIGTERM)
        if stopped is not None:
            raise stopped

    def _busy_workers(self) -> list[_Worker]:
        return [each for each in self._workers if each.task is not None]

    def _dispatch_jobs(
        self, jobs: Iterator[tuple[int, Any]], waiting: deque[tuple[int, Any]]
    ) -> None:
        """Sends the next jobs to idle workers; starts a worker when there is a job for it."""
        while len(self._busy_workers()) < self._size:
            free = next((each for each in self._workers if each.task is None), None)
            if free is None:
                free = self._start_worker()
            found = waiting.popleft() if waiting else next(jobs, None)
            if found is None:
                return
            number, config = found
            paths = [self._output_dir / f"{number}.{kind}" for kind in ("out", "err")]
            for path in paths:
                path.touch()
            try:
                free.send_task(Task(number, config, *paths))
            except OSError:  # the job has not started, so another process runs it
                free.process.join()
                self._workers.remove(free)
                waiting.appendleft(found)

    def _start_worker(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, dict(os.environ), self._threads, self._gpus)
        process = self._context.Process(target=run_worker, args=arguments)
        process.start()
        theirs.close()
        made = _Worker(process, ours)
        self._workers.append(made)
        return made

    def _receive_messages(self, on_crash: CrashCallback) -> None:
        """Waits until a worker has finished its job, or has died."""
        busy = self._busy_workers()
        ready = connection.wait([each.connection for each in busy])
        for each in busy:
            if each.connection in ready:
                try:
                    each.connection.recv()  # the number of the finished job
                except (EOFError, OSError):
                    self._handle_exit(each, on_crash)
                else:
                    self._print_output(each)

    def _handle_exit(self, exited: _Worker, on_crash: CrashCallback) -> None:
        exited.process.join()
        self._workers.remove(exited)
        assert exited.task is not None
        number, status = exited.task.job_number, exited.process.exitcode
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        try:
            self._print_output(exited)
        finally:
            if status:
                on_crash(number, cause)

    def _print_output(self, worker: _Worker) -> None:
        task, worker.task = worker.task, None
        assert task is not None
        paths = (task.stdout_path, task.stderr_path)
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
        for path in paths:
            path.unlink()
        for text, stream in zip(texts, (sys.stdout, sys.stderr), strict=True):
            output.print_text(text, stream)

    def _send_signal(self, number: signal.Signals) -> None:
        for each in self._busy_workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.process.pid, number)


def _close_workers(workers: list[_Worker], output_dir: Path) -> None:
    for each in workers:
        each.connection.close()
    for each in workers:
        each.process.join()
    with contextlib.suppress(OSError):
        output_dir.rmdir()


def run_worker(
    connection: Connection, environment: dict[str, str], threads: int, gpus: GpuSlots | None
) -> None:
    """The main function of a worker process: runs jobs until the connection is closed or a signal
    ends a job. `environment` is that of the sweep's process."""
    output.configure_streams()
    os.setsid()  # the sweep forwards the signals of the terminal
    install_signal_handlers()
    forkserver.unblock_signals()
    gc.freeze()  # what is imported by now is never collected
    os.environ.update(environment | thread_environment(threads))
    # without the sweep's process, stop the run as SIGTERM does
    forkserver.watch_parent(lambda: os.kill(os.getpid(), signal.SIGTERM))
    gpu = gpus.acquire_slot() if gpus else contextlib.nullcontext()
    with contextlib.suppress(EOFError, KeyboardInterrupt), gpu:
        while True:
            task: Task = connection.recv()
            _run_task(task)
            connection.send(task.job_number)
    for number in (signal.SIGINT, signal.SIGTERM):  # the process is about to end
        signal.signal(number, signal.SIG_IGN)


def _run_task(task: Task) -> None:
    for path, stream in ((task.stdout_path, sys.stdout), (task.stderr_path, sys.stderr)):
        stream.flush()
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, stream.fileno())
        os.close(file)
    # HydraConfig.set_config requires Hydra's structured types, which some launchers can't pickle
    HydraConfig.instance().cfg = kept = OmegaConf.masked_copy(task.config, "hydra")
    kept.hydra._set_parent(task.config)  # for interpolations
    variables = {str(k): str(v) for k, v in task.config.hydra.job.env_set.items()}
    with env_override(variables):
        with open_dict(task.config):
            del task.config["hydra"]
        try:
            run_job(task.config)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()


def run_job(config: DictConfig) -> None:
    """Runs a job in this process, which imports torch."""
    pkgutil.resolve_name("recipe.sweep.job:run_job")(config)
