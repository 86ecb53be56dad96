"""The worker processes of a sweep: jobs handed out one at a time, and what becomes of each."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from recipe import output
from recipe.errors import OutputClosedInterrupt, OutputError, TerminateInterrupt, is_output_closed
from recipe.runner.exit_status import discard_output
from recipe.sweep.launchers import forkserver, worker
from recipe.sweep.launchers.gpu_assignment import GpuSlots
from recipe.sweep.launchers.worker import Task

CrashCallback = Callable[[int, str], None]
"""Told of the number of a job whose process ended, and of how."""


@dataclass
class _Worker:
    process: Any
    connection: Any
    """The connection."""
    task: Task | None = None

    def send_task(self, task: Task) -> None:
        """Raises OSError if the process has ended since its last job."""
        self.connection.send(task)
        self.task = task


class WorkerPool:
    """So many processes, each computing with so many threads, and on a GPU of its own where there
    are any to share out; one that dies is replaced."""

    def __init__(self, size: int, threads: int, gpus: GpuSlots | None, *, on_cpu: bool) -> None:
        """`on_cpu`: all jobs are for the CPU."""
        self._size, self._threads_per_worker, self._gpus = size, threads, gpus
        self._context = forkserver.get_context(threads) if on_cpu else forkserver.SPAWN_CONTEXT
        self._workers: list[_Worker] = []
        self._output_dir = Path(tempfile.mkdtemp(prefix="recipe-"))

    def run_jobs(self, jobs: Iterator[tuple[int, Any]], on_crash: CrashCallback) -> None:
        """Runs jobs, of which each is a number and a config; what one prints is printed as a
        whole when it ends.

        Ctrl-C and SIGTERM are handed on to the jobs, which are waited for. The jobs are ended in
        the same way when nobody reads the output any more; raises OutputClosed then.
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

    def close(self) -> None:
        """Ends the processes."""
        for each in self._workers:
            each.connection.close()
        for each in self._workers:
            each.process.join()
        with contextlib.suppress(OSError):
            self._output_dir.rmdir()

    def _busy_workers(self) -> list[_Worker]:
        return [each for each in self._workers if each.task is not None]

    def _dispatch_jobs(
        self, jobs: Iterator[tuple[int, Any]], waiting: deque[tuple[int, Any]]
    ) -> None:
        """A job to each that has none, the next ones first; a process is started when there is a
        job for it."""
        while len(self._busy_workers()) < self._size:
            free = next((each for each in self._workers if each.task is None), None)
            if free is None:
                free = self._start_worker()
            found = waiting.popleft() if waiting else next(jobs, None)
            if found is None:
                return
            number, config = found
            out, err = (self._output_dir / f"{number}.{kind}" for kind in ("out", "err"))
            for path in (out, err):
                path.touch()
            try:
                free.send_task(Task(number, config, out, err))
            except OSError:  # the job has not begun, so another process runs it
                free.process.join()
                self._workers.remove(free)
                waiting.appendleft(found)

    def _start_worker(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        given = (theirs, dict(os.environ), self._threads_per_worker, self._gpus)
        process = self._context.Process(target=worker.run_worker, args=given)
        process.start()
        theirs.close()
        made = _Worker(process, ours)
        self._workers.append(made)
        return made

    def _receive_messages(self, on_crash: CrashCallback) -> None:
        """Waits until a worker says something, or ends."""
        busy = self._busy_workers()
        ready = connection.wait([each.connection for each in busy])
        for each in busy:
            if each.connection in ready:
                try:
                    each.connection.recv()  # the number of its job, which is done
                except (EOFError, OSError):
                    self._handle_exit(each, on_crash)
                else:
                    self._print_output(each)

    def _handle_exit(self, exited: _Worker, on_crash: CrashCallback) -> None:
        exited.process.join()
        self._workers.remove(exited)
        assert exited.task is not None
        number, status = exited.task.job_number, exited.process.exitcode
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        try:
            self._print_output(exited)
        finally:
            if status:
                on_crash(number, how)

    def _print_output(self, sender: _Worker) -> None:
        """What a job has printed."""
        task, sender.task = sender.task, None
        assert task is not None
        texts = [
            path.read_text(encoding="utf-8", errors="replace")
            for path in (task.stdout_path, task.stderr_path)
        ]
        for path in (task.stdout_path, task.stderr_path):
            path.unlink()
        for text, stream in zip(texts, (sys.stdout, sys.stderr), strict=True):
            output.print_text(text, stream)

    def _send_signal(self, number: signal.Signals) -> None:
        for each in self._busy_workers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.process.pid, number)
