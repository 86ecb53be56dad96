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
from recipe.store.upload_state import Sent

PATIENCE = 10.0
"""Seconds without progress after which the end of a run isn't waited for any longer."""

HANGS = "the process that sends it doesn't answer"

SILENCE = 120.0
"""Seconds without progress after which the process itself hangs: it would have given up before."""


class Feed:
    """One run in MLflow, made and filled in the background."""

    def __init__(self, run: Path, tracking: Tracking) -> None:
        self._run, self._tracking = run, tracking
        self._process: Process | None = None

    def start(self) -> None:
        """Returns at once; `finish` is to be called all the same."""
        self._process = started()
        self._process.ask({"start": str(self._run), "tracking": asdict(self._tracking)})

    @property
    def run_id(self) -> str | None:
        sent = Sent.read(self._run)
        return sent.mlflow_run_id if sent and sent.uri == self._tracking.uri else None

    def finish(self) -> str | None:
        """Waits until all is sent, or nothing moves any more; what MLflow lacks, if anything.

        A signal may interrupt it.
        """
        if self._process is None:
            return "it was interrupted before it began"
        return lacking(self._run, self._process.finish(self._run))


def lacking(run: Path, answer: dict[str, Any]) -> str | None:
    """What MLflow lacks of a run, of how far the process came with it."""
    said = list(answer["refused"])
    if left := answer["left"]:
        sync = run_dirs.command("sync", run.parent.parent)
        said += [
            answer["reason"],
            left if answer["gone"] else f"{sync} sends what is left, {left}",
        ]
    return "; ".join(said) or None


class Process(Protocol):
    def ask(self, what: dict[str, Any]) -> None: ...

    def finish(self, run: Path) -> dict[str, Any]: ...


INSTEAD: list[Process] = []
"""What a worker of a sweep asks: its sweep, which has the only process that feeds MLflow."""


def ask_instead(process: Process) -> None:
    INSTEAD[:] = [process]


def started() -> Process:
    """The process, which is started if there is none; it imports MLflow before it is asked to do
    anything."""
    if INSTEAD:
        return INSTEAD[0]
    variables = tuple(sorted((k, v) for k, v in os.environ.items() if k.startswith("MLFLOW_")))
    process = _for(os.getpid(), variables)
    if not process.alive:
        _for.cache_clear()
        process = _for(os.getpid(), variables)
    return process


def tell(tracking: Tracking, outputs: Path, sweep: Path) -> str | None:
    """Tells MLflow how a sweep of this process ended; why it didn't take it, if so."""
    process = started()
    assert isinstance(process, _Process)
    return process.tell(tracking, outputs, sweep)


@functools.lru_cache(maxsize=1)
def _for(owner: int, variables: tuple[tuple[str, str], ...]) -> _Process:
    """Of this process, under the variables that MLflow reads."""
    return _Process()


class _Process:
    """Asked in lines of JSON; answers, when a run is finished, how far MLflow has come."""

    def __init__(self) -> None:
        self._process = _deaf([sys.executable, "-m", "recipe.mlflow_sync.worker"])
        self._asking = threading.Lock()
        self._answers: dict[str, queue.SimpleQueue[dict[str, Any]]] = defaultdict(queue.SimpleQueue)
        self._waiting: set[str] = set()
        self._ended = False
        threading.Thread(target=self._listen, name="mlflow-answers", daemon=True).start()
        atexit.register(self._close)

    @property
    def alive(self) -> bool:
        return not self._ended and self._process.poll() is None

    def ask(self, what: dict[str, Any]) -> None:
        """Does nothing if the process is gone: `finish` tells."""
        assert self._process.stdin is not None
        with self._asking, contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()

    def finish(self, run: Path) -> dict[str, Any]:
        with self._expecting(run) as key:
            if self._ended:
                return self._gone()
            self.ask({"finish": key, "patience": PATIENCE})
            try:
                return self._answer(run)
            except BaseException:
                self.ask({"leave": key})
                raise

    def tell(self, tracking: Tracking, outputs: Path, sweep: Path) -> str | None:
        with self._expecting(sweep) as key:
            if self._ended:
                return str(self._gone()["reason"])
            self.ask({"tell": key, "tracking": asdict(tracking), "outputs": str(outputs)})
            try:
                answer = self._answers[key].get(timeout=SILENCE)
            except queue.Empty:
                return HANGS
            failure: str | None = answer.get("failure", answer.get("reason"))
            return failure

    @contextlib.contextmanager
    def _expecting(self, about: Path) -> Iterator[str]:
        """An answer about a run or a sweep is waited for in the block; by what it is called."""
        key = str(about)
        self._waiting.add(key)
        try:
            yield key
        finally:
            self._waiting.discard(key)
            self._answers.pop(key, None)

    def _answer(self, run: Path) -> dict[str, Any]:
        before = Sent.read(run)
        while True:
            try:
                return self._answers[str(run)].get(timeout=SILENCE)
            except queue.Empty:
                now = Sent.read(run)
                if now == before:
                    self._ended = True  # the next run gets another one
                    self._process.kill()
                    return self._unsent(HANGS)
                before = now

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            self._answers[answer["run"]].put(answer)
        self._ended = True
        for key in list(self._waiting):
            self._answers[key].put(self._gone())

    def _gone(self) -> dict[str, Any]:
        return self._unsent(f"the process that sends it ended with status {self._process.wait()}")

    def _unsent(self, reason: str) -> dict[str, Any]:
        return {"refused": [], "left": "lines unknown", "reason": reason, "gone": False}

    def _close(self) -> None:
        """It ends when nothing more can come; one that hangs is ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _deaf(command: list[str]) -> subprocess.Popen[bytes]:
    """Starts a process that Ctrl-C and SIGTERM don't reach, not even before its own code runs: a
    terminal sends them to all processes at once, and we say when this one is to end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
