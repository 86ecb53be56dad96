"""MLflow fed from a run's journals by one thread, so that nothing else ever waits for it.

A server that is down, frozen, failing or slow is tried again for as long as the run goes on.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from filelock import Timeout

from recipe import mlflow_server, runs
from recipe.mlflow_server import Gone
from recipe.sending import Sending
from recipe.tracking import Tracking

SHARE = 1 / 200
"""Part of the time that the thread computes. As Python runs one thread at a time, a second of that
costs the loop one to two seconds (benchmarks/record_cost.py); a shorter `sys.setswitchinterval`
changes nothing about it. What MLflow can't be given so quickly it gets at the end."""

BURST = 0.1
"""Seconds of computing beyond that: what a run says of itself at its start."""

SHORTEST_REST, LONGEST_REST = 1.0, 60.0
"""Seconds between two batches."""

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 10.0
"""Seconds after a failure; after each further one twice as long."""

START = 3.0
"""Seconds that a run's start waits at most for the database on its own disk: opening it takes a
second of computing, which would otherwise slow the first steps down."""

PATIENCE = 10.0
"""Seconds without progress after which the end of a run isn't waited for any longer."""

LAST = 15.0
"""The same while a call is under way."""


class Feed:
    """One run in MLflow, made and filled in the background."""

    def __init__(self, run: Path, tracking: Tracking) -> None:
        self._sending = Sending(run, tracking)
        self._problem: str | None = None
        """Why the last call failed."""
        self._over = threading.Event()
        """The thread has nothing more to do."""
        self._connected = threading.Event()
        self._wake = threading.Event()
        self._closing = self._given_up = self._gone = False
        self._progress = time.monotonic()
        self._attempts = 0
        """Calls that failed since the run ended."""
        self._waits = str(tracking.uri).startswith("sqlite:")
        self._thread = threading.Thread(target=self._run, name="mlflow-feed", daemon=True)

    def start(self) -> None:
        """A signal may interrupt it; `finish` is to be called all the same."""
        mlflow_server.prepare()
        self._thread.start()
        if self._waits:
            self._connected.wait(START)

    @property
    def run_id(self) -> str | None:
        return self._sending.sent.mlflow_run_id

    def finish(self) -> str | None:
        """Waits until all is sent, or nothing moves any more; what MLflow lacks, if anything.

        A signal may interrupt it; the thread then ends with its current call.
        """
        if self._thread.ident is None:
            self._problem = "it was interrupted before it began"
            return self._lacking()
        began = time.monotonic()
        self._closing = True
        self._wake.set()
        try:
            while not self._over.wait(0.05):
                idle = time.monotonic() - self._progress
                waited = time.monotonic() - max(began, self._progress)
                if (idle > PATIENCE and self._attempts) or waited > LAST:
                    break
        finally:
            self._given_up = True
            self._wake.set()
        return self._lacking()

    def _lacking(self) -> str | None:
        sent = self._sending.sent
        said = list(sent.problems)
        if left := sent.left(self._sending.run):
            said.append(self._problem or "it takes too long")
            sync = runs.command("sync", self._sending.run.parent.parent)
            said.append(left if self._gone else f"{sync} sends what is left, {left}")
        return "; ".join(said) or None

    def _run(self) -> None:
        try:
            while not self._given_up:
                try:
                    with self._sending.sole():
                        return self._send()
                except Timeout:  # `sync` may be at it
                    self._problem = "another process is sending it"
                    self._rest(SHORTEST_PAUSE)
        except Gone as error:
            self._problem, self._gone = str(error), True
        finally:
            self._connected.set()
            self._over.set()

    def _send(self) -> None:
        pause, since = SHORTEST_PAUSE, None
        while not self._given_up:
            try:
                self._sending.connect()
                since = since or (time.monotonic(), time.thread_time())
                self._connected.set()
                ended = self._closing  # asked first, as the end may be written at any moment
                more = self._sending.piece()
            except Gone:
                raise
            except Exception as error:  # whatever MLflow raises, training goes on
                self._problem = mlflow_server.reason(error)
                self._attempts += self._closing
                self._connected.set()
                mlflow_server.give_more_time(error)
                self._rest(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._progress, self._problem, pause = time.monotonic(), None, SHORTEST_PAUSE
            if ended and not more:
                return
            if not self._closing:
                passed, computed = time.monotonic() - since[0], time.thread_time() - since[1]
                owed = (computed - BURST) / SHARE - passed
                self._rest(min(max(owed, 0 if more else SHORTEST_REST), LONGEST_REST))

    def _rest(self, seconds: float) -> None:
        """Until then, or until the run ends; a run that has ended waits a second at most."""
        if self._closing:
            time.sleep(min(seconds, 1.0))
        else:
            self._wake.wait(seconds)
