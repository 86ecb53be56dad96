"""The worker processes of a sweep: jobs handed out one at a time, and what becomes of each."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from recipe import output
from recipe.errors import OutputClosed, OutputError, Terminated, is_output_closed
from recipe.mlflow_sync import worker_process
from recipe.runner.exit_status import discard_output
from recipe.sweep.launchers import forkserver, worker
from recipe.sweep.launchers.gpu_assignment import Gpus
from recipe.sweep.launchers.worker import Task

Died = Callable[[int, str], None]
"""Told of the number of a job whose process ended, and of how."""


@dataclass
class _Worker:
    process: Any
    tasks: Any
    """The connection."""
    task: Task | None = None

    def give(self, task: Task) -> None:
        """Raises OSError if the process has ended since its last job."""
        self.tasks.send(task)
        self.task = task


class Crew:
    """So many processes, each computing with so many threads, and on a GPU of its own where there
    are any to share out; one that dies is replaced."""

    def __init__(self, size: int, threads: int, gpus: Gpus | None, *, on_cpu: bool) -> None:
        """`on_cpu`: all jobs are for the CPU."""
        self._size, self._threads, self._gpus = size, threads, gpus
        self._context = forkserver.context(threads) if on_cpu else forkserver.SPAWN
        self._workers: list[_Worker] = []
        self._folder = Path(tempfile.mkdtemp(prefix="recipe-"))
        self._finishing: list[threading.Thread] = []
        self._lacking: list[str] = []

    def run(self, jobs: Iterator[tuple[int, Any]], died: Died) -> None:
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
                    self._hand_out(jobs, waiting)
                if not self._busy():
                    break
                self._listen(died)
            except KeyboardInterrupt as error:
                stopped = stopped or error
                self._signal(signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
            except (SystemExit, BrokenPipeError, OutputError) as error:
                if not is_output_closed(error):
                    raise
                discard_output()
                stopped = stopped or OutputClosed()
                self._signal(signal.SIGTERM)
        if stopped is not None:
            raise stopped

    def dismiss(self) -> Sequence[str]:
        """Ends the processes; what MLflow lacks of their runs, of each that it lacks any of."""
        for each in self._workers:
            each.tasks.close()
        for each in self._workers:
            each.process.join()
        with contextlib.suppress(OSError):
            self._folder.rmdir()
        return self.settle()

    def settle(self) -> Sequence[str]:
        """Waits until MLflow has what ended, or nothing moves any more; what it lacks."""
        while self._finishing:
            self._finishing.pop().join()
        lacking, self._lacking = self._lacking, []
        return lacking

    def _busy(self) -> list[_Worker]:
        return [each for each in self._workers if each.task is not None]

    def _hand_out(self, jobs: Iterator[tuple[int, Any]], waiting: deque[tuple[int, Any]]) -> None:
        """A job to each that has none, the next ones first; a process is started when there is a
        job for it."""
        while len(self._busy()) < self._size:
            free = next((each for each in self._workers if each.task is None), None)
            if free is None:
                free = self._start()
            found = waiting.popleft() if waiting else next(jobs, None)
            if found is None:
                return
            number, config = found
            out, err = (self._folder / f"{number}.{kind}" for kind in ("out", "err"))
            for path in (out, err):
                path.touch()
            try:
                free.give(Task(number, config, out, err))
            except OSError:  # the job has not begun, so another process runs it
                free.process.join()
                self._workers.remove(free)
                waiting.appendleft(found)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        given = (theirs, dict(os.environ), self._threads, self._gpus)
        process = self._context.Process(target=worker.main, args=given)
        process.start()
        theirs.close()
        made = _Worker(process, ours)
        self._workers.append(made)
        return made

    def _listen(self, died: Died) -> None:
        """Waits until a worker says something, or ends."""
        busy = self._busy()
        ready = connection.wait([each.tasks for each in busy])
        for each in busy:
            if each.tasks in ready:
                try:
                    said = each.tasks.recv()
                except (EOFError, OSError):
                    self._bury(each, died)
                else:
                    self._hear(each, said)

    def _hear(self, speaker: _Worker, said: dict[str, Any]) -> None:
        if "done" in said:
            self._show(speaker)
        elif "ask" in said:
            worker_process.started().ask(said["ask"])
        elif "finish" in said:
            thread = threading.Thread(target=self._finish, args=(Path(said["finish"]),))
            thread.daemon = True
            thread.start()
            self._finishing.append(thread)

    def _finish(self, run: Path) -> None:
        answer = worker_process.started().finish(run)
        if lacking := worker_process.lacking(run, answer):
            self._lacking.append(f"{run.name}: {lacking}")

    def _bury(self, dead: _Worker, died: Died) -> None:
        dead.process.join()
        self._workers.remove(dead)
        assert dead.task is not None
        number, status = dead.task.number, dead.process.exitcode
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        try:
            self._show(dead)
        finally:
            if status:
                died(number, how)

    def _show(self, done: _Worker) -> None:
        """What a job has printed."""
        task, done.task = done.task, None
        assert task is not None
        texts = [
            path.read_text(encoding="utf-8", errors="replace") for path in (task.out, task.err)
        ]
        for path in (task.out, task.err):
            path.unlink()
        for text, stream in zip(texts, (sys.stdout, sys.stderr), strict=True):
            output.write(text, stream)

    def _signal(self, number: signal.Signals) -> None:
        for each in self._busy():
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.process.pid, number)
