"""MLflow is fed by a process of its own, so that training never waits for it, not even for its
import, which takes a second or two.

One such process serves all runs of this one. It ends with it, however that ends, as it reads what
to do from a pipe.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from recipe.components.tracking import Tracking
from recipe.store import run_dirs
from recipe.store.upload_state import UploadState

FINISH_TIMEOUT = 10.0
"""Seconds without progress after which the end of a run isn't waited for any longer."""

NO_ANSWER = "the process that sends it doesn't answer"

HANG_TIMEOUT = 120.0
"""Seconds without progress after which the process itself hangs: it would have given up before."""


class RunUpload:
    """One run in MLflow, made and filled in the background."""

    def __init__(self, run_dir: Path, tracking: Tracking) -> None:
        self._run, self._tracking = run_dir, tracking
        self._process: UploadWorker | None = None

    def start(self) -> None:
        """Returns at once; `finish` is to be called all the same."""
        self._process = get_worker()
        self._process.send_request({"start": str(self._run), "tracking": asdict(self._tracking)})

    @property
    def run_id(self) -> str | None:
        sent = UploadState.read(self._run)
        return sent.mlflow_run_id if sent and sent.uri == self._tracking.uri else None

    def finish(self) -> str | None:
        """Waits until all is sent, or nothing moves any more; what MLflow lacks, if anything.

        A signal may interrupt it.
        """
        if self._process is None:
            return "it was interrupted before it began"
        return describe_missing(self._run, self._process.finish(self._run))


def describe_missing(run_dir: Path, answer: dict[str, Any]) -> str | None:
    """What MLflow lacks of a run, of how far the process came with it."""
    said = list(answer["refused"])
    if left := answer["left"]:
        sync = run_dirs.format_command("sync", run_dir.parent.parent)
        said += [answer["reason"], left if answer["gone"] else f"{sync} sends what is left, {left}"]
    return "; ".join(said) or None


class UploadWorker(Protocol):
    def send_request(self, request: dict[str, Any]) -> None: ...

    def finish(self, run_dir: Path) -> dict[str, Any]: ...


DELEGATE_WORKERS: list[UploadWorker] = []
"""What a worker of a sweep asks: its sweep, which has the only process that feeds MLflow."""


def set_delegate_worker(process: UploadWorker) -> None:
    DELEGATE_WORKERS[:] = [process]


def get_worker() -> UploadWorker:
    """The process, which is started if there is none; it imports MLflow before it is asked to do
    anything."""
    if DELEGATE_WORKERS:
        return DELEGATE_WORKERS[0]
    variables = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("MLFLOW_")))
    process = _get_cached_worker(os.getpid(), variables)
    if not process.is_alive:
        _get_cached_worker.cache_clear()
        process = _get_cached_worker(os.getpid(), variables)
    return process


def send_sweep_end(tracking: Tracking, outputs: Path, sweep_dir: Path) -> str | None:
    """Tells MLflow how a sweep of this process ended; why it didn't take it, if so."""
    process = get_worker()
    assert isinstance(process, _WorkerProcess)
    return process.send_sweep_end(tracking, outputs, sweep_dir)


@functools.lru_cache(maxsize=1)
def _get_cached_worker(owner: int, variables: tuple[tuple[str, str], ...]) -> _WorkerProcess:
    """Of this process, under the variables that MLflow reads."""
    return _WorkerProcess()


class _WorkerProcess:
    """Asked in lines of JSON; answers, when a run is finished, how far MLflow has come."""

    def __init__(self) -> None:
        self._process = _start_without_signals([sys.executable, "-m", "recipe.mlflow_sync.worker"])
        self._write_lock = threading.Lock()
        self._answers: dict[str, queue.SimpleQueue[dict[str, Any]]] = defaultdict(queue.SimpleQueue)
        self._expected_keys: set[str] = set()
        self._is_ended = False
        threading.Thread(target=self._read_answers, name="mlflow-answers", daemon=True).start()
        atexit.register(self._close)

    @property
    def is_alive(self) -> bool:
        return not self._is_ended and self._process.poll() is None

    def send_request(self, request: dict[str, Any]) -> None:
        """Does nothing if the process is gone: `finish` tells."""
        assert self._process.stdin is not None
        with self._write_lock, contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def finish(self, run_dir: Path) -> dict[str, Any]:
        with self._expect_answer(run_dir) as key:
            if self._is_ended:
                return self._make_exit_answer()
            self.send_request({"finish": key, "patience": FINISH_TIMEOUT})
            try:
                return self._wait_for_answer(run_dir)
            except BaseException:
                self.send_request({"leave": key})
                raise

    def send_sweep_end(self, tracking: Tracking, outputs: Path, sweep_dir: Path) -> str | None:
        with self._expect_answer(sweep_dir) as key:
            if self._is_ended:
                return str(self._make_exit_answer()["reason"])
            self.send_request({"tell": key, "tracking": asdict(tracking), "outputs": str(outputs)})
            try:
                answer = self._answers[key].get(timeout=HANG_TIMEOUT)
            except queue.Empty:
                return NO_ANSWER
            failure: str | None = answer.get("failure", answer.get("reason"))
            return failure

    @contextlib.contextmanager
    def _expect_answer(self, about: Path) -> Iterator[str]:
        """An answer about a run or a sweep is waited for in the block; by what it is called."""
        key = str(about)
        self._expected_keys.add(key)
        try:
            yield key
        finally:
            self._expected_keys.discard(key)
            self._answers.pop(key, None)

    def _wait_for_answer(self, run_dir: Path) -> dict[str, Any]:
        before = UploadState.read(run_dir)
        while True:
            try:
                return self._answers[str(run_dir)].get(timeout=HANG_TIMEOUT)
            except queue.Empty:
                now = UploadState.read(run_dir)
                if now == before:
                    self._is_ended = True  # the next run gets another one
                    self._process.kill()
                    return self._make_failure_answer(NO_ANSWER)
                before = now

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            self._answers[answer["run"]].put(answer)
        self._is_ended = True
        for key in list(self._expected_keys):
            self._answers[key].put(self._make_exit_answer())

    def _make_exit_answer(self) -> dict[str, Any]:
        return self._make_failure_answer(
            f"the process that sends it ended with status {self._process.wait()}"
        )

    def _make_failure_answer(self, reason: str) -> dict[str, Any]:
        return {"refused": [], "left": "lines unknown", "reason": reason, "gone": False}

    def _close(self) -> None:
        """It ends when nothing more can come; one that hangs is ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(FINISH_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _start_without_signals(command: list[str]) -> subprocess.Popen[bytes]:
    """Starts a process that Ctrl-C and SIGTERM don't reach, not even before its own code runs: a
    terminal sends them to all processes at once, and we say when this one is to end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
